"""Which jobs are alike in size, and what makes one size of many."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.large_json import finished
from router.policy.sizes import Recent, kind_of, kind_of_large, median_key, size_key

JOB: dict[str, Any] = {
    "code": "print(1)",
    "language": "python",
    "stdin": "1 2\n",
    "files": {"a.txt": "YQ==", "b": None},
}


def kind(path: str = "/run_code", **fields: Any) -> bytes:
    """Return the kind of a job with these fields in place of JOB's."""
    return kind_of(path, json.dumps({**JOB, **fields}).encode())


def test_jobs_of_one_test_case_are_alike_whatever_their_code() -> None:
    """Neither code, nor limits, nor the content and order of files tell jobs apart."""
    same: dict[str, Any] = {"code": "x" * 100, "run_timeout": 5, "files": {"b": "Yg==", "a.txt": None}}
    assert kind(**same) == kind() != b""


@pytest.mark.parametrize("fields", [{"stdin": "1 3\n"}, {"language": "cpp"}, {"files": {"a.txt": ""}}, {"files": None}])
def test_input_language_and_names_of_files_tell_jobs_apart(fields: dict[str, Any]) -> None:
    """Any of them may be what decides how long the job takes."""
    assert kind(**fields) not in (kind(), b"")


def test_paths_and_tenants_have_sizes_of_their_own() -> None:
    """The same input may be read by programs of another sort, and a client's name is its tenant's."""
    assert kind("/run_jupyter") != kind()
    assert len({size_key("a", b"p"), size_key("b", b"p"), size_key("ap", b""), median_key("a"), median_key("b")}) == 5


def test_submitted_problems_are_alike_by_dataset_and_id() -> None:
    """The tests are the worker's, so the body does not hold them."""
    first, again, other = (
        kind_of("/submit", json.dumps({"dataset": "d", "id": number, "completion": text}).encode())
        for number, text in ((1, "a"), (1, "b"), (2, "a"))
    )
    assert first == again != other


@pytest.mark.parametrize("body", [b"", b"not JSON", b"[1]", b'{"stdin": "a'])
def test_nothing_is_said_of_a_body_that_cannot_be_read(body: bytes) -> None:
    """Its job counts as unknown."""
    assert kind_of("/run_code", body) == finished(kind_of_large("/run_code", body)) == b""


_text = st.text(st.sampled_from('ab"\\{}[]:,é\n \U0001f600'), max_size=12)
_bodies = st.fixed_dictionaries(
    {},
    optional={
        "code": _text,
        "language": _text | st.none() | st.integers(),
        "stdin": _text | st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "files": st.dictionaries(_text, _text | st.none(), max_size=3) | st.none(),
        "other": st.dictionaries(st.sampled_from(["stdin", "files"]), _text, max_size=2),
    },
)


@given(body=_bodies, ascii_only=st.booleans())
def test_large_bodies_have_the_same_kinds_as_small_ones(*, body: dict[str, Any], ascii_only: bool) -> None:
    """With more code, the same test case is still the same."""
    text = json.dumps(body, ensure_ascii=ascii_only).encode()
    assert finished(kind_of_large("/run_code", memoryview(text))) == kind_of("/run_code", text)


def test_long_input_is_read_piece_by_piece() -> None:
    """Other jobs have their turns meanwhile, and each byte counts."""
    bodies = [json.dumps({**JOB, "stdin": f"{'1 2 3' * 400_000}{end}"}).encode() for end in "ab"]
    steps = kind_of_large("/run_code", bodies[0])
    assert sum(1 for _ in steps) > 10
    kinds = [finished(kind_of_large("/run_code", body)) for body in bodies]
    assert kinds == [kind_of("/run_code", body) for body in bodies]
    assert kinds[0] != kinds[1]


def test_median_is_that_of_the_latest_sizes() -> None:
    """A tenant whose jobs change is soon known anew, and one outlier moves nothing."""
    recent = Recent()
    recent.extend([1.0] * 1000)
    recent.extend([5.0] * 200 + [1e9])
    assert recent.median() == 5.0
