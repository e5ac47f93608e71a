"""The format of a log line, as text and as JSON."""

import json
import logging
import logging.config
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from router.logs import log_config


@pytest.fixture(params=["text", "json"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The value of LOG_FORMAT."""
    monkeypatch.setenv("LOG_FORMAT", request.param)
    wanted: str = request.param
    return wanted


@pytest.fixture
def _in_kathmandu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host whose clock is 5:45 h ahead of UTC."""
    monkeypatch.setenv("TZ", "NPT-5:45")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def line(record: logging.LogRecord) -> str:
    """Return `record` as a formatted line."""
    formatters = logging.config.DictConfigurator(log_config())
    formatter: logging.Formatter = formatters.configure_formatter(log_config()["formatters"]["line"])
    return formatter.format(record)


@pytest.mark.usefixtures("_in_kathmandu")
def test_time_of_a_line_has_its_zone(form: str) -> None:
    """With its zone, lines of hosts in different zones can be put in order."""
    record = logging.makeLogRecord({"msg": "hello", "levelname": "INFO", "created": 1_800_000_000.125})
    written = line(record)
    moment = datetime.fromisoformat(json.loads(written)["time"] if form == "json" else written.split()[0])
    assert moment.timestamp() == record.created
    assert moment.utcoffset() == (timedelta(0) if form == "json" else timedelta(hours=5, minutes=45))
    assert written == "2027-01-15T13:45:00.125+05:45 INFO hello" or form == "json"
