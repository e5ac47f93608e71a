"""How long a job may take: by the limits in its body, as its worker reads them, and by its client's deadline."""

import json
import re
from math import inf, isnan, nan

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from router.config.load import ConfigError, parse
from router.policy import large_json
from router.policy.deadline import ClientBudget, limits_of
from router.policy.endpoints import SANDBOX_FUSION, endpoints_of
from router.policy.large_json import Fields, Malformed, finished, items, walk

RUN = "/run_code"


class RunCode(BaseModel):
    """SandboxFusion's model of a job's limits."""

    compile_timeout: float = 10
    run_timeout: float = 10


def as_worker(body: bytes) -> float | None:
    """Return how long a worker would run this body, or None if it refuses it; a negative limit counts as 0."""
    try:
        told = RunCode.model_validate(json.loads(body))
    except (ValueError, RecursionError):
        return None
    seconds = [told.compile_timeout, told.run_timeout]
    total = sum(s if isnan(s) else max(0.0, s) for s in seconds)
    return total if total > 0 else None


def longest_s(body: bytes, path: str = RUN) -> float | None:
    """Return the limit that we read, and check that the excerpt of a large body gives the same."""
    reader = SANDBOX_FUSION[path].reader
    found = reader.longest_s(body)
    try:
        excerpt = finished(reader.excerpt(body))
    except Malformed:
        excerpt = b""
    if found is not None and not body.decode("utf-8", "replace").isspace():
        assert reader.longest_s(excerpt) == found
    return found


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text('ab"\\\n[]{},:é😀\ud800')
    | st.sampled_from(["1", " 2.5 ", "1_0", "1e3", "nan", "-inf", "0x1", "1_", "", "run_timeout"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["run_timeout", "a"]), inner, max_size=3)
    ),
    max_leaves=12,
)
numbers = (
    st.floats()
    | st.integers()
    | st.integers(10**300, 10**320)
    | st.booleans()
    | st.text("0123456789_.eE+- naif", max_size=9)
)
members = st.lists(
    st.tuples(st.sampled_from(["compile_timeout", "run_timeout"]), numbers | values)
    | st.tuples(st.sampled_from(["code", "files", 'run_timeout"', "RUN_TIMEOUT"]), values),
    max_size=6,
)


def written(told: list[tuple[str, object]], *, is_escaped: bool, indent: str) -> bytes:
    """Return a JSON object with these members, among which a name may be repeated."""
    parts = []
    for name, value in told:
        key = json.dumps(name)
        if is_escaped:
            key = key.replace("t", "\\u0074")
        parts.append(f"{indent}{key}{indent}:{indent}{json.dumps(value)}{indent}")
    return ("{" + ",".join(parts) + "}").encode()


@settings(max_examples=500, deadline=None)
@given(members, st.booleans(), st.sampled_from(["", " ", "\n\t"]), st.sampled_from([b"", b"\xef\xbb\xbf"]))
def test_limits_equal_those_that_the_worker_reads(
    told: list[tuple[str, object]], is_escaped: bool, indent: str, mark: bytes
) -> None:
    """This holds for numbers, words, strings, repeated or escaped names, NaN, and half surrogate pairs elsewhere."""
    assume(all(value is not None for name, value in told))  # SandboxFusion's forks treat it as missing
    body = mark + written(told, is_escaped=is_escaped, indent=indent)
    assert longest_s(body) == as_worker(body)


@pytest.mark.parametrize(
    ("path", "body", "seconds"),
    [
        (RUN, b'{"code": "x"}', 20),
        (RUN, b'{"code": "x", "run_timeout": 3}', 13),
        (RUN, b'{"code": "x", "compile_timeout": 1.5, "run_timeout": 60}', 61.5),
        (RUN, b'{"compile_timeout": null, "run_timeout": null}', 20),
        (RUN, b'{"run_timeout": "3"}', 13),
        (RUN, b'{"run_timeout": true}', 11),
        (RUN, b'{"run_timeout": 1, "x": NaN}', 11),
        (RUN, rb'{"run_timeout": 1, "code": "\ud800"}', 11),
        (RUN, b'\xef\xbb\xbf{"run_timeout": 1}', 11),
        (RUN, b'{"run_timeout": 1, "run_timeout": 2}', 12),
        (RUN, b'{"files": {"run_timeout": 5}, "code": "\\"run_timeout\\": 7"}', 20),
        (RUN, b'{"run_timeout": -30}', 10),
        (RUN, b'{"run_timeout": 1e308, "compile_timeout": 1e308}', float("inf")),
        (RUN, b'{"run_timeout": 1e999}', float("inf")),
        (RUN, b'{"run_timeout": NaN}', None),
        (RUN, b'{"run_timeout": 1%s}' % (b"0" * 5000), None),
        (RUN, b'{"run_timeout": [1]}', None),
        (RUN, b'{"run_timeout": 1, "a": %s}' % (b"[" * 60_000), None),
        (RUN, b'{"run_timeout": 1, "a": %s%s}' % (b"[" * 30_000, b"]" * 30_000), None),
        (RUN, b"[1, 2]", None),
        (RUN, b"no JSON", None),
        (RUN, b'{"code": "\xff"}', 20),
        ("/run_jupyter", b'{"cells": []}', 55),
        ("/run_jupyter", b'{"cells": [], "total_timeout": "5"}', 15),
        ("/submit", b'{"run_timeout": 3}', None),
        ("/list_datasets", b"", None),
    ],
)
def test_longest_run_is_read_from_the_body(path: str, body: bytes, seconds: float | None) -> None:
    """The worker's defaults apply, and a body that the worker refuses has no limit."""
    assert SANDBOX_FUSION[path].reader.longest_s(body) == seconds


@given(st.lists(values, max_size=5), values, st.integers(2, 60), st.integers(2, 9), st.sampled_from([None, 1]))
def test_large_json_is_read_like_by_a_parser(
    told: list[object], other: object, piece: int, few: int, indent: int | None
) -> None:
    """Items, and members of the top level only, are found wherever a piece ends."""
    sizes = {"PIECE_BYTES": piece, "_FAR_BYTES": piece, "_QUOTES": few, "_NEAR_BYTES": few, "_CROWDED_BYTES": few}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(large_json, name, size)
        text = json.dumps(told, indent=indent).encode()
        got = [json.loads(text[slice(*place)]) for place in items(text) if place is not None]
        assert repr(got) == repr(told)
        body = json.dumps({"a": other, "b": told, "c": {"d": other, "b": 1}}, indent=indent).encode()
        excerpt = json.loads(finished(Fields([("a",), ("c", "d")]).excerpt(body)))
        scalar = [] if isinstance(other, list | dict) else other
        assert repr(excerpt) == repr({"a": scalar, "c": {"d": scalar}})
        for end in range(len(body)):
            with pytest.raises(Malformed):
                finished(walk(body[:end]))


@settings(max_examples=500)
@given(st.lists(st.sampled_from(['"', "\\", "x" * 40, "\n", "run_timeout", "{[,:"]), max_size=120), st.booleans())
def test_member_behind_a_long_string_is_found(parts: list[str], is_view: bool) -> None:
    """Quotes and backslashes in the string, one after another or far apart, hide nothing and show nothing."""
    told = {"code": "".join(parts) + "x" * large_json.PIECE_BYTES, "b": "".join(parts[::-1]), "run_timeout": 7}
    body = json.dumps(told).encode()
    text = memoryview(body) if is_view else body
    assert finished(Fields([("run_timeout",)]).excerpt(text)) == b'{"run_timeout":7}'


NASTY = {
    "long string": b'{"code":"%s","run_timeout":1}' % (b"x" * 2**20),
    "escapes": b'{"code":"%s","run_timeout":1}' % (b"\\n" * 2**19),
    "quotes": b'{"code":"%s","run_timeout":1}' % (b'\\"' * 2**19),
    "small lists": b'{"a":[%s1],"run_timeout":1}' % (b"[]," * 2**18),
    "short strings": b'{"a":[%s1],"run_timeout":1}' % (b'"",' * 2**18),
    "members": b'{%s"run_timeout":1}' % (b'"a":1,' * 2**17),
    "limits": b'{%s"run_timeout":1}' % (b'"run_timeout":2,' * 2**16),
    "escaped names": b'{%s"run_timeout":1}' % (b'"\\u0061":1,' * 2**16),
    "nested deeper than one step": b'{"a":[%s1],"run_timeout":1}' % ((b"[" * 30 + b"]" * 30 + b",") * 2**14),
    "space": b'{"a":1,%s"run_timeout":1}' % (b" " * 2**20),
    "objects": b'{"a":{%s"b":1},"run_timeout":1}' % (b'"a":{},' * 2**17),
}


@pytest.mark.parametrize("body", NASTY.values(), ids=NASTY)
def test_large_body_is_read_in_pieces(body: bytes) -> None:
    """There is a pause after each piece, and a limit at the body's end is found."""
    reader = SANDBOX_FUSION[RUN].reader
    pauses = 0
    steps = reader.excerpt(body)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            excerpt = end.value
            break
        pauses += 1
    assert reader.longest_s(excerpt) == 11
    is_skipped = body in (NASTY["long string"], NASTY["escapes"])  # from quote to quote
    assert pauses >= (1 if is_skipped else len(body) // large_json.PIECE_BYTES - 1)


def test_further_endpoints_come_from_the_configuration() -> None:
    """An endpoint has its own bound, and names the field of the body with the limit, at any depth."""
    text = """
    endpoints:
      /submit: {timeout: 45}
      /common_evaluate_batch: {timeout: 600, limit: config.run_timeout}
      /other: {method: GET}
    """
    endpoints = endpoints_of(parse(text, "c").endpoints)
    assert (endpoints["/submit"].method, endpoints["/submit"].timeout_s) == ("POST", 45)
    fork = endpoints["/common_evaluate_batch"]
    assert (fork.method, fork.timeout_s) == ("POST", 600)
    assert fork.reader.longest_s(b'{"config": {"run_timeout": "7"}}') == 7
    assert fork.reader.longest_s(b'{"config": {"run_timeout": 7, "x": NaN}}') == 7
    assert fork.reader.longest_s(b'{"run_timeout": 7, "config": {}}') is None
    assert fork.reader.longest_s(b'{"config": 5}') is None
    large = b'{"config": {"cases": "%s", "run_timeout": 7}}' % (b"x" * 2**17)
    assert fork.reader.longest_s(finished(fork.reader.excerpt(large))) == 7
    assert endpoints["/other"].method == "GET"
    assert endpoints["/run_code"] is SANDBOX_FUSION["/run_code"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("{/run_code: {timeout: 5}}", "endpoints: /run_code: its jobs have their limits in their bodies"),
        ("{/admin/x: {}}", "endpoints: /admin/x: the router answers this path itself"),
        ("{/run_code/batch: {}}", "endpoints: /run_code/batch: the router answers this path itself"),
        (
            "{/list_datasets: {method: POST}}",
            "endpoints: /list_datasets: SandboxFusion's /list_datasets is asked by GET",
        ),
        ("{/list_datasets: {limit: a}}", "endpoints: /list_datasets: a GET has no body that could hold a limit"),
        ("{submit: {}}", "expected a path such as /common_evaluate_batch"),
        ("{'/a?b': {}}", "expected a path such as /common_evaluate_batch"),
        ("{/: {}}", "expected a path such as /common_evaluate_batch"),
        ("{/a: {timeout: 0}}", "expected"),
        ("{/a: {timeout: .inf}}", "expected a finite number"),
        ("{/a: {timeuot: 5}}", "unknown key; expected one of limit, method, timeout"),
        ("{/a: {limit: 'a b'}}", "expected"),
        ("{/a: {limit: a..b}}", "expected"),
        ("[/submit]", "expected"),
    ],
)
def test_invalid_endpoint_is_an_error(said: str, told: str) -> None:
    """The error names the path and what is expected."""
    with pytest.raises(ConfigError, match=r"endpoints") as error:
        parse(f"endpoints: {said}", "c")
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("longest_s", "client_s", "budget", "bound_s", "ceiling_s"),
    [
        (20, None, "none", 30, 300),
        (20, None, "job", 30, 29.5),
        (20, None, "job+10", 30, 29.5),
        (20, None, "job+2", 30, 21.5),
        (20, None, "job+0", 30, 19.5),
        (20, None, "job+2.5", 30, 22),
        (20, None, 12, 30, 11.5),
        (20, None, 1, 30, 0.5),
        (20, None, 1000, 30, 300),
        (20, 5, "job", 30, 4.5),
        (20, 5, 12, 30, 4.5),
        (20, 40, 12, 30, 39.5),
        (20, 5, "none", 30, 4.5),
        (20, 0.1, "none", 30, 0),
        (600, None, "none", 610, 300),
        (600, None, "job+2", 610, 300),
        (600, 1000, "none", 610, 300),
        (None, None, "job", 300, 300),
        (None, None, "job+2", 300, 300),
        (None, None, 12, 300, 11.5),
        (None, 5, "none", 300, 4.5),
        (1e308, None, "none", 86_410, 300),
        (inf, None, "job", 86_410, 300),
    ],
)
def test_deadline_follows_the_body_and_the_client(
    longest_s: float | None, client_s: float | None, budget: str | float, bound_s: float, ceiling_s: float
) -> None:
    """The bound is the job's limit plus a grace; the answer comes before the client gives up, and within `timeout`."""
    found = limits_of(longest_s, client_s, None, ClientBudget.of(budget), grace_s=10, timeout_s=300)
    assert (found.bound_s, found.ceiling_s) == (bound_s, ceiling_s)


@pytest.mark.parametrize("text", ["jobs", "job+", "job-1", "job+1e3", "", 0.999, 0, -1, inf, nan])
def test_invalid_client_budget_is_refused(text: str | float) -> None:
    """A number must be finite and at least a second."""
    with pytest.raises(ValueError, match=f"^{re.escape(str(text))}$"):
        ClientBudget.of(text)
