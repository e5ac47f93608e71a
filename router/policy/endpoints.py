"""Which requests are jobs: SandboxFusion's endpoints and config.yaml's further ones, each with its time limits."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from router.policy.deadline import OVERHEAD_S, LimitReader


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint of the workers. `reader` finds a job's limits in its body; where none is, `timeout_s` is one.

    Without that it is config.yaml's `timeout`.
    """

    method: str
    reader: LimitReader
    timeout_s: float | None = None


class Said(Protocol):
    """What config.yaml says of an endpoint."""

    @property
    def timeout(self) -> float:
        """Seconds for one attempt."""

    @property
    def method(self) -> str | None:
        """Of its requests."""

    @property
    def limit(self) -> str | None:
        """The body's field with the job's own limit."""


_SILENT = LimitReader({})
# The judge runs a problem's tests one after the other; the others look into what the worker has loaded, or loads once.
_SUBMIT_S, _LOOK_UP_S = 120.0, 60.0
# As they are in SandboxFusion, where a body says nothing (RunCodeRequest, RunJupyterRequest).
SANDBOX_FUSION: Mapping[str, Endpoint] = {
    "/run_code": Endpoint("POST", LimitReader({"compile_timeout": 10.0, "run_timeout": 10.0}, sign=b"_timeout")),
    "/run_jupyter": Endpoint("POST", LimitReader({"total_timeout": 45.0}, OVERHEAD_S, sign=b"_timeout")),
    "/list_datasets": Endpoint("GET", _SILENT, _LOOK_UP_S),
    "/list_ids": Endpoint("POST", _SILENT, _LOOK_UP_S),
    "/get_prompts": Endpoint("POST", _SILENT, _LOOK_UP_S),
    "/get_prompt_by_id": Endpoint("POST", _SILENT, _LOOK_UP_S),
    "/submit": Endpoint("POST", _SILENT, _SUBMIT_S),
    "/get_metrics": Endpoint("POST", _SILENT, _LOOK_UP_S),
    "/get_metrics_function": Endpoint("POST", _SILENT, _LOOK_UP_S),
}
# These say their limits in their bodies, and always have some.
_RUNS = frozenset({"/run_code", "/run_jupyter"})
# What the router answers for itself, with all below it.
_OWN = ("/admin", "/dashboard", "/docs", "/health", "/metrics", "/openapi.json", "/redoc", "/run_code", "/v1/ping")


def endpoints_of(said: Mapping[str, Said]) -> Mapping[str, Endpoint]:
    """Return SandboxFusion's endpoints, changed and added to by what config.yaml says."""
    return {**SANDBOX_FUSION, **{path: _endpoint(path, its) for path, its in said.items()}}


def flaw(path: str, said: Said) -> str | None:
    """Return why config.yaml may not say this of an endpoint; None where it may."""
    known = SANDBOX_FUSION.get(path)
    if path in _RUNS:
        return "its jobs have their limits in their bodies; what they get above those is job_grace"
    if f"{path}/".startswith(tuple(f"{own}/" for own in _OWN)):
        return "the router answers this path itself"
    if known is not None and said.method not in (None, known.method):
        return f"SandboxFusion's {path} is asked by {known.method}"
    if said.limit is not None and _method(path, said) == "GET":
        return "a GET has no body that could hold a limit"
    return None


def _endpoint(path: str, said: Said) -> Endpoint:
    reader = _SILENT
    if said.limit is not None:
        reader = LimitReader({said.limit: None}, sign=said.limit.partition(".")[0].encode("ascii"))
    return Endpoint(_method(path, said), reader, said.timeout)


def _method(path: str, said: Said) -> str:
    known = SANDBOX_FUSION.get(path)
    return said.method or (known.method if known is not None else "POST")
