"""The README's claims about speed are those of the last `make bench`."""

import json
import xml.etree.ElementTree as ET

from bench.peers import PAGE, PLOTTED, README, SVG
from bench.plot import svg
from bench.report import RESULTS
from bench.samples import read
from bench.table import put, ratios, tables

FILE = RESULTS / "peers.json"


def test_readme_claims_what_was_measured() -> None:
    """The table, the page and the plot are made of bench/results/peers.json, without a figure written by hand."""
    samples = read(FILE)
    assert ratios(samples) in README.read_text()
    made = tables(samples, json.loads(FILE.read_text())["machine"], SVG.name)
    assert PAGE.read_text() == put(made, PAGE.read_text(), "make bench")
    assert SVG.read_text() == svg(samples, PLOTTED)


def test_plot_is_an_image() -> None:
    """It is well-formed, and each panel has a bar for each proxy."""
    samples = read(FILE)
    bars = [element for element in ET.parse(SVG).iter() if element.tag.endswith("rect")]
    assert len(bars) == sum(len(samples[load]) for load in PLOTTED)
