"""The files of ended processes become one, and no reader sees a count twice, or misses one."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from router.shared_counts import bury, steady

LIVING, DEAD = 1, range(2, 42)


def count(folder: Path, kind: str, process: int, value: float) -> None:
    """Write what one process has counted, as prometheus_client does."""
    name = "sfr_x_bucket" if kind == "histogram" else "sfr_x_total"
    labels = {"le": "1.0"} if kind == "histogram" else {"verdict": f"v{process % 2}"}
    file = MmapedDict(str(folder / f"{kind}_{process}.db"))  # type: ignore[no-untyped-call]
    file.write_value(json.dumps([f"sfr_{kind}", name, labels, "help"]), value, 0.0)  # type: ignore[no-untyped-call]
    file.close()  # type: ignore[no-untyped-call]


def total(folder: Path, kind: str) -> dict[str, float]:
    """Return what a scrape shows of a metric, by its label's value."""
    with steady(str(folder)):
        metrics = MultiProcessCollector(None, str(folder)).collect()  # type: ignore[no-untyped-call]
        (metric,) = (metric for metric in metrics if metric.name == f"sfr_{kind}")
        return {
            next(iter(sample.labels.values())): sample.value
            for sample in metric.samples
            if not sample.name.endswith("_count")
        }


def test_counts_of_the_dead_become_one_file_and_stay_the_same(tmp_path: Path) -> None:
    """While others read, all the time; what a process showed of its own state goes with it."""
    for process in (LIVING, *DEAD):
        count(tmp_path, "counter", process, process)
        count(tmp_path, "histogram", process, 1)
        count(tmp_path, "gauge_livesum", process, 1)
    before, is_over = total(tmp_path, "counter"), Event()
    assert before == {"v0": sum(DEAD[::2]), "v1": 1 + sum(DEAD[1::2])}

    def read() -> list[dict[str, float]]:
        seen = [total(tmp_path, "counter")]
        while not is_over.is_set():
            seen.append(total(tmp_path, "counter"))
        return seen

    with ThreadPoolExecutor() as readers:
        seen = [readers.submit(read) for _ in range(2)]
        for living in range(1, len(DEAD) + 1):
            bury(str(tmp_path), [LIVING, *DEAD[living:]])
        is_over.set()
    assert all(each == before for reader in seen for each in reader.result())
    bury(str(tmp_path), [LIVING])  # what was being read each time
    assert {file.name for file in tmp_path.iterdir()} == {
        *(f"{kind}_{LIVING}.db" for kind in ("counter", "histogram", "gauge_livesum")),
        *(f"{kind}_ended.db" for kind in ("counter", "histogram")),
    }
    assert total(tmp_path, "counter") == before
    assert total(tmp_path, "histogram") == {"1.0": 1 + len(DEAD)}


def test_who_buries_does_not_wait_for_who_reads(tmp_path: Path) -> None:
    """It is gunicorn's master, which has processes to watch."""
    count(tmp_path, "counter", DEAD[0], 1)
    with steady(str(tmp_path)):
        bury(str(tmp_path), [LIVING])
        assert [file.name for file in tmp_path.iterdir()] == [f"counter_{DEAD[0]}.db"]
    bury(str(tmp_path), [LIVING])
    assert [file.name for file in tmp_path.iterdir()] == ["counter_ended.db"]
