"""How large numbers from outside may be, wherever they come from: config.yaml, Redis, the API, the command line."""

# A weight is a number of turns in the ring: 100 tells the slowest from the fastest worker, and bounds the ring.
MAX_WEIGHT = 100
# Of caps and other counts: more than any fleet has, and a number to all who read it (Lua, JSON, JavaScript).
MAX_COUNT = 10**9


def whole_number(text: str, least: int, most: int) -> int | None:
    """Return the number that `text` is; None where it is none, or not from `least` to `most`.

    >>> [whole_number(text, 1, 100) for text in ("7", "0", "1e2", "-1", "9" * 5000)]
    [7, None, None, None, None]
    """
    # Python refuses to read thousands of digits, with another error than for other texts.
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most))):
        return None
    return number if least <= (number := int(text)) <= most else None
