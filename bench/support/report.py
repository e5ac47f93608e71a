"""Reports a benchmark: a table for people, and a file with the raw numbers and the machine."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


def machine() -> dict[str, object]:
    """Return the machine on which the numbers were measured: its cores, CPU, kernel and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cores": os.cpu_count(),
        "cpu": cpu,
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def save(name: str, **numbers: object) -> None:
    """Write the numbers, and the machine, to bench/results/`name`.json."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **numbers}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def show(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table. The first column is text, the others are numbers."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    for first, *others in cells:
        numbers = (f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True))
        print(f"{first:<{widths[0]}}", *numbers, sep="  ")


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` % of `values` do not exceed.

    >>> percentile([3, 1, 2], 50), percentile([3, 1, 2], 99)
    (2, 3)
    """
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else str(_whole(value))


def _whole(value: object) -> object:
    return round(value) if isinstance(value, float) else value
