"""What `gunicorn -c gunicorn.conf.py` runs. Command line options and WEB_CONCURRENCY win over what stands here."""

import os
import secrets
import shutil
import tempfile
from contextlib import suppress

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from router import logs
from router.config.load import or_exit
from router.downstream.balance import BALANCE
from router.downstream.in_force import INHERITED, InForce
from router.downstream.master import Master
from router.file_handles import raise_limit
from router.fleet.worker_list import announce, known_workers
from router.processes import die_with_parent
from router.telemetry.multiprocess import FOLDER_VARIABLE, SharedCounts

# At a reload gunicorn runs this file again: the master has read what the processes to come inherit
# (router/downstream/master.py).
in_force = INHERITED.now = INHERITED.now or or_exit(InForce.read)
settings = in_force.settings

wsgi_app = "router:app"
worker_class = "router.downstream.gunicorn_worker.RouterWorker"
bind = "0.0.0.0:8000"
workers = int(os.environ.get("WEB_CONCURRENCY") or os.cpu_count() or 1)
proc_name = "sandboxfusion-router"

# A worker told to stop finishes the jobs it has: none takes longer than `timeout`, queue and retries included. The rest
# is for bodies that are still coming, answers that are still going, and the last counts.
graceful_timeout = int(settings.timeout) + 10
# Longer than the idle time of common clients' and balancers' pools, so that it is they who close.
keepalive = 75
backlog = 2048
# Where processes show that they live, so that they need no disk, which may be full, slow or gone.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None  # noqa: S108  (of no name there)
# gunicornc's socket would be one for all gunicorns of a user; `kill` and the admin API do its work here.
control_socket_disable = True

logconfig_dict = logs.log_config()


def on_starting(server: Arbiter) -> None:
    """Take gunicorn's master over, raise its limits, and name a folder for what the processes count; they make it."""
    or_exit(lambda: Master.take_over(server))
    raise_limit()
    with suppress(OSError):  # nowhere to write: each process shows its own counts alone
        os.environ[FOLDER_VARIABLE] = f"{tempfile.gettempdir()}/sfr-metrics-{secrets.token_hex(8)}"


def when_ready(server: Arbiter) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Speak once for all processes."""
    announce(known_workers(settings))


def pre_fork(server: Arbiter, worker: Worker) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Count the process in among those that share the clients."""
    worker.place_in_crowd = BALANCE.enter()


def post_fork(server: Arbiter, worker: Worker) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Tell the process how many it is one of, and let it not outlive a killed master, as uvicorn's worker would."""
    os.environ["WEB_CONCURRENCY"] = str(server.num_workers)
    die_with_parent()


def child_exit(server: Arbiter, worker: Worker) -> None:
    """Let go of what a process showed of itself while it lived; what it counted stays."""
    BALANCE.leave(worker.place_in_crowd)
    SharedCounts.inherited().bury(server.WORKERS.keys() - {worker.pid})


def on_exit(server: Arbiter) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Remove the folder: the processes have ended."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        shutil.rmtree(folder, ignore_errors=True)
