"""The file that `sfr run` writes, and how it continues an earlier one."""

import fcntl
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from router.cli.failure import BadInput
from router.cli.run.job_file import JobLine
from router.cli.run.results_file import Result, Results, is_final


def result(index: int, status: int = 200, job: str = "aa") -> Result:
    """Return a result."""
    return Result(index, job, status, msgspec.Raw(b'{"x":1}'))


def line(index: int, status: int = 200, job: str = "aa") -> bytes:
    """Return a result as its line in the file."""
    return msgspec.json.encode(result(index, status, job)) + b"\n"


def held(path: Path, *lines: bytes) -> Path:
    """Write these lines to the file."""
    path.write_bytes(b"".join(lines))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that does not exist yet."""
    return tmp_path / "results.jsonl"


@pytest.mark.parametrize(("status", "final"), [(200, True), (422, True), (499, True), (500, False), (503, False)])
def test_job_with_a_5xx_answer_is_sent_again(path: Path, status: int, final: bool) -> None:
    """A job with a status from 500 on runs again without its old answer; all other answers stay."""
    held(path, line(0), line(1, status), line(2))
    with Results(str(path)) as results:
        assert is_final(status) is final
        assert results.done == ({0: "aa", 1: "aa", 2: "aa"} if final else {0: "aa", 2: "aa"})
        statuses = Counter([200, status, 200] if final else [200, 200])
        assert results.statuses == statuses
        assert path.read_bytes() == (line(0) + line(1, status) + line(2) if final else line(0) + line(2))
        results.add([result(1)])
        assert results.statuses == statuses + Counter([200])
    assert path.read_bytes().endswith(line(2) + line(1))
    assert list(path.parent.iterdir()) == [path]


def test_cut_last_line_is_dropped_and_written_again(path: Path) -> None:
    """A killed run may leave a cut line; the lines before it stay."""
    for cut in (b"{", line(1)[:20], line(1)[:-1]):
        held(path, line(0), cut)
        with Results(str(path)) as results:
            assert results.done == {0: "aa"}
            assert path.read_bytes() == line(0)
    held(path, line(0), line(1, 503), line(2)[:-1])
    with Results(str(path)) as results:
        assert (results.done, path.read_bytes()) == ({0: "aa"}, line(0))


@pytest.mark.parametrize("end", [b"notes", b'{"ind', b'{"x'])
def test_last_line_of_another_file_is_not_cut(path: Path, end: bytes) -> None:
    """Only the beginning of a result counts as a cut line."""
    held(path, line(0), end)
    if line(1).startswith(end):
        with Results(str(path)):
            assert path.read_bytes() == line(0)
        return
    with pytest.raises(BadInput, match="line 2: no result of `sfr run`"):
        Results(str(path))
    assert path.read_bytes() == line(0) + end


@pytest.mark.parametrize(
    "bad",
    [b"{}\n", b"no\n", line(1).replace(b"200", b'"x"'), line(1).replace(b'{"x":1}', b"[" * 100_000 + b"]" * 100_000)],
    ids=["empty", "no JSON", "wrong type", "deep"],
)
def test_line_that_is_no_result_is_named(path: Path, bad: bytes) -> None:
    """The error has the line's number, and the file does not change."""
    held(path, line(0), bad)
    with pytest.raises(BadInput, match=r"results\.jsonl, line 2: no result of `sfr run`"):
        Results(str(path))
    assert path.read_bytes() == line(0) + bad


def test_two_runs_do_not_write_one_file(path: Path) -> None:
    """The second run is refused, also after the first has replaced the file."""
    for lines in ((), (line(0), line(1, 500))):
        held(path, *lines)
        first = Results(str(path))
        with pytest.raises(BadInput, match="another `sfr run` is writing it"):
            Results(str(path))
        first.add([result(2)])
        with first:
            pass
        with Results(str(path)) as second:
            assert 2 in second.done


def test_locked_file_is_refused_at_once(path: Path) -> None:
    """A lock of another process counts like one of this process."""
    holder = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True); input()"
    argv = [sys.executable, "-c", holder, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "\n"
        with pytest.raises(BadInput, match="another `sfr run` is writing it"):
            Results(str(path))
        other.communicate("\n")
    with Results(str(path)):
        pass


def test_link_and_mode_of_the_file_stay(tmp_path: Path, path: Path) -> None:
    """When failed answers are dropped, a link stays a link, and the file keeps its mode."""
    held(path, line(0), line(1, 500))
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    with Results(str(link)) as results:
        results.add([result(1)])
    assert link.is_symlink()
    assert (path.stat().st_mode & 0o777, path.read_bytes()) == (0o640, line(0) + line(1))


def test_closed_file_is_free_for_the_next_run(path: Path) -> None:
    """The same process can open it again, and no file descriptor stays open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        held(path, line(0), line(1, 500))
        with Results(str(path)):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_job_with_its_own_answer_is_done(path: Path) -> None:
    """An answer to another job at this index is an error, and so are more answers than jobs."""
    with Results(str(held(path, line(0), line(2)))) as results:
        assert results.is_done(JobLine(0, 1, b"", "aa"))
        assert not results.is_done(JobLine(1, 2, b"", "aa"))
        with pytest.raises(BadInput, match="the result of another job in the place of line 7"):
            results.is_done(JobLine(2, 7, b"", "bb"))
        results.check(3, "jobs")
        with pytest.raises(BadInput, match="results of more jobs than jobs has"):
            results.check(2, "jobs")


def test_results_are_added_whole_and_counted(path: Path) -> None:
    """Results are written in order, one complete line each, and counted by status."""
    with Results(str(path)) as results:
        assert results.is_file
        results.add([result(0), result(1, 422)])
        assert path.read_bytes() == line(0) + line(1, 422)
        results.add([result(2)])
        assert path.read_bytes() == line(0) + line(1, 422) + line(2)
        assert results.statuses == {200: 2, 422: 1}


def test_unwritable_file_is_reported(tmp_path: Path) -> None:
    """An error is reported at the start and later; a device or a pipe is written without being read first."""
    with pytest.raises(BadInput, match=r"none/x: cannot be written: No such file"):
        Results(str(tmp_path / "none" / "x"))
    with Results("/dev/full") as full, pytest.raises(BadInput, match="/dev/full: cannot be written: No space left"):
        full.add([result(0)])
    with Results("/dev/null") as null:
        null.add([result(0)])
        assert (null.done, null.statuses) == ({}, {200: 1})


def test_standard_output_stays_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If stdout is a file, it is neither continued nor closed at the end."""
    with held(path, line(0)).open("a") as out:
        monkeypatch.setattr("sys.stdout", out)
        with Results("-") as results:
            assert (results.is_file, results.name, results.done) == (False, "stdout", {})
            results.add([result(1)])
        out.write("on\n")
    assert path.read_bytes() == line(0) + line(1) + b"on\n"
