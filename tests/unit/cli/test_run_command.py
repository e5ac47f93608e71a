"""What `sfr run` refuses before it asks a router."""

import fcntl
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli.main import app

cli = CliRunner()


def refused(*options: object, url: str = "http://127.0.0.1:1") -> str:
    """Run `sfr run` with these options, which it must refuse; return what it prints."""
    done = cli.invoke(app, ["run", *map(str, options), "--url", url])
    assert (done.exit_code, done.stdout) == (2, "")
    return done.stderr


@pytest.mark.parametrize(
    ("jobs", "results", "told"),
    [
        (
            b'{"a": 1}\n\n{"a": }\n',
            None,
            "{jobs}, line 3: expected a JSON object: JSON is malformed: invalid character",
        ),
        (b'{"a": 1}\n"x"\n', None, "{jobs}, line 2: expected a JSON object\n"),
        (b'[{"a": 1}]\n', None, "{jobs}, line 1: expected a JSON object; of a JSON list, `jq -c '.[]'` makes lines\n"),
        (b'{}\n{"router": {"group": "a b"}}\n', None, "{jobs}, line 2: router: Expected 1 to 128 printable ASCII"),
        (b"{}\n", b'{"a": 1}\n', "{results}, line 1: no result of `sfr run`: Object missing required field `index`"),
        (b"{}\n", b"some notes", "{results}, line 1: no result of `sfr run`\n"),
        (
            b'{"a": 1}\n{"a": 2}\n',
            b'{"index":1,"job":"00","status":200,"body":{}}\n',
            "{results} has the result of another job in the place of line 2: the jobs have changed since; name another",
        ),
        (
            b"{}\n",
            b'{"index":1,"job":"00","status":200,"body":{}}\n',
            "{results} has results of more jobs than {jobs} has; name another output\n",
        ),
    ],
)
def test_invalid_files_stay_unchanged(tmp_path: Path, jobs: bytes, results: bytes | None, told: str) -> None:
    """Status 2 and a message with the line and the mistake come before any job runs."""
    jobs_path, results_path = tmp_path / "jobs", tmp_path / "results"
    jobs_path.write_bytes(jobs)
    if results is not None:
        results_path.write_bytes(results)
    assert told.format(jobs=jobs_path, results=results_path) in refused(jobs_path, "-o", results_path)
    assert results_path.read_bytes() == (results or b"")


def test_unusable_files_are_reported(tmp_path: Path) -> None:
    """A missing file, a folder, a missing folder and a file in use each have their own message."""
    jobs, output = tmp_path / "jobs", tmp_path / "results"
    jobs.write_text("{}")
    assert refused("/none", "-o", output) == "/none: cannot be read: No such file or directory\n"
    assert refused(tmp_path, "-o", output) == f"{tmp_path}: cannot be read: Is a directory\n"
    nowhere = tmp_path / "none" / "x"
    assert refused(jobs, "-o", nowhere) == f"{nowhere}: cannot be written: No such file or directory\n"
    with output.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refused(jobs, "-o", output) == f"{output}: another `sfr run` is writing it\n"


@pytest.mark.parametrize("url", ["nowhere", "ftp://router", "http://", "http://router:x", "http://router:0"])
def test_bad_url_is_reported(tmp_path: Path, url: str) -> None:
    """The message shows an example of a good URL."""
    told = f"--url: expected a URL such as http://router:8000, got {url!r}\n"
    assert refused("/none", "-o", tmp_path / "results", url=url) == told
