"""The files by which a gunicorn's processes share what they count: those of ended processes become one.

prometheus_client leaves them all, 128 kB a process, for ever: a router that is reloaded each day would fill its folder
and read ever more at each scrape. Who reads holds a lock, so that no count is ever seen twice, or not at all.
"""

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

_ENDED = "ended"  # in the place of a process id


@contextmanager
def steady(folder: str) -> Iterator[None]:
    """Keep the files as they are while they are read."""
    with _locked(folder, fcntl.LOCK_SH):
        yield


def bury(folder: str, living: Collection[int]) -> None:
    """Let go of what processes that are not `living` showed of themselves, and add what they counted to one file.

    Where the files are being read, that is left to the next time: the caller has processes to watch, and does not wait.
    """
    dead = [file for file in Path(folder).glob("*.db") if _process(file) not in {_ENDED, *map(str, living)}]
    counts = [file for file in dead if not file.name.startswith("gauge_")]
    for file in dead:
        if file not in counts:
            file.unlink()
    with suppress(BlockingIOError), _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
        for file in counts:
            _add(file, file.with_name(f"{file.stem.partition('_')[0]}_{_ENDED}.db"))
            file.unlink()


def _process(file: Path) -> str:
    return file.stem.rpartition("_")[2]


def _add(file: Path, to: Path) -> None:
    whole = MmapedDict(str(to))  # type: ignore[no-untyped-call]
    for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        before, _ = whole.read_value(key)  # type: ignore[no-untyped-call]
        whole.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]
    whole.close()  # type: ignore[no-untyped-call]


@contextmanager
def _locked(folder: str, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)  # and the lock with it
