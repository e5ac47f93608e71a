"""Limits of numbers from outside: from config.yaml, Redis, the API and the command line."""

# A weight is a number of turns in the ring. 100 is enough between the slowest and the fastest worker, and keeps the
# ring small.
MAX_WEIGHT = 100
# For caps and other counts: more than any fleet has, and exact in Lua, JSON and JavaScript.
MAX_COUNT = 10**9
# 1 PB: more than any host has.
MAX_MEMORY_MB = 2**30
# A tenant's weight divides its running jobs, so it needs no places in a ring.
MAX_TENANT_WEIGHT = 1000
# A tenant's priority is from -MAX_PRIORITY to MAX_PRIORITY.
MAX_PRIORITY = 100
# No worker counts as more times faster or slower than the fleet's median.
MAX_SPEED = 20
# A week: no job is expected to take longer, nor is a result of use for longer.
MAX_EXPECTED_MS = 7 * 24 * 3_600_000
MAX_REUSE_S = 7 * 24 * 3600
# Answers that are kept go through Redis' script, and a large one holds it up.
MAX_REUSE_KB = 256
# A client that comes back comes within seconds.
MAX_ADOPT_S = 3600
# More processes of one kind than any host has use for.
MAX_PROCESSES = 1000
# What a command waits for, or says of a worker, ends within four months.
MAX_WAIT_S = 10**7


def whole_number(text: str, least: int, most: int) -> int | None:
    """Return the whole number that `text` holds; None if there is none, or if it is not from `least` to `most`.

    >>> [whole_number(text, 1, 100) for text in ("7", "0", "1e2", "-1", "9" * 5000)]
    [7, None, None, None, None]
    """
    # The length is checked first, because Python raises an error for thousands of digits.
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most))):
        return None
    return number if least <= (number := int(text)) <= most else None


def decimal_number(text: str, most: float) -> float | None:
    """Return the number above 0 that `text` holds; None if there is none, or if it is above `most`.

    >>> [decimal_number(text, 100) for text in ("7", "0.5", "0", "nan", "1e9", "x")]
    [7.0, 0.5, None, None, None, None]
    """
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number <= most else None
