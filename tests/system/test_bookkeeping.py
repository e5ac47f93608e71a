"""A router that cannot keep its metrics files serves on, and says so once."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.load import post_jobs, steady_load
from tests.support.programs import Router, System
from tests.support.scrape import scrape
from tests.support.worker import ScriptedWorker

LESS = "/metrics shows less than all"


def folders(place: Path) -> list[Path]:
    """Return the folders of metrics files."""
    return list(place.glob("sfr-metrics-*"))


def starts(router: Router) -> int:
    """Return how many router processes have started to serve so far."""
    return router.output.count("Application startup complete")


async def survives(router: Router, spoil: Callable[[], object]) -> None:
    """Under load, run `spoil`, kill a process and replace all: each job is answered and the master stays."""
    before, began = router.children(), starts(router)
    async with steady_load(router.url, 4) as answers:
        spoil()
        known = len(answers)
        await eventually(lambda: len(answers) > known + 100, what="answers")
    assert {answer.status for answer in answers} == {200}
    os.kill(before[0], signal.SIGKILL)
    await eventually(lambda: starts(router) == began + 1, 30, "another process")
    assert {answer.status for answer in await post_jobs(router.url, 40, 4, keep_alive=False)} == {200}
    router.send(signal.SIGHUP)
    await eventually(lambda: starts(router) == began + 3, 30, "new processes")
    await eventually(lambda: len(router.children()) == 2, 30, "the end of the old processes")
    assert {answer.status for answer in await post_jobs(router.url, 40, 4, keep_alive=False)} == {200}
    assert (await scrape(router.url)).total("sfr_processes") >= 1
    assert "Unhandled exception" not in router.output


async def test_removed_metrics_folder_is_made_again(system: System, workers: list[ScriptedWorker]) -> None:
    """A cleaner of /tmp may remove the metrics folder: live processes write their counts there again."""
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        await eventually(lambda: bool(folders(system.folder)), what="the folder")
        (folder,) = folders(system.folder)
        await post_jobs(router.url, 40, 4, keep_alive=False)
        shutil.rmtree(folder)
        await eventually(lambda: len(list(folder.glob("*.db"))) == 2, what="two processes' files")
        assert (await scrape(router.url)).total("sfr_requests_total") == 40
        await survives(router, lambda: shutil.rmtree(folder))
        assert folders(system.folder) == [folder]
        router.send(signal.SIGTERM)
        assert await router.ended() == 0
    assert not folder.exists()


async def test_metrics_folder_that_cannot_be_made_stops_nothing(system: System, workers: list[ScriptedWorker]) -> None:
    """With a file in place of the metrics folder the router serves on and logs it once per process."""
    system.configure([worker.url for worker in workers])
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        await eventually(lambda: bool(folders(system.folder)), what="the folder")
        (folder,) = folders(system.folder)

        def spoil() -> None:
            shutil.rmtree(folder)
            folder.write_text("")

        await survives(router, spoil)
        processes = 2 + 1 + 2
        assert 1 <= router.output.count(LESS) <= processes + 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(argv, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> None:
    """Leave no free byte."""
    with (place / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(b"x" * 4096):
                pass
        except OSError:
            return


@pytest.mark.parametrize("fault", ["full", "read-only", "full from the start"])
async def test_full_disk_under_the_metrics_files_stops_nothing(
    system: System, workers: list[ScriptedWorker], disk: Path, fault: str
) -> None:
    """A full or read-only disk kills neither a process (by SIGBUS) nor the master; with space, all counts return."""
    system.configure([worker.url for worker in workers])
    system.env["TMPDIR"] = str(disk)
    if fault == "full from the start":
        fill(disk)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)

        def spoil() -> None:
            if fault == "read-only":
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            elif fault == "full":
                fill(disk)

        await survives(router, spoil)
        if fault == "full from the start":  # Python chose another folder for temporary files
            return
        assert LESS in router.output
        if fault == "read-only":
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        else:
            (disk / "filler").unlink()
        await eventually(lambda: router.output.count("/metrics shows all again") >= 2, what="two processes' lines")
        assert (await scrape(router.url)).total("sfr_processes") == 2
        assert "SIGBUS" not in router.output


async def test_removed_tmpdir_stops_nothing(system: System, workers: list[ScriptedWorker], tmp_path: Path) -> None:
    """The router serves on when the folder of TMPDIR is removed after its start."""
    system.configure([worker.url for worker in workers])
    place = tmp_path / "place"
    place.mkdir()
    system.env["TMPDIR"] = str(place)
    async with system.sidecar(), system.router(2) as router:
        await router.sees(healthy=3)
        await survives(router, lambda: shutil.rmtree(place))
