"""`router_metadata` is spliced into any JSON object, and into nothing else."""

import json

from hypothesis import given
from hypothesis import strategies as st

from router.jobs import metadata

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


# Runs of spaces: the longest that may follow an object, one shorter, and one longer.
pieces = st.sampled_from(
    [b"{", b"}", b"{}", b" ", b"\n", b",", b'"a":1', b"[1]", b"", b" " * 4095, b"\t" * 4096, b" " * 4097]
)


ADDED = metadata.member("http://a:1", 2) + b"34}"


METADATA = {"worker_url": "http://a:1", "attempt": 2, "queue_ms": 34}


@given(st.dictionaries(st.text(), json_values), st.sampled_from([None, 2]), st.text(" \n\r\t", max_size=3))
def test_metadata_is_the_last_key_of_any_object(value: dict[str, object], indent: int | None, space: str) -> None:
    """The result equals parsing the object, adding the metadata and dumping it."""
    value.pop("router_metadata", None)
    body = (space + json.dumps(value, indent=indent) + space).encode()
    spliced = metadata.splice(body, ADDED)
    assert json.loads(spliced) == {**value, "router_metadata": METADATA}
    assert list(json.loads(spliced))[-1] == "router_metadata"


@given(json_values.filter(lambda value: not isinstance(value, dict)))
def test_other_json_is_unchanged(value: object) -> None:
    """Lists, strings and numbers come back byte for byte."""
    body = json.dumps(value).encode()
    assert metadata.splice(body, ADDED) == body


@given(
    st.lists(pieces, max_size=12)
    | json_values.map(lambda value: [bytes([byte]) for byte in json.dumps(value).encode()]),
    st.booleans(),
)
def test_body_in_parts_is_spliced_like_the_whole(parts: list[bytes], is_view: bool) -> None:
    """The cuts do not matter, and little of the body is held back."""
    splicer = metadata.Splicer(ADDED)
    passed: list[bytes | memoryview] = []
    for number, part in enumerate(parts, start=1):
        passed.append(splicer.feed(memoryview(part) if is_view else part))
        assert len(b"".join(parts[:number])) - len(b"".join(passed)) <= 4097
    passed.append(splicer.end())
    assert b"".join(passed) == metadata.splice(b"".join(parts), ADDED)
