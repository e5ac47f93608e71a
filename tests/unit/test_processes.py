"""How a program and its process group are ended; the programs are shells."""

import asyncio
import os
import signal
from asyncio.subprocess import Process
from pathlib import Path

import pytest

from router.processes import end_group, signal_group, start_session
from tests.support.eventually import eventually


async def shell(folder: Path, script: str) -> Process:
    """Start a shell in its own session, and wait until its script has made the file `ready`."""
    process = await start_session(["sh", "-c", script], {"PATH": os.environ["PATH"], "READY": str(folder / "ready")})
    await eventually((folder / "ready").exists, what="the script's start")
    return process


async def test_program_has_its_own_group(tmp_path: Path) -> None:
    """A signal to this process' group, such as Ctrl-C, does not reach it."""
    process = await shell(tmp_path, ': > "$READY"; sleep 60')
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    assert signal_group(process, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    await eventually(lambda: not signal_group(process, 0), what="the child's end")


async def test_whole_group_gets_sigterm_and_time(tmp_path: Path) -> None:
    """A shell does not forward SIGTERM, so its child gets it directly and may finish its work."""
    child = 'trap "sleep 0.2; : > $READY.done; exit" TERM; : > "$READY"; while :; do sleep 0.01; done'
    process = await shell(tmp_path, f"({child}) & wait")
    assert not await end_group(process, 10, whole=True)
    assert (tmp_path / "ready.done").exists()
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("whole", [True, False])
async def test_late_program_is_killed(tmp_path: Path, whole: bool) -> None:
    """A program that does not end in time is killed with its whole group."""
    process = await shell(tmp_path, 'trap "" TERM; sleep 60 & : > "$READY"; wait')
    assert await end_group(process, 0.1, whole=whole)
    assert process.returncode == -signal.SIGKILL
    await eventually(lambda: not signal_group(process, 0), what="the child's end")


async def test_children_that_a_program_leaves_are_killed_at_once(tmp_path: Path) -> None:
    """If the whole group was told to end, they have their time instead."""
    process = await shell(tmp_path, 'trap "exit 3" TERM; (trap "" TERM; sleep 60) & : > "$READY"; wait')
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert not await end_group(process, 30, whole=False)
    assert loop.time() - started < 10
    assert process.returncode == 3
    await eventually(lambda: not signal_group(process, 0), what="the child's end")


async def test_ending_an_ended_program_does_nothing() -> None:
    """Nothing is left to signal, and the program was not late."""
    process = await start_session(["true"], {"PATH": os.environ["PATH"]})
    await process.wait()
    assert not await end_group(process, 1, whole=True)
    assert not await end_group(process, 1, whole=False)
    assert process.returncode == 0
