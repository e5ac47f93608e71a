"""An HTTP router that spreads code-execution jobs over many SandboxFusion workers.

`router:app` is what gunicorn and uvicorn serve. It is built at its first use, so that programs which want only
`router.config` or `router.fleet` (the sidecar, the CLI) import no web framework. Only this module imports
`router.app`: whoever else did so first would put that module in the application's place.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.asgi import Application

__version__ = "0.2.0"

# With any other status, `uvicorn --workers N` would start a worker that cannot start again and again.
_UVICORN_STARTUP_FAILURE = 3


def __getattr__(name: str) -> "Application":
    """Build `app` from the configuration; a bad one, and no last good one, ends the process."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from multiprocessing import parent_process  # noqa: PLC0415  (lazy imports are this function's purpose)

    from router import logs  # noqa: PLC0415
    from router.app import create_app  # noqa: PLC0415
    from router.config import or_exit  # noqa: PLC0415
    from router.file_handles import raise_limit  # noqa: PLC0415
    from router.in_force import begin  # noqa: PLC0415

    def build() -> "Application":
        in_force = begin()
        return create_app(in_force.settings, in_force.access)

    logs.set_up()
    raise_limit()
    app = or_exit(build, _UVICORN_STARTUP_FAILURE) if parent_process() else or_exit(build)
    globals()["app"] = app
    return app
