"""What a job needs of its worker, read from its body as the worker reads it."""

import json

import pytest

from router.policy.endpoints import SANDBOX_FUSION, endpoints_of
from router.policy.large_json import finished
from router.policy.needs import Needs

CODE = SANDBOX_FUSION["/run_code"]


@pytest.mark.parametrize(
    ("path", "body", "needs"),
    [
        ("/run_code", b'{"code": "", "language": "cpp"}', Needs("cpp")),
        ("/run_code", b'{"language": "python", "memory_limit_MB": 512}', Needs("python", 512)),
        ("/run_code", b'{"memory_limit_MB": -1}', Needs()),
        ("/run_code", b'{"memory_limit_MB": 0}', Needs()),
        ("/run_code", b'{"memory_limit_MB": "1_024"}', Needs("", 1024)),
        ("/run_code", b'{"memory_limit_MB": 512.0}', Needs("", 512)),
        ("/run_code", b'{"memory_limit_MB": 512.5, "language": "R"}', Needs("R")),
        ("/run_code", b'{"memory_limit_MB": NaN, "language": "R"}', Needs("R")),
        ("/run_code", b'{"code": "\\ud800", "language": "R", "memory_limit_MB": 7}', Needs("R", 7)),
        ("/run_code", b'{"language": ["cpp"], "memory_limit_MB": {}}', Needs()),
        ("/run_code", b'{"language": "a;b"}', Needs()),
        ("/run_code", b'{"language": "cpp", "language": "go"}', Needs("go")),
        ("/run_code", b"[1]", Needs()),
        ("/run_code", b"no JSON", Needs()),
        ("/run_jupyter", b'{"cells": [], "language": "cpp"}', Needs("python")),
        ("/submit", b'{"config": {"language": "java"}, "language": "cpp"}', Needs("java")),
        ("/submit", b'{"config": null}', Needs()),
        ("/get_prompts", b'{"language": "cpp"}', Needs("", 0)),
        ("/list_datasets", b"", Needs("", 0)),
    ],
)
def test_needs_are_read_where_each_endpoint_has_them(path: str, body: bytes, needs: Needs) -> None:
    """A value that the worker will refuse counts as absent; endpoints that run no code need no memory."""
    assert SANDBOX_FUSION[path].needs.needs(body) == needs


@pytest.mark.parametrize("path", ["/run_code", "/submit"])
def test_needs_of_a_large_body_are_in_its_excerpt(path: str) -> None:
    """One walk through the body finds them and the time limits."""
    body = {"files": {"a": "x" * 100_000}, "language": "go", "memory_limit_MB": 9, "config": {"language": "java"}}
    endpoint = SANDBOX_FUSION[path]
    excerpt = finished(endpoint.reader.excerpt(json.dumps(body).encode()))
    assert len(excerpt) < 100
    assert endpoint.needs.needs(excerpt) == endpoint.needs.needs(json.dumps(body).encode())


def test_forks_endpoint_has_run_code_s_fields() -> None:
    """A further endpoint that takes bodies runs code; one without bodies needs nothing."""

    class Settings:
        timeout, method, limit = 5.0, None, "total_timeout"

    class Get(Settings):
        method, limit = "GET", None  # type: ignore[assignment]

    endpoints = endpoints_of({"/evaluate": Settings(), "/facts": Get()})
    assert endpoints["/evaluate"].needs.needs(b'{"language": "cpp", "memory_limit_MB": 5}') == Needs("cpp", 5)
    assert endpoints["/facts"].needs.needs(b"") == Needs()
