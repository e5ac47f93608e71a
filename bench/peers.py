"""Compares this router with its peers: CPU a request, requests a second, latency and memory under the same loads.

In each round every proxy gets every load in turn, for LOAD_S. The order of the proxies changes from round to round. The
result is the median of the rounds' ratios. The proxies have one CPU, everything else has another.

`python -m bench.peers [ROUNDS]`, or `make bench`, writes bench/results/peers.json, and docs/speed.md with its plot.
"""

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.support.constworker import constant_workers
from bench.support.load import Load, send
from bench.support.meter import allow_many_files, cpu_s, forget_peak, idle_s, peak_mb, pin, tree, two_cpus
from bench.support.plot import svg
from bench.support.proxies import Proxy, available, find
from bench.support.report import machine, save
from bench.support.samples import Sample, Samples
from bench.support.table import put, tables
from tests.support.programs import ROOT

DEFAULT_ROUNDS = 5
LOAD_S, WARM_UP_S = 2.0, 1.0
WORKERS = 3
# Jobs a second of an open loop: as many as 25 workers with two cores each can do.
RATE = 2_000

LOADS = {
    "1 connection": Load(1),
    "64 connections": Load(64),
    "512 connections": Load(512),
    "1 at once, new connection each": Load(1, reconnects=True),
    "64 at once, new connection each": Load(64, reconnects=True),
    "512 at once, new connection each": Load(512, reconnects=True),
    "answers of 100 kB, 64 connections": Load(64, answer_bytes=100_000),
    "answers of 5 MB, 8 connections": Load(8, answer_bytes=5_000_000),
    "requests of 5 MB, 8 connections": Load(8, request_bytes=5_000_000),
    f"{RATE:,} arrivals/s": Load(rate=RATE),
    f"{RATE:,} arrivals/s, new connection each": Load(rate=RATE, reconnects=True),
}
PLOTTED = [load for load in LOADS if load.startswith(("64", "512", "answers"))]

SVG, PAGE = ROOT / "docs" / "speed.svg", ROOT / "docs" / "speed.md"


async def measure(proxy: Proxy, load: Load, cpu: int) -> Sample:
    """Put one proxy, which runs on `cpu`, under one load. Raises RuntimeError if no request is answered."""
    pids = tree(proxy.pid)
    forget_peak(pids)
    start, was_idle_s = time.monotonic(), idle_s(cpu)
    used_s, used_beside_s = cpu_s(pids), cpu_s(proxy.beside)
    outcome = await send(load, proxy.port, LOAD_S)
    used_s, used_beside_s = cpu_s(pids) - used_s, cpu_s(proxy.beside) - used_beside_s
    elapsed_s = time.monotonic() - start
    if not outcome.requests:
        raise RuntimeError(f"no request was answered: {load}, {outcome}")
    return Sample(
        **asdict(outcome),
        cpu_us=used_s / outcome.requests * 1e6,
        beside_us=used_beside_s / outcome.requests * 1e6,
        busy=used_s / elapsed_s,
        idle=(idle_s(cpu) - was_idle_s) / elapsed_s,
        peak_mb=peak_mb(pids),
    )


async def compare(proxies: Mapping[str, Proxy], rounds: int, cpu: int) -> Samples:
    """Measure all proxies under all loads, in turn."""
    for proxy in proxies.values():  # a warm-up
        await send(Load(), proxy.port, WARM_UP_S)
    names = list(proxies)
    samples: dict[str, dict[str, list[Sample]]] = {load: {name: [] for name in names} for load in LOADS}
    for number in range(rounds):
        turn = number % len(names)
        for title, load in LOADS.items():
            for name in names[turn:] + names[:turn]:
                samples[title][name].append(await measure(proxies[name], load, cpu))
    return samples


def publish(samples: Samples) -> None:
    """Write the results to their file, to the plot and to docs/speed.md."""
    save(
        "peers",
        rounds={load: {name: [asdict(each) for each in of] for name, of in by.items()} for load, by in samples.items()},
    )
    SVG.write_text(svg(samples, PLOTTED))
    PAGE.write_text(put(tables(samples, machine(), SVG.name), PAGE.read_text(), "make bench"))


async def main(rounds: int) -> None:
    """Start all proxies, measure them, and write and print the results."""
    if not find("wrk"):
        raise SystemExit("wrk is needed to put proxies under load (Debian: apt-get install wrk)")
    proxy_cpu, other_cpu = two_cpus()
    os.sched_setaffinity(0, {other_cpu})
    allow_many_files()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        workers = await stack.enter_async_context(constant_workers(WORKERS, folder))
        proxies: dict[str, Proxy] = {}
        for name, start in available().items():
            own = Path(stack.enter_context(TemporaryDirectory()))
            proxies[name] = await stack.enter_async_context(start(own, workers))
            pin(proxies[name].pid, proxy_cpu)
        samples = await compare(proxies, rounds, proxy_cpu)
    publish(samples)
    print(tables(samples, machine(), SVG.name))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS))
