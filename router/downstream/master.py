"""gunicorn's master, so that neither a file nor a disk nor a child that cannot start ends the service.

gunicorn ends where its configuration raises, where a process cannot be started, and where one fails before it serves.
Here a reload begins with reading all files: where one is bad, everything stays as it is. New processes take the places
of old ones, each when it serves; so those that cannot start replace nobody.
"""

import os
import signal

from gunicorn.arbiter import Arbiter

from router.config.load import ConfigError
from router.downstream.gunicorn_worker import ENDING, RouterWorker
from router.downstream.in_force import INHERITED, NOT_TAKEN_OVER, InForce

# No process exits with it.
_NO_STATUS = -1


class Master(Arbiter):  # type: ignore[misc]  # it comes without types
    """Keeps `num_workers` router processes, started with what INHERITED holds.

    gunicorn has no setting for its master's class: `take_over` makes a master of gunicorn's own into one of these.
    """

    # Processes up to this age, gunicorn's count of those it has started, are of a time before the last reload.
    _outdated_age = 0
    _is_short = False

    @classmethod
    def take_over(cls, master: Arbiter) -> None:
        """Make `master`, which has started nothing yet, one of this class. Raises ConfigError."""
        if master.num_workers < 1:  # gunicorn would listen, and nobody would ever answer
            raise ConfigError("expected at least 1 process (WEB_CONCURRENCY or --workers), got 0")
        master.__class__ = cls
        # `python -m gunicorn` started again as `python …/gunicorn/__main__.py` would take gunicorn.http for http.
        arguments = master.START_CTX["args"]
        if arguments[1].endswith("__main__.py"):
            arguments[1:2] = ["-m", "gunicorn"]

    def reload(self) -> None:
        """Read all anew, and replace the processes. Where something is bad, say what, and change nothing."""
        last_good = INHERITED.now
        try:
            INHERITED.now = InForce.read()
            self.app.reload()
        except ConfigError as error:
            self._stay(str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  (gunicorn prints why, and exits)
            INHERITED.now, self.app.cfg = last_good, self.cfg
            self._stay(f"{type(error).__name__} in gunicorn's own; it is printed above")
        else:
            self.setup(self.app)
            self.log.reopen_files()
            self._outdated_age = self.worker_age
            self.manage_workers()

    def _stay(self, reason: str) -> None:
        self.log.error(NOT_TAKEN_OVER, reason)

    def manage_workers(self) -> None:
        """Start the processes that are missing, and tell those to leave that are too many."""
        staying = sorted((each for each in self.WORKERS.values() if not each.is_leaving), key=lambda each: each.age)
        outdated = [each for each in staying if each.age <= self._outdated_age]
        current = staying[len(outdated) :]
        outdated.sort(key=lambda each: each.serves)  # those that serve leave last
        if any(each.serves for each in staying):
            # From now on it is no mistake at the start if a process fails before it serves, and ends nobody else.
            self.WORKER_BOOT_ERROR = self.APP_LOAD_ERROR = _NO_STATUS
        for _ in range(self.num_workers - len(current)):
            self.spawn_worker()
        serving = sum(each.serves for each in current)
        needed = max(0, self.num_workers - serving)
        leaving = [*outdated[: max(0, len(outdated) - needed)], *current[: max(0, len(current) - self.num_workers)]]
        for each in leaving:
            self.kill_worker(each.pid, signal.SIGTERM)

    def spawn_worker(self) -> int | None:
        """Start a process; where that is not possible, say so once: the next round of the master's loop tries again."""
        # What a process is sent before it has handlers of its own would be lost in gunicorn's, which it inherits.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            pid: int = super().spawn_worker()
        except Exception as error:  # noqa: BLE001  (only of the master: whatever fails in the child ends the child)
            if not self._is_short:
                self.log.error("No router process can be started, it is tried again each second: %s", error)  # noqa: TRY400
            self._is_short = True
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        if self._is_short:
            self.log.info("Router processes can be started again")
        self._is_short = False
        return pid

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a process a signal; SIGTERM once only."""
        worker: RouterWorker | None = self.WORKERS.get(pid)
        if worker is not None and sig == signal.SIGTERM:
            if worker.is_leaving:
                return
            worker.is_leaving = True
        super().kill_worker(pid, sig)

    def reexec(self) -> None:
        """Start a second master (SIGUSR2). Where that fails, this one goes on."""
        try:
            super().reexec()
        except OSError as error:
            self.log.error("No second master can be started: %s", error)  # noqa: TRY400
            if os.getpid() != self.pid:  # the copy, which would take itself for the master and end its processes
                os._exit(1)
