"""What gunicorn's master tells its processes of reloads."""

import os

from router.downstream.notices import Notices


def test_forked_process_hears_of_reloads_after_its_begin() -> None:
    """It hears each once, from memory that it shares with its parent, also of flaws longer than that memory."""
    notices = Notices()
    notices.put("before")
    notices.begin()
    assert notices.take() is None
    if (child := os.fork()) == 0:
        notices.put("ü" * 5000)
        os._exit(0)
    os.waitpid(child, 0)
    told = notices.take()
    assert told is not None
    assert 1000 < len(told) < 5000
    assert set(told) == {"ü"}
    assert notices.take() is None
    notices.put()
    assert notices.take() == ""
