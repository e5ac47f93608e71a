"""A part of the process lasts through its own faults."""

import pytest

from router import aio


async def test_part_begins_again_after_a_fault_that_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same fault twice is one message, another one is another; a part that returns has done its work."""
    monkeypatch.setattr(aio, "AGAIN_S", 0.0)
    faults = [TypeError("one"), TypeError("one"), ValueError("other")]

    async def run() -> None:
        if faults:
            raise faults.pop(0)

    await aio.lasting(run)
    assert not faults
    assert [str(record.exc_info and record.exc_info[1]) for record in caplog.records] == ["one", "other"]
