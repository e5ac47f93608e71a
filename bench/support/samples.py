"""What `bench.peers` has measured, and how rounds become one figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Sample:
    """One proxy under one load in one round."""

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float
    cpu_us: float  # a request, all processes of the proxy, user and system
    beside_us: float  # a request, what the proxy cannot do without: Redis and the sidecar
    busy: float  # the share of its CPU that the proxy used
    idle: float  # the share that nobody used
    peak_mb: float  # the most memory, all processes

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def disturbed(self) -> float:
        """The share of the proxy's CPU that others took: other programs, or other virtual machines."""
        return 1 - self.busy - self.idle


# By load, then by proxy: the rounds.
Samples = Mapping[str, Mapping[str, Sequence[Sample]]]


def read(path: Path) -> Samples:
    """Return what a run has written."""
    rounds = json.loads(path.read_text())["rounds"]
    return {load: {name: [Sample(**each) for each in of] for name, of in by.items()} for load, by in rounds.items()}


def typical(rounds: Sequence[Sample], field: str) -> float:
    """Return the median of `field` over the rounds."""
    return median(_value(sample, field) for sample in rounds)


def ratio(rounds: Sequence[Sample], others: Sequence[Sample], field: str) -> float:
    """Return the median over the rounds of the ratio in each: what a round disturbs, it disturbs for both."""
    return median(_value(one, field) / _value(other, field) for one, other in zip(rounds, others, strict=True))


def _value(sample: Sample, field: str) -> float:
    return float(getattr(sample, field))
