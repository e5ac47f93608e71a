"""The files of ended processes become one, no count is read twice or missed, and a full disk stops no process."""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import msgspec
import pytest

from router.telemetry.multiprocess import Family, Sample, SharedCounts

LIVING, DEAD = 1, range(4_000_002, 4_000_042)  # process 1 lives; no process id is over 2^22
LESS = "/metrics shows less than all"


def counted(process: int) -> list[Family]:
    """Return one process' counts and its state."""
    labels = {"verdict": f"v{process % 2}"}
    return [
        Family("sfr_counter", "counter", "-", [Sample("sfr_counter_total", labels, float(process))]),
        Family("sfr_histogram", "histogram", "-", [Sample("sfr_histogram_bucket", {"le": "1.0"}, 1.0)]),
        Family("sfr_gauge", "gauge", "-", [Sample("sfr_gauge", {}, 1.0)]),
    ]


def count(folder: Path, process: int) -> None:
    """Write one process' counts."""
    (folder / f"counts_{process}.db").write_bytes(msgspec.msgpack.encode(counted(process)))


def total(folder: Path, kind: str) -> dict[str, float]:
    """Return a metric's samples on a page, by label value."""
    (family,) = (family for family in SharedCounts(folder).whole([]) if family.kind == kind)
    return {next(iter(sample.labels.values()), ""): sample.value for sample in family.samples}


def test_counts_of_ended_processes_become_one_file(tmp_path: Path) -> None:
    """The sums stay the same while others read, and an ended process' state is dropped."""
    for process in (LIVING, *DEAD):
        count(tmp_path, process)
    before, is_over = total(tmp_path, "counter"), Event()
    assert before == {"v0": sum(DEAD[::2]), "v1": 1 + sum(DEAD[1::2])}
    assert total(tmp_path, "gauge") == {"": 1}

    def read() -> list[dict[str, float]]:
        seen = [total(tmp_path, "counter")]
        while not is_over.is_set():
            seen.append(total(tmp_path, "counter"))
        return seen

    shared = SharedCounts(tmp_path)
    with ThreadPoolExecutor() as readers:
        seen = [readers.submit(read) for _ in range(2)]
        for living in range(1, len(DEAD) + 1):
            shared.bury([LIVING, *DEAD[living:]])
        is_over.set()
    assert all(each == before for reader in seen for each in reader.result())
    shared.bury([LIVING])  # what each reader read meanwhile
    assert {file.name for file in tmp_path.iterdir()} == {f"counts_{LIVING}.db", "counts_ended.db"}
    assert total(tmp_path, "counter") == before
    assert total(tmp_path, "histogram") == {"1.0": 1 + len(DEAD)}


def test_merging_does_not_wait_for_readers(tmp_path: Path) -> None:
    """The caller is gunicorn's master, which must watch its processes."""
    count(tmp_path, DEAD[0])
    reader = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    SharedCounts(tmp_path).bury([LIVING])
    assert [file.name for file in tmp_path.iterdir()] == [f"counts_{DEAD[0]}.db"]
    os.close(reader)
    SharedCounts(tmp_path).bury([LIVING])
    assert [file.name for file in tmp_path.iterdir()] == ["counts_ended.db"]


def test_removed_folder_is_made_again_with_all_counts_of_live_processes(tmp_path: Path) -> None:
    """It is made again even if nothing was counted since, and no other user can read it."""
    shared = SharedCounts(tmp_path / "metrics")
    for _ in range(2):
        shared.put(counted(LIVING))
        assert (tmp_path / "metrics").stat().st_mode & 0o777 == 0o700
        assert SharedCounts(tmp_path / "metrics").whole([]) == []  # this process has its own counts in memory
        assert [file.name for file in (tmp_path / "metrics").iterdir()] == [f"counts_{os.getpid()}.db"]
        shutil.rmtree(tmp_path / "metrics")
        shared.bury([])
        assert shared.whole(counted(LIVING)) == counted(LIVING)


def _is_a_file(folder: Path) -> None:
    folder.write_text("")


def _is_a_link_elsewhere(folder: Path) -> None:
    folder.symlink_to("/nowhere/at/all")


def _holds_folders_in_place_of_files(folder: Path) -> None:
    folder.mkdir()
    (folder / f"counts_{os.getpid()}.db").mkdir()
    (folder / "counts_ended.db").mkdir()
    (folder / f"counts_{DEAD[0]}.db").mkdir()


def _holds_garbage(folder: Path) -> None:
    folder.mkdir()
    for process in ("ended", DEAD[0], "x"):
        (folder / f"counts_{process}.db").write_bytes(b"\xff garbage")


@pytest.mark.parametrize(
    "spoil",
    [_is_a_file, _is_a_link_elsewhere, _holds_folders_in_place_of_files, _holds_garbage],
    ids=lambda it: it.__name__,
)
def test_page_shows_this_process_without_a_usable_folder(
    tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """No error is raised, and the problem is logged at most once."""
    caplog.set_level(logging.INFO)
    spoil(tmp_path / "metrics")
    shared = SharedCounts(tmp_path / "metrics")
    for _ in range(3):
        shared.put(counted(LIVING))
        assert shared.whole(counted(LIVING)) == counted(LIVING)
        shared.bury([LIVING, os.getpid()])
    assert caplog.text.count(LESS) <= 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Fill the disk; return the file that fills it."""
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(b"x" * 4096):
            pass
    return disk / "filler"


def test_full_disk_is_logged_once_and_stops_no_process(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With space again the counts of the meantime are shown, and no half-written file is left."""
    caplog.set_level(logging.INFO)
    shared = SharedCounts(small_disk / "metrics")
    shared.put(counted(1))
    count(small_disk / "metrics", DEAD[0])
    filler = fill(small_disk)
    for number in (2, 3):
        shared.put(counted(number))
        shared.bury([os.getpid()])
    assert caplog.text.count(LESS) == 1
    assert total(small_disk / "metrics", "counter") == {"v0": DEAD[0]}
    filler.unlink()
    shared.put(counted(3))
    shared.bury([os.getpid()])
    assert caplog.messages[-1] == "/metrics shows all again"
    assert {file.name for file in (small_disk / "metrics").iterdir()} == {f"counts_{os.getpid()}.db", "counts_ended.db"}


def test_prometheus_client_maps_no_file(tmp_path: Path) -> None:
    """An operator may have set PROMETHEUS_MULTIPROC_DIR for other programs."""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    code = "from router.telemetry.prometheus import *; Metrics(SharedCounts(None)).set_state(ProcessState(1, 1, False))"
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    assert not list(tmp_path.iterdir())
