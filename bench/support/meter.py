"""Reads from /proc what a program and its children use: CPU time, memory and open files. Also pins it to a CPU."""

import os
import resource
from collections.abc import Iterable
from pathlib import Path

from tests.support.programs import children_of

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
# Written to /proc/PID/clear_refs, this resets the process' peak memory to what it holds now: proc(5).
_RESET_PEAK = "5"


def two_cpus() -> tuple[int, int]:
    """Return the CPU for what is measured, and the CPU for everything else. Ends the program if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("two CPUs are needed: one for what is measured, one for what puts it under load")
    return allowed[0], allowed[1]


def allow_many_files() -> None:
    """Let this process and its children open as many files as the system permits."""
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))


def tree(pid: int) -> list[int]:
    """Return `pid` and all processes below it."""
    return [pid, *(below for child in children_of(pid) for below in tree(child))]


def pin(pid: int, cpu: int) -> None:
    """Move a program, its children and all their threads to one CPU. What they start later also stays there."""
    for process in tree(pid):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cpu})


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds that the processes have used so far, user and system, each to a clock tick (10 ms)."""
    return sum(_ticks(pid) for pid in pids) / _TICKS_A_SECOND


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def idle_s(cpu: int) -> float:
    """Return for how many seconds a CPU has been idle since the machine started."""
    lines = Path("/proc/stat").read_text().splitlines()
    fields = next(line.split() for line in lines if line.startswith(f"cpu{cpu} "))
    return (int(fields[4]) + int(fields[5])) / _TICKS_A_SECOND  # idle, and waiting for a disk


def forget_peak(pids: Iterable[int]) -> None:
    """Reset the peak that `peak_mb` reads."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)


def peak_mb(pids: Iterable[int]) -> float:
    """Return the sum of the processes' peak memory (resident, 10^6 bytes). Shared pages count for each process."""
    return sum(_status_kib(pid, "VmHWM") for pid in pids) * 1024 / 1e6


def resident_mb(pid: int) -> float:
    """Return the memory (resident, 10^6 bytes) that a process holds now."""
    return _status_kib(pid, "VmRSS") * 1024 / 1e6


def open_files(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _status_kib(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
