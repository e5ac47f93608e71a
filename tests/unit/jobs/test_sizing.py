"""Of which jobs the dispatcher asks for the size, and of which it learns."""

from typing import Any

import msgspec
import pytest

from router.http.answer import Answer
from router.http.headers import read_worker_head
from router.http.response import Response, UpstreamFailed
from router.jobs.job import Job
from router.jobs.options import NO_OPTIONS, JobOptions
from router.jobs.sooner.sizes import Sizes
from router.policy.tenants import TenantRule
from router.scheduling.messages import Wish
from tests.support.timeless import timeless
from tests.unit.jobs.test_dispatcher import SICK, Bench, Workers, says

ORDERED = {"run-7": TenantRule(order="longest_first")}
LIMIT = b'{"status": "Failed", "run_result": {"status": "TimeLimitExceeded"}}'
PACKED = Response(read_worker_head(200, [(b"content-encoding", b"gzip")]), b"\x1f\x8b")


class Told(Sizes):
    """Sizes that need a look-up, and record what they are asked and told; `fault` is raised by look-ups."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.looked_up: list[Job] = []
        self.learned: list[tuple[str, int]] = []
        self.has_cut = False
        self.fault = fault

    def expected_ms(self, job: Job) -> int | None:
        """Return 1234 for a job that was looked up."""
        return self.known_ms(job) if job in self.looked_up else None

    def known_ms(self, job: Job) -> int:
        """Return the same for every job."""
        del job
        return 1234

    async def look_up(self, jobs: Any) -> None:
        """Record the jobs, or raise the fault."""
        if self.fault is not None:
            raise self.fault
        self.looked_up += jobs

    def learn(self, job: Job, worker_url: str, took_ms: int, *, is_cut: bool = False) -> None:
        """Record it."""
        del job
        self.learned.append((worker_url, took_ms))
        self.has_cut |= is_cut


def ran(
    *script: Response | UpstreamFailed,
    sizes: Sizes,
    tenant: str = "run-7",
    options: JobOptions = NO_OPTIONS,
    has_left: bool = False,
) -> tuple[Bench, Answer | None]:
    """Run one job of the tenant in a fleet where the jobs of run-7 go longest first; return its answer."""
    made: list[tuple[Bench, Answer | None]] = []

    async def job() -> None:
        bench = Bench(Workers(*script), tenant=tenant, tenants=ORDERED, has_left=has_left, sizes=sizes)
        bench.job = msgspec.structs.replace(bench.job, options=options)
        answered: list[Answer | None] = []
        bench.dispatcher.begin(bench.job, answered.append)
        await bench.dispatcher.finish()
        while not answered:
            await bench.dispatcher.turns.next()
        made.append((bench, answered[0]))

    timeless(job())
    return made[0]


def test_a_tenant_s_longest_jobs_go_first() -> None:
    """The size is looked up before the job asks; then it is asked with, and the attempt is learned from."""
    sizes = Told()
    bench, answer = ran(says(), sizes=sizes)
    (asked,) = bench.leases.asked
    assert asked.wish == Wish(0, size_ms=1234)
    assert (answer is not None and answer.status, sizes.learned) == (200, [("http://w1", 0)])


def test_a_retry_asks_with_the_same_size() -> None:
    """And only the attempt that brought a result is learned from."""
    sizes = Told()
    bench, _ = ran(says(503), says(), sizes=sizes)
    assert [asked.wish for asked in bench.leases.asked] == [Wish(0, size_ms=1234)] * 2
    assert (len(sizes.looked_up), sizes.learned) == (1, [("http://w2", 0)])


@pytest.mark.parametrize(
    ("tenant", "options", "learns"),
    [
        ("", NO_OPTIONS, False),
        ("", JobOptions(expected_ms=5), False),
        ("run-8", NO_OPTIONS, False),
        ("", JobOptions(size_key="k"), True),
        ("run-8", JobOptions(is_sized=True), True),
    ],
)
def test_other_jobs_ask_for_no_size(tenant: str, options: JobOptions, *, learns: bool) -> None:
    """They are learned from only where they name a key, or where their batch has an order."""
    sizes = Told()
    bench, _ = ran(says(), sizes=sizes, tenant=tenant, options=options)
    assert ([asked.wish for asked in bench.leases.asked], sizes.looked_up) == ([None], [])
    assert bool(sizes.learned) == learns


def test_a_job_that_was_cut_off_at_its_limit_is_learned_as_such() -> None:
    """It takes at least so long."""
    sizes = Told()
    ran(says(200, LIMIT), sizes=sizes)
    assert (sizes.learned, sizes.has_cut) == ([("http://w1", 0)], True)


@pytest.mark.parametrize("outcome", [says(200, SICK), says(422, b"{}"), PACKED])
def test_nothing_is_learned_from_a_job_that_did_not_end(outcome: Response) -> None:
    """The time of an error or of a refusal says nothing of a job's size; nor does a text that is packed."""
    sizes = Told()
    ran(outcome, outcome, outcome, sizes=sizes)
    assert sizes.learned == []


def test_a_fault_of_a_look_up_is_answered() -> None:
    """The client gets an answer, whatever happens."""
    bench, answer = ran(says(), sizes=Told(RuntimeError("odd")))
    assert (answer is not None and answer.status, bench.leases.asked) == (500, [])


def test_a_client_that_leaves_during_the_look_up_gets_no_lease() -> None:
    """Its job has not asked so far, and does not ask."""
    bench, answer = ran(says(), sizes=Told(), has_left=True)
    assert (answer, bench.leases.asked) == (None, [])
