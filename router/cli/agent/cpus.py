"""How many CPUs this process may use, by its CPU affinity and its cgroups' quotas.

Slurm limits a task by affinity, containers are limited by quota; both may have far fewer CPUs than the node.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Cpus:
    """`affinity`: the number of CPUs this process may run on; `quota`: how much CPU time, in CPUs; None: no quota."""

    affinity: int
    quota: float | None

    @property
    def count(self) -> int:
        """The number of whole CPUs, at least 1."""
        return self.affinity if self.quota is None else max(1, min(self.affinity, int(self.quota)))

    def __str__(self) -> str:
        quota = "no cgroup quota" if self.quota is None else f"a cgroup quota of {self.quota:g}"
        return f"{self.affinity} by affinity, {quota}"


def usable_cpus(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> Cpus:
    """Return the CPUs that this process may use. If its cgroups cannot be read, there is no quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Cpus(affinity, min(_quotas(cgroups, own), default=None))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Yield the quota of this process' cgroup and of each cgroup above it; cgroups(7), v2 and v1."""
    for line in _text(own).splitlines():
        _, controllers, place = line.split(":", 2)
        if not controllers:
            base, read = cgroups, _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = cgroups / controllers, _quota_v1
        else:
            continue
        # In a container, this path may be the one that the host sees. Then the root here has the container's own quota.
        folder = base / place.strip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(base) and (quota := read(each)) is not None:
                yield quota


def _quota_v2(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    return int(words[0]) / int(words[1]) if words and words[0] != "max" else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
