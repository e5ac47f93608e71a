"""`bench.peers`' figures as Markdown: docs/speed.md."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from bench.support.proxies import OURS
from bench.support.samples import Sample, Samples, ratio, typical

# A proxy whose CPU was idle for more than this share was not the limit: it could have done more.
_SPARE = 0.1
Cell = Callable[[Sequence[Sample]], str]


def ratios(samples: Samples) -> str:
    """Return the CPU that this router spends on a request, by what each peer spends."""
    peers = [name for name in _proxies(samples) if name != OURS]
    rows = [[load, *(f"{ratio(by[OURS], by[peer], 'cpu_us'):.2f}" for peer in peers)] for load, by in samples.items()]
    return _markdown(["CPU a request, this router's", *(f"/ {peer}'s" for peer in peers)], rows)


def page(samples: Samples, machine: Mapping[str, object], svg: str) -> str:
    """Return docs/speed.md; `svg` is the plot's path, seen from there."""
    return f"""\
# Speed: this router and its peers

`make bench` writes this page. Measured on {machine["cores"]} cores of {machine["cpu"]}, {machine["kernel"]}, with
Python {machine["python"]}; rounds: {len(_rounds(samples))}. How Python was built counts, too: with pyenv's default,
which was not optimized by profiles of its use, a job's way takes 15 to 25 % more CPU than with Debian's
(`make bench PYTHON=/usr/bin/python3`).

Each proxy has one process or thread, and one CPU for itself; three workers that answer at once, Redis, the sidecar and
the load share another. Figures differ from machine to machine; what counts is how they compare. Where nothing else is
said, requests have 1.2 kB and answers 0.4 kB, over connections that are kept. This router does all that it does in
production: leases, metadata, retries, limits. The peers forward.

Others took {_disturbed(samples):.0%} of the proxies' CPU (median): the more, the less the figures say.

![CPU a request]({svg})

## CPU a request, by the peers'

Above 1, the peer is ahead. The median of the rounds' ratios.

{ratios(samples)}

## CPU µs a request

All processes of the proxy, user and system; the last column is what Redis and the sidecar spend for this router.

{_costs(samples)}

## Requests a second

≥: the proxy's CPU was idle for a part of the time; the limit was the load, the workers, or the rate that was asked for.

{_by_proxy(samples, _per_second)}

## Milliseconds to the answer, p50 / p99

With a rate, from the moment at which a job was to be sent; else from when it was, on a connection that is open.

{_by_proxy(samples, lambda of: f"{_number(typical(of, 'p50_ms'))} / {_number(typical(of, 'p99_ms'))}")}

## Memory at its most, MB

Resident, all processes of the proxy; pages that they share count for each.

{_by_proxy(samples, lambda of: _number(max(sample.peak_mb for sample in of)))}

{_errors(samples)}
"""


def _proxies(samples: Samples) -> list[str]:
    return list(next(iter(samples.values())))


def _rounds(samples: Samples) -> Sequence[Sample]:
    return next(iter(samples.values()))[OURS]


def _disturbed(samples: Samples) -> float:
    return median(sample.disturbed for by in samples.values() for of in by.values() for sample in of)


def _costs(samples: Samples) -> str:
    head = ["load", *_proxies(samples), "beside this router"]
    rows = [
        [load, *(_number(typical(of, "cpu_us")) for of in by.values()), _number(typical(by[OURS], "beside_us"))]
        for load, by in samples.items()
    ]
    return _markdown(head, rows)


def _by_proxy(samples: Samples, cell: Cell) -> str:
    names = _proxies(samples)
    return _markdown(["load", *names], [[load, *(cell(by[name]) for name in names)] for load, by in samples.items()])


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
    """Write three digits, or all before the point.

    >>> _number(0.1234), _number(12.34), _number(12345.6)
    ('0.12', '12.3', '12,346')
    """
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
