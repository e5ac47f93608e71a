"""Draws `bench.peers`' figures: bars of CPU a request, one panel for each load, readable on light and dark ground."""

from collections.abc import Mapping, Sequence
from html import escape

from bench.support.proxies import OURS
from bench.support.samples import Sample, Samples, typical

_COLUMNS = 2
_PANEL_WIDTH, _NAME_WIDTH, _BAR_WIDTH = 400, 90, 220
_LINE, _BAR, _TITLE, _GAP = 19, 13, 22, 18
# Greys and a blue that are visible on white and on black.
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #7d8590 }
.title { font-weight: 600 }
.peer { fill: #8b949e }
.ours { fill: #2f81f7 }
.beside { fill: #2f81f7; opacity: .45 }
"""


def svg(samples: Samples, loads: Sequence[str]) -> str:
    """Return the plot: a panel for each of `loads`, each with its own scale."""
    proxies = len(samples[loads[0]])
    height = _TITLE + proxies * _LINE + _GAP
    panels = [
        f'<g transform="translate({place % _COLUMNS * _PANEL_WIDTH} {_TITLE + place // _COLUMNS * height})">'
        f"{_panel(load, samples[load])}</g>"
        for place, load in enumerate(loads)
    ]
    width, total = _COLUMNS * _PANEL_WIDTH, _TITLE + -(-len(loads) // _COLUMNS) * height
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}">',
            f"<style>{_STYLE}</style>",
            '<text class="title" x="4" y="14">CPU µs a request; shorter is better. Lighter: Redis and sidecar</text>',
            *panels,
            "</svg>",
            "",
        ]
    )


def _panel(title: str, by_proxy: Mapping[str, Sequence[Sample]]) -> str:
    costs = {name: (typical(of, "cpu_us"), typical(of, "whole_us")) for name, of in by_proxy.items()}
    most = max(whole for _, whole in costs.values())
    lines = [f'<text class="title" x="{_NAME_WIDTH}" y="14">{escape(title)}</text>']
    for place, (name, (own, whole)) in enumerate(costs.items()):
        top = _TITLE + place * _LINE
        own_width, width = _BAR_WIDTH * own / most, _BAR_WIDTH * whole / most
        kind = "ours" if name == OURS else "peer"
        lines += [
            f'<text x="{_NAME_WIDTH - 6}" y="{top + 11}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="beside" x="{_NAME_WIDTH}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2"/>',
            f'<rect class="{kind}" x="{_NAME_WIDTH}" y="{top}" width="{own_width:.1f}" height="{_BAR}" rx="2"/>',
            f'<text x="{_NAME_WIDTH + width + 6:.1f}" y="{top + 11}">{whole:,.0f}</text>',
        ]
    return "\n".join(lines)
