"""The figures in README, docs/speed.md and docs/scheduling.md are those of the last benchmarks."""

import json
import xml.etree.ElementTree as ET
from operator import ge, gt

from bench import fairness, makespan
from bench.batch import Run
from bench.peers import PAGE, PLOTTED, SVG
from bench.support.plot import svg
from bench.support.report import RESULTS
from bench.support.samples import read
from bench.support.table import put, tables

FILE = RESULTS / "peers.json"


def test_tables_of_batches_show_what_was_measured() -> None:
    """Those of README and docs/speed.md are generated from bench/results/makespan.json."""
    rounds = json.loads((RESULTS / "makespan.json").read_text())["rounds"]
    runs = {scenario: {name: [Run(**run) for run in of] for name, of in by.items()} for scenario, by in rounds.items()}
    assert {path: path.read_text() for path in makespan.pages(runs)} == makespan.pages(runs)


def test_scheduling_page_shows_what_was_measured() -> None:
    """The page's tables of runs that share a fleet are generated from bench/results/fairness.json."""
    page = fairness.PAGE.read_text()
    made = fairness.table(json.loads((RESULTS / "fairness.json").read_text()))
    assert page == put(made, page, fairness.MARK)


def test_speed_page_shows_what_was_measured() -> None:
    """The page's tables and the plot are generated from bench/results/peers.json."""
    samples = read(FILE)
    made = tables(samples, json.loads(FILE.read_text())["machine"], SVG.name)
    assert PAGE.read_text() == put(made, PAGE.read_text(), "make bench")
    assert SVG.read_text() == svg(samples, PLOTTED)


def test_plot_is_an_image() -> None:
    """The plot is well-formed XML; each panel has two bars for each proxy: its own CPU before the whole."""
    samples = read(FILE)
    widths = [float(element.attrib["width"]) for element in ET.parse(SVG).iter() if element.tag.endswith("rect")]
    whole, own = widths[::2], widths[1::2]
    assert len(whole) == sum(len(samples[load]) for load in PLOTTED)
    assert all(map(ge, whole, own))
    assert sum(map(gt, whole, own)) == len(PLOTTED)
