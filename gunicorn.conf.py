"""What `gunicorn -c gunicorn.conf.py` runs. Command line options and WEB_CONCURRENCY win over what stands here."""

import os
import shutil
import tempfile

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from router import logs
from router.config import or_exit
from router.crowd import CROWD
from router.fleet.workers_file import known_workers
from router.in_force import INHERITED, InForce
from router.master import Master
from router.processes import die_with_parent

# At a reload gunicorn runs this file again: the master has read what the processes to come inherit (router/master.py).
in_force = INHERITED.now = INHERITED.now or or_exit(InForce.read)
settings = in_force.settings

wsgi_app = "router:app"
worker_class = "router.gunicorn_worker.RouterWorker"
bind = "0.0.0.0:8000"
workers = int(os.environ.get("WEB_CONCURRENCY") or os.cpu_count() or 1)
proc_name = "sandboxfusion-router"

# A worker told to stop finishes the jobs it has: none takes longer than `timeout`, queue and retries included. The rest
# is for bodies that are still coming, answers that are still going, and the last counts.
graceful_timeout = int(settings.timeout) + 10
# Longer than the idle time of common clients' and balancers' pools, so that it is they who close.
keepalive = 75
backlog = 2048
# gunicornc's socket would be one for all gunicorns of a user; `kill` and the admin API do its work here.
control_socket_disable = True

logconfig_dict = logs.log_config()


METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client looks there for what processes share


def on_starting(server: Arbiter) -> None:
    """Take gunicorn's master over, and make a folder for what the processes count, which nobody else can look into."""
    Master.take_over(server)
    folder = tempfile.mkdtemp(prefix="sfr-metrics-")
    os.chown(folder, server.cfg.uid, server.cfg.gid)
    os.environ[METRICS_FOLDER] = folder


def when_ready(server: Arbiter) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Speak once for all processes."""
    logs.announce(known_workers(settings))


def pre_fork(server: Arbiter, worker: Worker) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Count the process in among those that share the clients."""
    worker.place_in_crowd = CROWD.enter()


def post_fork(server: Arbiter, worker: Worker) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Tell the process how many it is one of, and let it not outlive a killed master, as uvicorn's worker would."""
    os.environ["WEB_CONCURRENCY"] = str(server.num_workers)
    die_with_parent()


def child_exit(server: Arbiter, worker: Worker) -> None:
    """Let go of what a process showed of itself while it lived; what it counted stays."""
    CROWD.leave(worker.place_in_crowd)
    # Not before the folder is made: at its import prometheus_client chooses how it counts.
    from router.shared_counts import bury  # noqa: PLC0415

    bury(os.environ[METRICS_FOLDER], server.WORKERS.keys() - {worker.pid})


def on_exit(server: Arbiter) -> None:  # noqa: ARG001  (gunicorn's signature)
    """Remove the folder: the processes have ended."""
    shutil.rmtree(os.environ[METRICS_FOLDER], ignore_errors=True)
