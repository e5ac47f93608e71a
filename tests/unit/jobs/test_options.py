"""What few jobs say of themselves is read from header fields, and a bad value is named."""

import pytest

from router.http.headers import read_head
from router.jobs.endpoints import BadOption, options_of
from router.jobs.options import NO_OPTIONS, JobOptions


def test_job_without_the_fields_has_no_options() -> None:
    """Most jobs have none of the fields, and share one value for that."""
    assert options_of(read_head([(b"host", b"router")])) is NO_OPTIONS


def test_options_are_read_and_not_forwarded() -> None:
    """Each field has its option, and the worker gets none of them."""
    head = read_head(
        [
            (b"x-router-expected-ms", b"1500"),
            (b"x-router-size-key", b"problem/7"),
            (b"x-router-reuse", b"0"),
            (b"x-router-group", b"solution-3"),
            (b"x-router-stop-on", b"failure"),
        ]
    )
    assert options_of(head) == JobOptions(1500, "problem/7", 0, "solution-3", stops_on_failure=True)
    assert head.lines == b""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"x-router-expected-ms", b"0"),
        (b"x-router-expected-ms", b"1e3"),
        (b"x-router-expected-ms", b"9" * 5000),
        (b"x-router-expected-ms", b""),
        (b"x-router-size-key", b"a b"),
        (b"x-router-size-key", b"x" * 129),
        (b"x-router-reuse", b"-1"),
        (b"x-router-group", b"\xff"),
        (b"x-router-stop-on", b"success"),
    ],
)
def test_bad_option_is_refused_by_name(field: bytes, value: bytes) -> None:
    """A value that cannot be meant is an error that names its field."""
    with pytest.raises(BadOption, match=field.decode()):
        options_of(read_head([(field, value)]))
