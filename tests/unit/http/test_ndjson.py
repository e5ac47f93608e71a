"""Lines and items are found wherever parts begin and end, and whatever they contain."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cli.run.job_file import JobLines
from router.http.ndjson import Line, Lines, fits_a_line, in_one_line, trimmed
from router.http.ndjson import flaw as look_for_flaw
from router.http.ndjson import flaw_as_job as look_for_flaw_as_job
from router.policy.large_json import finished, items

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\\n[]{},:é😀') | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"]},\\'), inner, max_size=3),
)


def flaw(text: bytes) -> str | None:
    """Return the reason why a text is not JSON, or None."""
    return finished(look_for_flaw(text))


def flaw_as_job(text: bytes) -> str | None:
    """Return the reason why a text is not a job, or None."""
    return finished(look_for_flaw_as_job(text))


def found(text: bytes) -> list[bytes]:
    """Return the items of a list."""
    return [text[slice(*place)] for place in items(text) if place is not None]


def line_of(body: bytes) -> bytes:
    """Return a body in one line."""
    return b"".join(in_one_line(body, fits=finished(fits_a_line(body))))


def cut(text: bytes, places: list[float]) -> list[bytes]:
    """Return `text` in parts, cut at these shares of its length."""
    at = [0, *sorted(int(place * len(text)) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(at)]


def fed(lines: Lines, parts: list[bytes]) -> list[Line]:
    """Return all lines of these parts."""
    return [*(line for part in parts for line in lines.feed(part)), *lines.end()]


@given(st.lists(st.binary(max_size=9).map(lambda text: text.replace(b"\n", b"x"))), st.lists(st.floats(0, 1)))
def test_lines_are_found_however_they_are_cut(texts: list[bytes], places: list[float]) -> None:
    """All lines are found and numbered from 1; one that is too long has no text and does not affect the others."""
    lines = Lines(max_bytes=6)
    got = fed(lines, cut(b"".join(text + b"\n" for text in texts), places))
    assert got == [Line(number, text if len(text) <= 6 else None) for number, text in enumerate(texts, 1)]
    assert lines.held_bytes == 0


@given(st.lists(st.binary(max_size=20)))
def test_memory_of_a_line_is_limited(parts: list[bytes]) -> None:
    """This also holds for a line without an end."""
    lines = Lines(max_bytes=6)
    for part in parts:
        list(lines.feed(part))
        assert lines.held_bytes <= 6


def test_last_line_needs_no_end() -> None:
    """This holds for a complete line, for one that is too long, and for one that was given up."""
    assert fed(Lines(9), [b"a\nb"]) == [(1, b"a"), (2, b"b")]
    assert fed(Lines(1), [b"a\nbb"]) == [(1, b"a"), (2, None)]
    lines = Lines(9)
    assert not list(lines.feed(b"a"))
    lines.skip()
    assert (lines.held_bytes, fed(lines, [b"b\nc"])) == (0, [(1, None), (2, b"c")])


@given(st.lists(values), st.sampled_from([None, 1]), st.booleans())
def test_items_equal_those_of_a_parser(told: list[object], indent: int | None, ascii_only: bool) -> None:
    """Brackets, commas and escapes in strings do not matter."""
    text = json.dumps(told, indent=indent, ensure_ascii=ascii_only).encode()
    assert [json.loads(item) for item in found(b" \n" + text + b" ")] == told


def test_long_strings_full_of_escapes_are_one_token() -> None:
    """Their matching takes no memory for each escape."""
    text = json.dumps(["\\" * 2**20, '"' * 2**20]).encode()
    assert [len(json.loads(item)) for item in found(text)] == [2**20, 2**20]


@pytest.mark.parametrize("text", [b"{}", b' {"a": NaN}', rb'{"a": "\ud800"}', b'{"a": "\xff"}'])
def test_text_that_a_worker_may_accept_is_a_job(text: bytes) -> None:
    """Half a surrogate pair, NaN and bytes that are not UTF-8 are left to the worker to judge."""
    assert (flaw_as_job(text) is None) == (b"\xff" not in text or flaw(text) is None)


@pytest.mark.parametrize("text", [b"", b"x", b"{", b'{"a": }', b"{} {}", b"[" * 100_000, b'{"a":' * 100_000, b"\xff"])
def test_invalid_json_has_a_reason(text: bytes) -> None:
    """The message says what is wrong."""
    assert flaw(text)
    assert str(flaw_as_job(text)).startswith("expected a JSON object: ")


@pytest.mark.parametrize("text", [b"[]", b"1", b'"{"', b"null"])
def test_json_without_an_object_is_no_job(text: bytes) -> None:
    """Well-formed JSON of another type is refused."""
    assert flaw_as_job(text) == "expected a JSON object"


@given(values, st.sampled_from([None, 2]))
def test_json_in_one_line_means_the_same(told: object, indent: int | None) -> None:
    """Line ends, which can be only between tokens, are replaced."""
    line = line_of(json.dumps(told, indent=indent, ensure_ascii=False).replace("\n", "\r\n").encode())
    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line) == told


@given(st.binary())
def test_any_input_becomes_json_in_one_line(body: bytes) -> None:
    """Garbage becomes a string."""
    line = line_of(body)
    assert b"\n" not in line
    json.loads(line)


def test_byte_order_mark_before_a_job_is_dropped() -> None:
    """The mark may begin the file or a line, and the job's digest is that of the line without it."""
    plain, marked = JobLines("jobs", lambda _: False), JobLines("jobs", lambda _: False)
    text = b'{"a": 1}\n {"b": 2}\r\n\n{"c": 3}'
    bom = b"\xef\xbb\xbf"
    marked_text = bom + text.replace(b"\n{", b"\n" + bom + b"{").replace(b" {", b" " + bom + b"{")
    wanted = [*plain.feed(text), *plain.feed(b"")]
    assert [job.text for job in wanted] == [b'{"a": 1}', b'{"b": 2}', b'{"c": 3}']
    assert [*marked.feed(marked_text), *marked.feed(b"")] == wanted


@pytest.mark.parametrize("size", [10, 2**18 + 10])
def test_space_around_a_line_is_dropped(size: int) -> None:
    """A large line is not copied for that."""
    body = b'{"a": "%s"}' % (b"x" * size)
    assert bytes(trimmed(b" \xef\xbb\xbf\t" + body + b" \r")) == body
