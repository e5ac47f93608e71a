"""Writes `bench.peers`' figures as Markdown for docs/speed.md."""

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from bench.support.proxies import OURS
from bench.support.samples import Sample, Samples, ratio, typical

# If a proxy's CPU was idle for more than this share, the proxy could have done more.
_SPARE = 0.1
Cell = Callable[[Sequence[Sample]], str]


def ratios(samples: Samples) -> str:
    """Return the table of a request's whole CPU, divided by each peer's.

    The last column has the router's CPU without Redis and sidecar, divided by the first peer's.
    """
    first, *others = [name for name in _proxies(samples) if name != OURS]
    rows = [
        [
            load,
            *(f"{ratio(by[OURS], by[peer], 'whole_us'):.2f}" for peer in (first, *others)),
            f"{ratio(by[OURS], by[first], 'cpu_us'):.2f}",
        ]
        for load, by in samples.items()
    ]
    head = ["CPU a request, this router's with Redis and sidecar", *(f"/ {peer}'s" for peer in (first, *others))]
    return markdown([*head, f"the router alone / {first}'s"], rows)


def put(made: str, page: str, program: str) -> str:
    """Return `page` with `made` between the marks `<!-- program -->` and `<!-- /program -->`. Raises ValueError."""
    marked = re.compile(rf"(<!-- {program} -->\n\n).*?(\n\n<!-- /{program} -->)", re.DOTALL)
    replaced, count = marked.subn(lambda marks: f"{marks[1]}{made}{marks[2]}", page)
    if count != 1:
        raise ValueError(f"expected one pair of marks of {program}, found {count}")
    return replaced


def tables(samples: Samples, machine: Mapping[str, object], svg: str) -> str:
    """Return the part of docs/speed.md about the peers. `svg` is the plot's path, relative to that page."""
    return f"""\
Measured on {machine["cores"]} cores of {machine["cpu"]}, {machine["kernel"]}, with Python {machine["python"]};
rounds: {len(_rounds(samples))}. Other programs took {_disturbed(samples):.0%} of the proxies' CPU (median): the more,
the less the figures say.

![CPU a request]({svg})

### CPU a request, by the peers'

Above 1, the peer needs less CPU. This router's CPU includes that of Redis and the sidecar. The last column leaves these
out. Each figure is the median of the rounds' ratios.

{ratios(samples)}

### CPU µs a request

The CPU of all processes of the proxy, user and system. The last column is the CPU of Redis and the sidecar. The first
column is the sum of this router's and of the last one.

{_costs(samples)}

### Requests a second

≥: the proxy's CPU was partly idle, so the proxy could have done more. The load, the workers or the rate was the limit.

{_by_proxy(samples, _per_second)}

### Milliseconds to the answer, p50 / p99

With a fixed rate, a job's time begins when the job is due. Otherwise it begins when the job is sent.

{_by_proxy(samples, lambda of: f"{_number(typical(of, 'p50_ms'))} / {_number(typical(of, 'p99_ms'))}")}

### Memory at its most, MB

The resident memory of all processes of the proxy. Shared pages count for each process.

{_by_proxy(samples, lambda of: _number(max(sample.peak_mb for sample in of)))}

{_errors(samples)}"""


def _proxies(samples: Samples) -> list[str]:
    return list(next(iter(samples.values())))


def _rounds(samples: Samples) -> Sequence[Sample]:
    return next(iter(samples.values()))[OURS]


def _disturbed(samples: Samples) -> float:
    return median(sample.disturbed for by in samples.values() for of in by.values() for sample in of)


def _costs(samples: Samples) -> str:
    head = ["load", f"{OURS}, whole", *_proxies(samples), "beside this router"]
    rows = [
        [
            *(load, _number(typical(by[OURS], "whole_us"))),
            *(_number(typical(of, "cpu_us")) for of in by.values()),
            _number(typical(by[OURS], "beside_us")),
        ]
        for load, by in samples.items()
    ]
    return markdown(head, rows)


def _by_proxy(samples: Samples, cell: Cell) -> str:
    names = _proxies(samples)
    return markdown(["load", *names], [[load, *(cell(by[name]) for name in names)] for load, by in samples.items()])


def _per_second(rounds: Sequence[Sample]) -> str:
    least = "≥ " if typical(rounds, "idle") > _SPARE else ""
    return least + _number(typical(rounds, "per_second"))


def _errors(samples: Samples) -> str:
    found = [
        f"{name}, {load}: {errors}"
        for load, by in samples.items()
        for name, of in by.items()
        if (errors := sum(sample.errors for sample in of))
    ]
    return f"Errors: {'; '.join(found) or 'none'}."


def _number(value: float) -> str:
    """Return the number with three digits, or with all digits before the point.

    >>> _number(0.1234), _number(12.34), _number(12345.6)
    ('0.12', '12.3', '12,346')
    """
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first column is text, the others are numbers."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
