"""Says why a connection failed, in the same words on every version of Python.

Python's own messages vary: some hold line numbers of its source (`_ssl.c:1006`), and the one for a bad host name
changed with 3.12 and again with 3.13.
"""

import os
import ssl


def reason(error: Exception) -> str:
    """Return the reason without its subject, such as `Connection refused`.

    >>> reason(ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"))
    'Connection refused'
    >>> reason(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"))
    'wrong version number'
    """
    cause = getattr(error, "os_error", error)  # aiohttp wraps the system's error
    if isinstance(cause, UnicodeError):
        return "its host cannot be a name in DNS"
    told: str = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    if isinstance(cause, ssl.SSLError):  # its errno is OpenSSL's, not the system's
        return told.partition("] ")[2].rpartition(" (")[0] or told
    number = getattr(cause, "errno", None) or 0
    return os.strerror(number) if number > 0 else told
