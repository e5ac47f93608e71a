"""Draws the architecture pictures docs/pictures/architecture-{light,dark}.svg: `python -m tools.architecture`.

Only the width of the words depends on the reader's fonts. So each box has room for wider words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
# Narrow enough that words of 15 units are still 9 pixels high on a phone's screen.
_WIDTH, _HEIGHT = 536, 440
_TITLE_PX, _TEXT_PX, _LINE_PX = 17, 15, 20
_SAYS = (
    "Clients send jobs to router processes. These take leases from Redis and forward to workers, whose health the "
    "sidecar checks."
)


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours for a light or a dark background."""

    ground: str
    box: str
    ours: str
    edge: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Box:
    """One part of the system. `x`, `y` is its upper left corner; `copies` more boxes are drawn behind it.

    `is_ours` says that it is a program of this project.
    """

    x: int
    y: int
    width: int
    height: int
    title: str
    lines: Sequence[str] = ()
    copies: int = 0
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Arrow:
    """A straight arrow between two points, with words that begin at `at`."""

    start: tuple[int, int]
    end: tuple[int, int]
    lines: Sequence[str]
    at: tuple[int, int]
    is_two_way: bool = True


PALETTES = {
    "light": Palette("#ffffff", "#f6f8fa", "#ddf4ff", "#57606a", "#1f2328", "#424a53"),
    "dark": Palette("#0d1117", "#161b22", "#10294a", "#8b949e", "#f0f6fc", "#c9d1d9"),
}
BOXES = (
    Box(10, 10, 270, 70, "Clients", ("verl, ROLL, SDK, sfr run",)),
    Box(10, 150, 270, 108, "Router", ("one process a core:", "lease, forward, judge, retry"), 2, is_ours=True),
    Box(354, 150, 170, 108, "Redis or Valkey", ("leases, queue,", "breaker, health")),
    Box(10, 342, 270, 70, "SandboxFusion workers", ("run code, up to their caps",), 2),
    Box(354, 342, 170, 70, "Sidecar", ("checks health",), 1, is_ours=True),
)
ARROWS = (
    Arrow((150, 80), (150, 150), ("POST /run_code, answer",), (162, 120)),
    Arrow((292, 204), (354, 204), ("leases",), (299, 196)),
    Arrow((150, 270), (150, 342), ("job on a leased slot, result",), (162, 311)),
    Arrow((440, 342), (440, 258), ("workers,", "health"), (452, 296), is_two_way=False),
    Arrow((354, 377), (292, 377), ("pings",), (304, 369), is_two_way=False),
)


def svg(palette: Palette) -> str:
    """Return the picture in these colours."""
    parts = "\n".join(
        [*(part for box in BOXES for part in _box(box)), *(part for each in ARROWS for part in _arrow(each))]
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img">
<title>{_SAYS}</title>
<style>
text {{ font: {_TEXT_PX}px system-ui, sans-serif; fill: {palette.text} }}
.title {{ font-size: {_TITLE_PX}px; font-weight: 600; fill: {palette.title} }}
rect, line {{ stroke: {palette.edge}; stroke-width: 1.5 }}
rect {{ fill: {palette.box} }}
.ours {{ fill: {palette.ours} }}
marker path {{ fill: {palette.edge} }}
</style>
<marker id="head" viewBox="0 0 10 10" refX="10" refY="5" markerWidth="8" markerHeight="8" orient="auto-start-reverse">
<path d="M0 1 L10 5 L0 9 z"/>
</marker>
<path d="M0 0h{_WIDTH}v{_HEIGHT}H0z" fill="{palette.ground}"/>
{parts}
</svg>
"""


def _box(box: Box) -> Iterator[str]:
    kind = ' class="ours"' if box.is_ours else ""
    for copy in range(box.copies, -1, -1):
        x, y = box.x + 6 * copy, box.y + 6 * copy
        yield f'<rect{kind} x="{x}" y="{y}" width="{box.width}" height="{box.height}" rx="6"/>'
    top = box.y + (box.height - len(box.lines) * _LINE_PX) // 2 + _TITLE_PX // 3
    yield from _words((box.title,), box.x + box.width // 2, top, ' class="title" text-anchor="middle"')
    yield from _words(box.lines, box.x + box.width // 2, top + _LINE_PX, ' text-anchor="middle"')


def _arrow(arrow: Arrow) -> Iterator[str]:
    (x1, y1), (x2, y2) = arrow.start, arrow.end
    back = ' marker-start="url(#head)"' if arrow.is_two_way else ""
    yield f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"{back} marker-end="url(#head)"/>'
    yield from _words(arrow.lines, *arrow.at, "")


def _words(lines: Sequence[str], x: int, y: int, attributes: str) -> Iterator[str]:
    for place, line in enumerate(lines):
        yield f'<text x="{x}" y="{y + place * _LINE_PX}"{attributes}>{escape(line)}</text>'


def draw(folder: Path) -> None:
    """Write both pictures."""
    for name, palette in PALETTES.items():
        (folder / f"architecture-{name}.svg").write_text(svg(palette))


if __name__ == "__main__":
    draw(PICTURES)
