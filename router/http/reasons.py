"""Says why a connection failed, in words that are the same on every Python.

Python's own are not: they hold line numbers of its source (`_ssl.c:1006`), and what it says of a bad host name changed
with 3.12 and with 3.13.
"""

import os
import ssl


def reason(error: Exception) -> str:
    """Return why, without the subject: `Connection refused`.

    >>> reason(ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"))
    'Connection refused'
    >>> reason(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"))
    'wrong version number'
    """
    cause = getattr(error, "os_error", error)  # what aiohttp wraps
    if isinstance(cause, UnicodeError):
        return "its host cannot be a name in DNS"
    told: str = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    if isinstance(cause, ssl.SSLError):  # its numbers are not the system's
        return told.partition("] ")[2].rpartition(" (")[0] or told
    number = getattr(cause, "errno", None) or 0
    return os.strerror(number) if number > 0 else told
