"""Which processes are alive, by their heartbeats."""

from collections.abc import Iterable

from router.scheduling.messages import PROCESS_TTL_MS


class Heartbeats:
    """The moment of each process' last heartbeat, in ms."""

    def __init__(self) -> None:
        self._at: dict[str, int] = {}

    def hear(self, process: str, now: int) -> int:
        """Take in a heartbeat; return how many processes are alive."""
        self._at[process] = now
        self._at = {name: at for name, at in self._at.items() if now - at < PROCESS_TTL_MS}
        return len(self._at)

    def is_alive(self, process: str, own: str, now: int) -> bool:
        """Whether the process is alive; the one that calls is."""
        return process == own or (process in self._at and now - self._at[process] < PROCESS_TTL_MS)

    def abandoned(self, jobs: Iterable[str], own: str, now: int) -> list[str]:
        """Return the pending jobs of dead processes, if one has fallen silent; none if the calling one has, too."""
        silent = {name for name, at in self._at.items() if now - at >= PROCESS_TTL_MS}
        if not silent or own in silent:
            return []
        return [job for job in jobs if not self.is_alive(job.rpartition(":")[0], own, now)]
