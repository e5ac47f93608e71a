"""Decides which requests are jobs: SandboxFusion's endpoints and those of config.yaml, each with its time limits."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from router.policy.deadline import OVERHEAD_S, LimitReader
from router.policy.needs import Needs, NeedsReader

_RUNS_ANYTHING = NeedsReader()
# As SandboxFusion names them (RunCodeRequest); forks' endpoints for code have the same fields.
_CODE = NeedsReader("language", "memory_limit_MB")
# Its only kernel is python3.
_JUPYTER = NeedsReader(otherwise=Needs("python"))
_PROBLEM = NeedsReader("config.language")
_LOOK_UP = NeedsReader(otherwise=Needs(memory_mb=0))


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint of the workers. `reader` finds a job's limits in its body, `needs` which workers can run it.

    If the body has no limits, `timeout_s` is the limit; if that is None, config.yaml's `timeout` is.
    """

    method: str
    reader: LimitReader
    timeout_s: float | None = None
    needs: NeedsReader = _RUNS_ANYTHING


class EndpointSettings(Protocol):
    """An endpoint's settings in config.yaml; policy may not import their class."""

    @property
    def timeout(self) -> float:
        """Seconds for one attempt."""

    @property
    def method(self) -> str | None:
        """The method of its requests."""

    @property
    def limit(self) -> str | None:
        """The path of the body's field with the job's own limit."""


_SILENT = LimitReader({})
# /submit runs a problem's tests one after the other. The other endpoints look into datasets that the worker has
# loaded, or loads once.
_SUBMIT_S, _LOOK_UP_S = 120.0, 60.0
# The defaults are SandboxFusion's for absent fields (RunCodeRequest, RunJupyterRequest).
SANDBOX_FUSION: Mapping[str, Endpoint] = {
    "/run_code": Endpoint(
        "POST",
        LimitReader({"compile_timeout": 10.0, "run_timeout": 10.0}, sign=b"_timeout", also=_CODE.fields),
        needs=_CODE,
    ),
    "/run_jupyter": Endpoint(
        "POST", LimitReader({"total_timeout": 45.0}, OVERHEAD_S, sign=b"_timeout"), needs=_JUPYTER
    ),
    "/list_datasets": Endpoint("GET", _SILENT, _LOOK_UP_S, _LOOK_UP),
    "/list_ids": Endpoint("POST", _SILENT, _LOOK_UP_S, _LOOK_UP),
    "/get_prompts": Endpoint("POST", _SILENT, _LOOK_UP_S, _LOOK_UP),
    "/get_prompt_by_id": Endpoint("POST", _SILENT, _LOOK_UP_S, _LOOK_UP),
    "/submit": Endpoint("POST", LimitReader({}, also=_PROBLEM.fields), _SUBMIT_S, _PROBLEM),
    "/get_metrics": Endpoint("POST", _SILENT, _LOOK_UP_S, _LOOK_UP),
    "/get_metrics_function": Endpoint("POST", _SILENT, _LOOK_UP_S, _LOOK_UP),
}
# Their jobs always have limits, in their bodies or by default.
_RUNS = frozenset({"/run_code", "/run_jupyter"})
# Paths that the router answers itself, with all paths below them.
_OWN = (
    "/admin",
    "/dashboard",
    "/docs",
    "/health",
    "/metrics",
    "/openapi.json",
    "/redoc",
    "/run_code",
    "/t",
    "/v1/ping",
)


def endpoints_of(settings: Mapping[str, EndpointSettings]) -> Mapping[str, Endpoint]:
    """Return SandboxFusion's endpoints, changed and extended by config.yaml's."""
    return {**SANDBOX_FUSION, **{path: _endpoint(path, its) for path, its in settings.items()}}


def flaw(path: str, settings: EndpointSettings) -> str | None:
    """Return why an endpoint may not have these settings; None if it may."""
    known = SANDBOX_FUSION.get(path)
    if path in _RUNS:
        return "its jobs have their limits in their bodies; what they get above those is job_grace"
    if f"{path}/".startswith(tuple(f"{own}/" for own in _OWN)):
        return "the router answers this path itself"
    if known is not None and settings.method not in (None, known.method):
        return f"SandboxFusion's {path} is asked by {known.method}"
    if settings.limit is not None and _method(path, settings) == "GET":
        return "a GET has no body that could hold a limit"
    return None


def _endpoint(path: str, settings: EndpointSettings) -> Endpoint:
    method, known = _method(path, settings), SANDBOX_FUSION.get(path)
    needs = known.needs if known is not None else _RUNS_ANYTHING if method == "GET" else _CODE
    limits: dict[str, float | None] = {} if settings.limit is None else {settings.limit: None}
    sign = (settings.limit or "").partition(".")[0].encode("ascii")
    return Endpoint(method, LimitReader(limits, sign=sign, also=needs.fields), settings.timeout, needs)


def _method(path: str, settings: EndpointSettings) -> str:
    known = SANDBOX_FUSION.get(path)
    return settings.method or (known.method if known is not None else "POST")
