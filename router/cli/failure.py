"""How a command fails: the exit statuses of all commands, and the errors that end a command with a message.

It imports nothing heavy, because every command loads it.
"""

from enum import IntEnum


class Exit(IntEnum):
    """The exit statuses of `sfr`; docs/operations.md and docs/batch.md explain them."""

    DONE = 0
    FAILED = 1  # the request was refused, or some jobs failed
    BAD_INPUT = 2
    UNREACHABLE = 3
    NO_TOKEN = 4
    # As POSIX shells have them.
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127
    SIGNALLED = 128  # plus the signal's number
    INTERRUPTED = 130  # Ctrl-C


class Failed(Exception):
    """The command cannot do its work; the message is one line, `status` the exit status.

    `was_sent` False: the request has not left this process, so no router can have acted on it.
    """

    def __init__(self, message: str, status: int, *, was_sent: bool = True) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status
        self.was_sent = was_sent


class BadInput(Failed):
    """An argument or a file cannot be used; the message names it, and says what was expected."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Exit.BAD_INPUT)
