"""gunicorn's master, changed so that a bad file, a full disk or a process that cannot start does not end the service.

gunicorn's own exits when its configuration raises, when a process cannot be started, and when one fails before it
serves. Here a reload first reads all files, and changes nothing if one is bad. An old process is stopped only when a
new one serves in its place.
"""

import os
import signal

from gunicorn.arbiter import Arbiter

from router.config.bounds import MAX_PROCESSES
from router.config.load import ConfigError
from router.downstream.gunicorn_worker import ENDING, RouterWorker
from router.downstream.in_force import INHERITED, NOT_TAKEN_OVER, InForce
from router.downstream.notices import NOTICES

# An exit status that no process has.
_NO_STATUS = -1


class Master(Arbiter):  # type: ignore[misc]  # it comes without types
    """Keeps `num_workers` router processes running, with the configuration that INHERITED holds.

    gunicorn has no setting for its master's class, so `take_over` changes the class of gunicorn's master.
    """

    # Processes up to this age, which is gunicorn's number for a process, were started before the last reload.
    _outdated_age = 0
    _is_short = False

    @classmethod
    def take_over(cls, master: Arbiter) -> None:
        """Make `master`, which has started no process, one of this class. Raises ConfigError."""
        if not 1 <= master.num_workers <= MAX_PROCESSES:  # with 0, gunicorn would listen, and no process would answer
            wanted = f"expected 1 to {MAX_PROCESSES} processes (WEB_CONCURRENCY or --workers)"
            raise ConfigError(f"{wanted}, got {master.num_workers}")
        master.__class__ = cls
        # `python -m gunicorn` started again as `python …/gunicorn/__main__.py` would take gunicorn.http for http.
        arguments = master.START_CTX["args"]
        if arguments[1].endswith("__main__.py"):
            arguments[1:2] = ["-m", "gunicorn"]

    def reload(self) -> None:
        """Read all files again, and replace the processes; if a file is bad, log why, and change nothing."""
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
            NOTICES.put()
            self.manage_workers()

    def _stay(self, reason: str) -> None:
        self.log.error(NOT_TAKEN_OVER, reason)
        NOTICES.put(reason)

    def manage_workers(self) -> None:
        """Start the missing processes, and stop those that are too many."""
        staying = sorted((each for each in self.WORKERS.values() if not each.is_leaving), key=lambda each: each.age)
        outdated = [each for each in staying if each.age <= self._outdated_age]
        current = staying[len(outdated) :]
        outdated.sort(key=lambda each: each.serves)  # those that serve are stopped last
        if any(each.serves for each in staying):
            # The configuration has proved good. A process that fails before it serves must not end the master any more.
            self.WORKER_BOOT_ERROR = self.APP_LOAD_ERROR = _NO_STATUS
        for _ in range(self.num_workers - len(current)):
            self.spawn_worker()
        serving = sum(each.serves for each in current)
        needed = max(0, self.num_workers - serving)
        leaving = [*outdated[: max(0, len(outdated) - needed)], *current[: max(0, len(current) - self.num_workers)]]
        for each in leaving:
            self.kill_worker(each.pid, signal.SIGTERM)

    def spawn_worker(self) -> int | None:
        """Start a process; if that fails, log it once. The master's loop tries again each second."""
        # Until a process has its own handlers it has the master's, by fork, and these would swallow a signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            pid: int = super().spawn_worker()
        except Exception as error:  # noqa: BLE001  (raised in the master only: a failure in the child ends the child)
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
        """Send a process a signal, but SIGTERM only once."""
        worker: RouterWorker | None = self.WORKERS.get(pid)
        if worker is not None and sig == signal.SIGTERM:
            if worker.is_leaving:
                return
            worker.is_leaving = True
        super().kill_worker(pid, sig)

    def reexec(self) -> None:
        """Start a second master (SIGUSR2); if that fails, this one goes on."""
        try:
            super().reexec()
        except OSError as error:
            self.log.error("No second master can be started: %s", error)  # noqa: TRY400
            if os.getpid() != self.pid:  # the forked copy must not act as the master
                os._exit(1)
