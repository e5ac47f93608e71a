"""gunicorn's configuration: `gunicorn -c gunicorn.conf.py`. Command line options and WEB_CONCURRENCY override it."""

import os
import secrets
import shutil
import tempfile
from contextlib import suppress

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

import router.composition  # noqa: F401  (what the master has imported, its processes need not: they start sooner)
from router import logs
from router.config.load import or_exit
from router.downstream.balance import BALANCE
from router.downstream.in_force import INHERITED, InForce
from router.downstream.master import Master
from router.file_handles import raise_limit
from router.fleet.worker_list import announce, known_workers
from router.processes import die_with_parent
from router.telemetry.multiprocess import FOLDER_VARIABLE, SharedCounts

# At a reload gunicorn runs this file again. By then the master has read the new configuration
# (router/downstream/master.py).
in_force = INHERITED.now = INHERITED.now or or_exit(InForce.read)
settings = in_force.settings

wsgi_app = "router:app"
worker_class = "router.downstream.gunicorn_worker.RouterWorker"
bind = "0.0.0.0:8000"
workers = int(os.environ.get("WEB_CONCURRENCY") or os.cpu_count() or 1)
proc_name = "sandboxfusion-router"

# A process that is told to stop finishes its jobs. None takes longer than `timeout`, queue and retries included. The
# other 10 s are for bodies still being received, answers still being sent, and the last counts.
graceful_timeout = int(settings.timeout) + 10
# Longer than common clients and balancers keep idle connections, so that they close first.
keepalive = 75
backlog = 2048
# Processes show here that they live. In memory, because a disk may be full, slow or gone.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None  # noqa: S108  (of no name there)
# All of a user's gunicorns would share the socket of gunicornc. Signals and the admin API replace it here.
control_socket_disable = True

logconfig_dict = logs.log_config()


def on_starting(server: Arbiter) -> None:
    """Take over gunicorn's master, raise its limits, and name the folder for the processes' counts."""
    or_exit(lambda: Master.take_over(server))
    raise_limit()
    with suppress(OSError):  # no writable folder: each process shows only its own counts
        os.environ[FOLDER_VARIABLE] = f"{tempfile.gettempdir()}/sfr-metrics-{secrets.token_hex(8)}"


def when_ready(server: Arbiter) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Log the workers once for all processes."""
    announce(known_workers(settings))


def pre_fork(server: Arbiter, worker: Worker) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Give the process a place in the connection balance."""
    worker.balance_place = BALANCE.enter()


def post_fork(server: Arbiter, worker: Worker) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Tell the process how many there are, and end it with its master: uvicorn's worker would outlive a killed one."""
    os.environ["WEB_CONCURRENCY"] = str(server.num_workers)
    die_with_parent()


def child_exit(server: Arbiter, worker: Worker) -> None:
    """Free the place of a process that has ended, and drop its gauges; its counters stay."""
    BALANCE.leave(worker.balance_place)
    SharedCounts.inherited().bury(server.WORKERS.keys() - {worker.pid})


def on_exit(server: Arbiter) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Remove the folder of counts, now that all processes have ended."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        shutil.rmtree(folder, ignore_errors=True)
