"""Shares counts between the processes of one gunicorn by files; the files of ended processes become one.

Each second a process writes all its counts to a new file and renames it over the old one. On a full disk that is an
error; with a file mapped into memory, as prometheus_client has it, a full disk would kill the process. A folder that is
gone is made again. Counts that cannot be written are missing on the other processes' pages until they can be.
"""

import fcntl
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

# Names the folder for the processes that gunicorn's master forks. A process without it shows only its own counts.
FOLDER_VARIABLE = "SFR_METRICS_FOLDER"

_ENDED = "ended"  # in place of a process id
_STATE = "gauge"  # the kind of metric that ends with its process; all others are counts


class Sample(msgspec.Struct, array_like=True, frozen=True):
    """One number with its name and labels."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, array_like=True, frozen=True):
    """All samples of one metric."""

    name: str
    kind: str
    means: str
    samples: list[Sample]


_decode = msgspec.msgpack.Decoder(list[Family]).decode
_encode = msgspec.msgpack.Encoder().encode


class SharedCounts:
    """The counts of all processes of one gunicorn; `folder` None: this process is alone."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._written = b""
        self._is_failing = False

    @classmethod
    def inherited(cls) -> "SharedCounts":
        """Return the counts in the folder that gunicorn's master has named."""
        folder = os.environ.get(FOLDER_VARIABLE)
        return cls(Path(folder) if folder else None)

    def put(self, own: Sequence[Family]) -> None:
        """Show the other processes this process' counts. A failure is logged once, and changes nothing else."""
        if self._folder is None:
            return
        counts, file = _encode(own), _file(self._folder, os.getpid())
        try:
            if counts != self._written or not file.exists():
                _make(self._folder)
                _write(file, counts)
                self._written = counts
        except OSError as error:
            self._log_change(error)
        else:
            self._log_change(None)

    def whole(self, own: Sequence[Family]) -> list[Family]:
        """Return the counts of all processes; `own` are this process'."""
        if self._folder is None:
            return list(own)
        others: list[list[Family]] = []
        with suppress(OSError), _locked(self._folder, fcntl.LOCK_SH):
            for file in _files(self._folder):
                if _process(file) != str(os.getpid()):
                    found = _read(file)
                    others.append(found if _lives(_process(file)) else _lasting(found))
        return summed((own, *others))

    def bury(self, living: Collection[int]) -> None:
        """Add the counts of processes that are not `living` to one file, and remove their files.

        If the files are being read, or cannot be written, the next call does it: the caller watches over processes and
        must not wait.
        """
        if self._folder is None:
            return
        try:
            with _locked(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                ended = _file(self._folder, _ENDED)
                staying = {_ENDED, *map(str, living)}
                dead = [file for file in _files(self._folder) if _process(file) not in staying and file.is_file()]
                if dead:
                    _write(ended, _encode(summed(map(_lasting, map(_read, (ended, *dead))))))
                for file in dead:
                    file.unlink()
        except (BlockingIOError, FileNotFoundError):
            return
        except OSError as error:
            self._log_change(error)

    def _log_change(self, error: OSError | None) -> None:
        if error and not self._is_failing:
            log.warning(
                "/metrics shows less than all: what a process has counted cannot be written to %s: %s",
                self._folder,
                error.strerror,
            )
        elif self._is_failing and error is None:
            log.info("/metrics shows all again")
        self._is_failing = error is not None


def summed(parts: Iterable[Sequence[Family]]) -> list[Family]:
    """Return each metric once, with its samples added up.

    >>> ones = [Family("a", "counter", "-", [Sample("a_total", {"x": "y"}, 1.0)])]
    >>> summed((ones, [], ones))[0].samples
    [Sample(name='a_total', labels={'x': 'y'}, value=2.0)]
    """
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for part in parts:
        for family in part:
            of_family = values.setdefault(families.setdefault(family.name, family).name, {})
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                of_family[key] = of_family.get(key, 0.0) + sample.value
    return [
        Family(name, family.kind, family.means, [Sample(n, dict(labels), v) for (n, labels), v in values[name].items()])
        for name, family in families.items()
    ]


def _lasting(families: Iterable[Family]) -> list[Family]:
    return [family for family in families if family.kind != _STATE]


def _file(folder: Path, process: int | str) -> Path:
    return folder / f"counts_{process}.db"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.db"))


def _process(file: Path) -> str:
    return file.stem.rpartition("_")[2]


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except PermissionError:
        return True
    except (ValueError, OSError):
        return False
    return True


def _read(file: Path) -> list[Family]:
    try:
        return _decode(file.read_bytes())
    except (OSError, msgspec.DecodeError):  # the file is gone, or no file of ours
        return []


def _make(folder: Path) -> None:
    """Make the folder if it is gone. If another user has made one by that name, raise PermissionError."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.lstat().st_uid != os.geteuid():
        raise PermissionError(0, "it belongs to somebody else")


def _write(file: Path, content: bytes) -> None:
    """Write the whole file, or leave the old one."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    try:
        with new.open("xb") as opened:  # "x": never through a link that another user has made
            opened.write(content)
        new.rename(file)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)  # and the lock with it
