"""A failed job as the journal keeps it: whose it was, what its client got, and why each attempt brought no result.

It holds no code, no stdin and no output. Each text is bounded, so that the journal is.
"""

from collections.abc import Iterable
from datetime import datetime
from itertools import islice

import msgspec

# So many failed jobs are kept, fleet-wide.
MOST = 500
# So many are shown, unless more are asked for.
SHOWN = 100
# So many characters of each text are kept: a path, a cause, a detail.
MOST_CHARACTERS = 200
# Of more attempts, the last ones are kept.
MOST_ATTEMPTS = 10


class FailedTry(msgspec.Struct, frozen=True):
    """An attempt without a result. `cause` is prose without its subject; `took_ms` None: that is not known."""

    worker_url: str
    cause: str
    took_ms: int | None = None


class FailedJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job that has ended without a result by no fault of its client or its code.

    `language` is "" if the job named none. `outcome` is a word of policy/verdict.py, or `answer_cut`. `detail` is what
    the router told the client. `took_ms` None: it never became a job. `queue_ms` is for how long it waited for leases.
    """

    request_id: str
    tenant: str
    path: str
    language: str
    status: int
    outcome: str
    took_ms: int | None = None
    queue_ms: int = 0
    detail: str = ""
    attempts: tuple[FailedTry, ...] = ()

    def clipped(self) -> "FailedJob":
        """Return the job with its texts and attempts cut to what is kept."""
        attempts = [
            msgspec.structs.replace(each, worker_url=_clip(each.worker_url), cause=_clip(each.cause))
            for each in self.attempts[-MOST_ATTEMPTS:]
        ]
        texts = {"path": _clip(self.path), "detail": _clip(self.detail)}
        return msgspec.structs.replace(self, attempts=tuple(attempts), **texts)


class Failure(msgspec.Struct, frozen=True):
    """A failed job, and when it ended."""

    at: datetime
    job: FailedJob


class Search(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which failed jobs are asked for: those of a request, a tenant and a worker; None: of any. At most `limit`.

    A worker's are those with an attempt there. A batch's request id finds all of its jobs: each has the batch's id and
    its number in the batch.
    """

    request_id: str | None = None
    tenant: str | None = None
    worker: str | None = None
    limit: int = SHOWN

    def found(self, failures: Iterable[Failure]) -> list[Failure]:
        """Return those of `failures` that are asked for, in their order."""
        return list(islice(filter(self._is_wanted, failures), self.limit))

    def _is_wanted(self, failure: Failure) -> bool:
        job = failure.job
        return (
            (self.request_id is None or _is_of(job.request_id, self.request_id))
            and self.tenant in (None, job.tenant)
            and (self.worker is None or any(each.worker_url == self.worker for each in job.attempts))
        )


def _is_of(name: str, request_id: str) -> bool:
    """Whether the job `name` is of this request.

    >>> _is_of("a-1", "a-1"), _is_of("a-1", "a"), _is_of("a-b", "a"), _is_of("ab", "a")
    (True, True, False, False)
    """
    batch, _, number = name.rpartition("-")
    return request_id == name or (request_id == batch and number.isdigit())


def _clip(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
