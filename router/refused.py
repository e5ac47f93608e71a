"""What the end of a parser means to a client."""

import httptools

from router.policy.request_head import Refusal, malformed


class Refused(Exception):
    """Raised in a parser's callback: the request is not served."""

    def __init__(self, reason: Refusal) -> None:
        self.reason = reason


def reason_of(error: httptools.HttpParserError) -> Refusal:
    """Return why the parser went no further: by a callback of ours, or by itself."""
    if isinstance(error.__context__, Refused):
        return error.__context__.reason
    if isinstance(error, httptools.HttpParserCallbackError):  # what else a head's end does is to parse the target
        return malformed("invalid target")
    return malformed(str(error))
