"""How many CPUs this process may use, with both versions of cgroups."""

import os
from pathlib import Path

import pytest

from router.cli.agent.cpus import Cpus, usable_cpus


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "150000 100000"}, 0.5),
        ("0::/not/mounted/here", {"cpu.max": "200000 100000"}, 2.0),
        ("3:cpuset:/\n2:cpu,cpuacct:/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "-1"}, None),
        (
            "1:cpu:/x\n0::/",
            {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        ("1:memory:/x", {"cpu.max": "100 100"}, None),
    ],
)
def test_quota_is_the_lowest_on_the_way_up(
    tmp_path: Path, own: str, files: dict[str, str], quota: float | None
) -> None:
    """The lowest quota of the process' cgroup and its parents counts; it is None without any quota."""
    (tmp_path / "own").write_text(own + "\n")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    found = usable_cpus(tmp_path / "cgroup", tmp_path / "own")
    assert found == Cpus(len(os.sched_getaffinity(0)), quota)


def test_count_is_whole_and_above_zero() -> None:
    """The count is rounded down, because one job more than whole CPUs would only delay the others."""
    assert [Cpus(8, None).count, Cpus(8, 2.9).count, Cpus(8, 0.3).count, Cpus(2, 16).count] == [8, 2, 1, 2]
    assert str(Cpus(8, None)) == "8 by affinity, no cgroup quota"
    assert str(Cpus(8, 1.5)) == "8 by affinity, a cgroup quota of 1.5"


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    """Missing files are no error."""
    assert usable_cpus(tmp_path / "none", tmp_path / "none").quota is None
