"""An HTTP router that spreads code-execution jobs over many SandboxFusion workers.

`router:app` is the application that gunicorn and uvicorn serve. It is built at its first use, so that the sidecar and
the CLI, which need only some rooms, import no web framework.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.http.asgi import Application


# With any other status, `uvicorn --workers N` would restart a worker that cannot start again and again.
_UVICORN_STARTUP_FAILURE = 3


def __getattr__(name: str) -> "Application":
    """Build `app` from the configuration. A bad one ends the process, unless an earlier good one is in force."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from multiprocessing import parent_process  # noqa: PLC0415  (this function exists to import lazily)

    from router import logs  # noqa: PLC0415
    from router.composition import create_app  # noqa: PLC0415
    from router.config.load import or_exit  # noqa: PLC0415
    from router.downstream.in_force import begin  # noqa: PLC0415
    from router.file_handles import raise_limit  # noqa: PLC0415

    def build() -> "Application":
        in_force = begin()
        return create_app(in_force.settings, in_force.access)

    logs.set_up()
    raise_limit()
    app = or_exit(build, _UVICORN_STARTUP_FAILURE) if parent_process() else or_exit(build)
    globals()["app"] = app
    return app
