"""`sfr events`, `failures` and `history`: what they print, what they ask for, and which options they refuse."""

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import pytest
from typer.testing import CliRunner

from router.api.schemas import FailedJobs
from router.cli.main import app
from router.fleet.journal.failed_job import FailedJob, FailedTry, Failure
from router.fleet.journal.points import Point, laid_out
from tests.support.programs import ROOT
from tests.support.worker import ScriptedWorker, always

NO_EVENTS = {"events": [], "next": "0-0"}
BEGINS = 1_800_000_000
AT = datetime(2026, 11, 28, 18, 5, 11, tzinfo=UTC)
TRIED = FailedTry("http://a:1", "returned 503: Service Unavailable", 12), FailedTry("http://b:1", "timed out", 10_020)
JOB = FailedJob("job-1", "run-7", "/run_code", "python", 503, "all_failed", 10_041, 31, "All workers failed", TRIED)
REFUSED = FailedJob("job-2", "default", "/submit", "", 503, "buffers_full", detail="1 MB of request bodies are held")


async def told(arguments: list[str], *jobs: FailedJob) -> tuple[str, str]:
    """Run the command against a router that knows these failed jobs; return its output and what was asked."""
    body = FailedJobs.of(Failure(AT, job) for job in jobs).model_dump(mode="json")
    async with ScriptedWorker(script=always(200, body)) as router:
        done = await asyncio.to_thread(CliRunner().invoke, app, ["failures", *arguments, "--url", router.url])
        assert done.exit_code == 0, done.output
        return done.stdout, router.jobs[0].target


async def test_a_failed_job_is_told_with_its_attempts() -> None:
    """A line says what its client got and when, and a line each what the router said and the attempts brought."""
    first, *rest = (await told([], JOB, REFUSED))[0].splitlines()
    assert first.endswith("  503 all_failed  /run_code python, tenant run-7, after 10 s, 31 ms of it waiting  job-1")
    assert rest[:3] == [
        "    All workers failed",
        "    http://a:1 returned 503: Service Unavailable (after 12 ms)",
        "    http://b:1 timed out (after 10 s)",
    ]
    assert rest[3].endswith("  503 buffers_full  /submit, tenant default  job-2")
    assert rest[4:] == ["    1 MB of request bodies are held"]


async def test_a_search_is_passed_on() -> None:
    """A worker's URL may have any spelling. Without a match the command says so, and is done."""
    search = ["--request-id", "a", "--tenant", "b", "--worker", "HTTP://C.:80/", "--limit", "5"]
    said, asked = await told(search)
    assert asked == "/admin/failures?request_id=a&tenant=b&worker=http%3A%2F%2Fc&limit=5"
    assert said == "No such job is among the last 500 that failed\n"
    assert await told([]) == ("No job has failed\n", "/admin/failures?")


async def test_json_is_the_api_s() -> None:
    """Programs get what the router answers, times in UTC."""
    (job,) = json.loads((await told(["--json"], JOB))[0])["failures"]
    assert (job["at"], job["request_id"]) == ("2026-11-28T18:05:11Z", "job-1")


async def test_history_has_a_line_for_each_step() -> None:
    """Where nothing is known there is no number; the newest step is the last."""
    point = Point(BEGINS + 10, 120.5, 3, 0, 310, 2900, 0.4, 20, 0.04, 2, {"default": 5})
    body = msgspec.to_builtins(laid_out([point], 10, 2, BEGINS + 20))
    async with ScriptedWorker(script=always(200, body)) as router:
        command = ["history", "--range", "1h", "--url", router.url]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert (done.exit_code, router.jobs[0].target) == (0, "/admin/history?range=1h")
    head, unknown, known = done.stdout.splitlines()
    assert " ".join(head.split()) == "time jobs/s errors/s retries/s running waiting p50 p99 wait p50 wait p99"
    assert unknown.split()[1:] == ["-"] * 9
    assert " ".join(known.split()[1:]) == "120 <0.1 2.0 3.0 0 310 ms 2.9 s 0.4 ms 20 ms"


async def test_a_search_without_a_find_says_so_beside_the_output() -> None:
    """Programs that read the output get nothing, and people know that the command has looked."""
    async with ScriptedWorker(script=always(200, NO_EVENTS)) as router:
        for words, said in (([], "Nothing has happened\n"), (["--kind", "queue_full"], "Nothing of that kind has")):
            done = await asyncio.to_thread(CliRunner().invoke, app, ["events", "--url", router.url, *words])
            assert (done.exit_code, done.stdout, done.stderr.startswith(said)) == (0, "", True)


@pytest.mark.parametrize(("command", "nothing"), [("events", NO_EVENTS), ("failures", {"failures": []})])
async def test_nothing_is_not_said_to_have_happened_while_redis_takes_nothing_new(
    command: str, nothing: dict[str, object]
) -> None:
    """The cause stands beside the output, because what happens now cannot be seen."""
    async with ScriptedWorker(script=always(200, {**nothing, "redis_because": "OOM"})) as router:
        done = await asyncio.to_thread(CliRunner().invoke, app, [command, "--url", router.url])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("Redis is unavailable: OOM. What has happened since then is shown when it is back")


@pytest.mark.parametrize(
    ("since", "asked"),
    [
        ("2026-11-28 18:05:11", "2026-11-28T18%3A05%3A11%2B05%3A30"),
        ("2026-11-28T18:05Z", "2026-11-28T23%3A35%3A00%2B05%3A30"),
        ("10m", "10m"),
    ],
)
async def test_a_moment_is_read_as_moments_are_shown(monkeypatch: pytest.MonkeyPatch, since: str, asked: str) -> None:
    """Without a zone it is in this host's: a line's moment can be copied."""
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    try:
        async with ScriptedWorker(script=always(200, NO_EVENTS)) as router:
            await asyncio.to_thread(CliRunner().invoke, app, ["events", "--since", since, "--url", router.url])
            assert f"since={asked}" in router.jobs[0].target
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_following_ends_when_nobody_reads() -> None:
    """`sfr events --follow | head -1` does not wait for the next event, which may be hours away."""
    ours, theirs = os.pipe()
    os.close(ours)
    async with ScriptedWorker(script=always(200, NO_EVENTS)) as router:
        command = [sys.executable, "-m", "router.cli", "events", "--follow", "--url", router.url]
        follows = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=theirs)
        os.close(theirs)
        try:
            assert await asyncio.wait_for(follows.wait(), 20) == 0
        finally:
            with suppress(ProcessLookupError):
                follows.kill()


def test_a_terminal_without_some_letters_gets_their_codes() -> None:
    """A worker's error, or the doctor's arrow, does not end the command with a traceback."""
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "router.cli", "doctor", "/no/such/file"]
    done = subprocess.run(command, cwd=ROOT, env=latin, capture_output=True, check=False)
    assert (done.returncode, b"\\u2192 correct it" in done.stdout, done.stderr) == (1, True, b"")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["history", "--range", "2h"], "--range: expected one of 5m, 1h, 24h, got '2h'"),
        (["failures", "--limit", "0"], "--limit: expected a whole number from 1 to 500, got '0'"),
        (["failures", "--limit", "many"], "--limit: expected a whole number from 1 to 500, got 'many'"),
        (["failures", "--tenant", "a b"], "--tenant: expected a name of 1 to 64 characters"),
        (["failures", "--request-id", ""], "--request-id: expected 1 to 200 characters of text, got ''"),
        (["failures", "--request-id", "a" * 201], "--request-id: expected 1 to 200 characters of text, got 'aaa"),
        (["failures", "--request-id", "\udcff"], r"--request-id: expected 1 to 200 characters of text, got '\udcff'"),
        (["failures", "--worker", "server1"], "--worker: expected a URL such as http://server1:8080, got 'server1'"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], said: str) -> None:
    """The status is 2, and the line names the option and what was expected."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert said in done.stderr
