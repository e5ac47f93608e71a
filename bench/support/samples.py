"""The samples of `bench.peers`, and how its rounds become one figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Sample:
    """What one proxy did under one load in one round."""

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float
    cpu_us: float  # a request, all processes of the proxy, user and system
    beside_us: float  # a request, the other processes that the proxy needs: Redis and the sidecar
    busy: float  # the share of its CPU that the proxy used
    idle: float  # the share that no program used
    peak_mb: float  # the peak memory of all processes

    @property
    def whole_us(self) -> float:
        """The CPU a request in µs, of the proxy and of what it needs beside it."""
        return self.cpu_us + self.beside_us

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def disturbed(self) -> float:
        """The share of the proxy's CPU that other programs or other virtual machines used."""
        return 1 - self.busy - self.idle


# The samples of all rounds, by load and then by proxy.
Samples = Mapping[str, Mapping[str, Sequence[Sample]]]


def read(path: Path) -> Samples:
    """Return the samples that a run has written to `path`."""
    rounds = json.loads(path.read_text())["rounds"]
    return {load: {name: [Sample(**each) for each in of] for name, of in by.items()} for load, by in rounds.items()}


def typical(rounds: Sequence[Sample], field: str) -> float:
    """Return the median of `field` over the rounds."""
    return median(_value(sample, field) for sample in rounds)


def ratio(rounds: Sequence[Sample], others: Sequence[Sample], field: str) -> float:
    """Return the median of the rounds' ratios. A disturbance in one round affects both numbers of its ratio."""
    return median(_value(one, field) / _value(other, field) for one, other in zip(rounds, others, strict=True))


def _value(sample: Sample, field: str) -> float:
    return float(getattr(sample, field))
