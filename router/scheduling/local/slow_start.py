"""Decides how many of its slots a worker gets that has just come back: a share that grows over `slow_start_ms`.

A worker comes back if it could get jobs, was unhealthy or ejected since, and may get jobs again. One that is new has
all its slots at once, and so has one that was drained. A worker without a cap has no slots to give over time.
lua/slow_start.lua decides alike.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from router.scheduling.messages import START_STEP_MS, Rules


@dataclass(frozen=True, slots=True)
class Start:
    """A worker that came back at `since`, and may run `limit` jobs until it may run more at `until_ms`."""

    since: int
    limit: int
    until_ms: int


class SlowStarts:
    """The workers that have come back, by URL, and those that are `out`: unhealthy or ejected.

    `look_at_ms` is the moment at which the first of them may run more jobs, if the present call was about any.
    """

    def __init__(self, rules: Rules) -> None:
        self.by_url: dict[str, Start] = {}
        self.look_at_ms: int | None = None
        self._all_ms = rules.slow_start_ms
        self.out: set[str] = set()

    def has_room(self, url: str, running: int) -> bool:
        """Whether the worker, which runs `running` jobs, may get one more as far as its start goes."""
        start = self.by_url.get(url)
        return start is None or running < start.limit

    def begin(self, caps: Mapping[str, int], is_out: Mapping[str, bool], was_well: Collection[str], now: int) -> None:
        """Take over a new plan: of the workers that may get jobs, begin with those that have come back.

        `caps` has the workers of the plan. `is_out` says of all workers that are not drained whether they are unhealthy
        or ejected. `was_well` has the workers that could get jobs by the last plan, because they were healthy.
        """
        if not self._all_ms:
            return
        known: dict[str, int | None] = dict.fromkeys(self.out)
        known |= {url: start.since for url, start in self.by_url.items()}
        known |= {url: None for url in was_well if is_out.get(url)}
        self.out, self.by_url = set(), {}
        for url, since in known.items():
            if url not in is_out:
                continue  # it is drained, or has left
            if is_out[url] or url not in caps:
                self.out.add(url)
            else:
                self._set(url, caps[url], now if since is None else since, now)
        self._look()

    def go_on(self, caps: Mapping[str, int], now: int) -> None:
        """Give those more slots that may have more now; `caps` as in `begin`."""
        due = [url for url, start in self.by_url.items() if start.until_ms <= now]
        for url in due:
            self._set(url, caps.get(url, 0), self.by_url.pop(url).since, now)
        if due:
            self._look()

    def _set(self, url: str, cap: int, since: int, now: int) -> None:
        elapsed = now - since
        limit = max(1, -(-cap * elapsed // self._all_ms))
        if cap > 1 and elapsed < self._all_ms and limit < cap:
            until_ms = max(since + limit * self._all_ms // cap + 1, now + START_STEP_MS)
            self.by_url[url] = Start(since, limit, until_ms)

    def _look(self) -> None:
        moments = [start.until_ms for start in self.by_url.values()]
        self.look_at_ms = min(moments) if moments else None
