"""What processes cost, as /proc sees them: CPU time and memory of a program with all its children, and on which CPU."""

import os
import resource
from collections.abc import Iterable
from pathlib import Path

from tests.support.programs import children_of

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
# Written to /proc/PID/clear_refs, it makes the peak of a process what it holds now: proc(5).
_RESET_PEAK = "5"


def two_cpus() -> tuple[int, int]:
    """Return the CPU for what is measured, and the one for all else; ends the program where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("two CPUs are needed: one for what is measured, one for what puts it under load")
    return allowed[0], allowed[1]


def allow_many_files() -> None:
    """Let this process and what it starts open as many files as the system permits them."""
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))


def tree(pid: int) -> list[int]:
    """Return `pid` and all processes below it."""
    return [pid, *(below for child in children_of(pid) for below in tree(child))]


def pin(pid: int, cpu: int) -> None:
    """Move a program, its children and all their threads to one CPU; what they start later stays there, too."""
    for process in tree(pid):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cpu})


def cpu_s(pids: Iterable[int]) -> float:
    """Return what the processes have used so far, user and system, to a clock tick (10 ms) each."""
    return sum(_ticks(pid) for pid in pids) / _TICKS_A_SECOND


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def idle_s(cpu: int) -> float:
    """Return for how long a CPU has had nothing to do, since the machine started."""
    lines = Path("/proc/stat").read_text().splitlines()
    fields = next(line.split() for line in lines if line.startswith(f"cpu{cpu} "))
    return (int(fields[4]) + int(fields[5])) / _TICKS_A_SECOND  # idle, and waiting for a disk


def forget_peak(pids: Iterable[int]) -> None:
    """Have `peak_mb` start anew."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)


def peak_mb(pids: Iterable[int]) -> float:
    """Return the sum of the most memory (resident, 10^6 bytes) that each has held; shared pages count for each."""
    return sum(_status_kib(pid, "VmHWM") for pid in pids) * 1024 / 1e6


def resident_mb(pid: int) -> float:
    """Return the memory (resident, 10^6 bytes) that a process holds now."""
    return _status_kib(pid, "VmRSS") * 1024 / 1e6


def open_files(pid: int) -> int:
    """Return how many files, sockets among them, a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _status_kib(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
