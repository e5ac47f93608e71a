"""Writes a dashboard in Grafana's JSON: variables, rows of panels, and how each kind of panel looks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24  # of Grafana's grid


@dataclass(frozen=True)
class Variable:
    """A choice at the top of the page: several values, or All. All is one pattern, not a list of a thousand names."""

    name: str
    query: str


@dataclass(frozen=True)
class Link:
    """A link of a series or a row to a page; Grafana puts its fields and variables into `url`."""

    title: str
    url: str


@dataclass(frozen=True)
class Annotation:
    """Marks on all charts at the moments at which `expression` has a value, one for each of its series.

    Prometheus is asked once a minute of the time that is shown, so an expression compares now with a minute ago.
    """

    name: str
    text: str
    expression: str
    colour: str


@dataclass(frozen=True)
class Panel:
    """One panel. `shows` has pairs of legend and expression. Its place follows from its width and its row's height."""

    title: str
    about: str
    shows: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    is_stacked: bool = False
    colour: str = "text"
    turns: tuple[float, str] | None = None  # from this value on, the panel has this colour
    columns: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # how columns of a table are shown, if not as plain numbers
    link: Link | None = None


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)
    height: int = 8


@dataclass(frozen=True)
class Board:
    """All of a dashboard. `address` is the name of a variable, and what it holds at first: where `links` lead."""

    uid: str
    title: str
    variables: Sequence[Variable]
    address: tuple[str, str]
    links: Sequence[Link]
    annotations: Sequence[Annotation]
    rows: Sequence[Row]


def dashboard(board: Board) -> dict[str, Any]:
    """Return a dashboard that Grafana can import. The reader chooses the Prometheus at the top."""
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": board.uid,
        "title": board.title,
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, *map(_variable, board.variables), _text_box(*board.address)]},
        "annotations": {"list": [*map(_annotation, board.annotations)]},
        "links": [{"title": link.title, "type": "link", "url": link.url, "targetBlank": True} for link in board.links],
        "panels": _panels(board.rows),
    }


def _annotation(annotation: Annotation) -> dict[str, Any]:
    return {
        "name": annotation.name,
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": annotation.colour,
        "expr": annotation.expression,
        "step": "60s",
        "titleFormat": annotation.text,
    }


def _text_box(name: str, value: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": "Router's address",
        "type": "textbox",
        "query": value,
        "current": {"text": value, "value": value},
    }


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "label": variable.name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,  # also when the time range changes, because workers join and leave
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels(rows: Sequence[Row]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        made.append({"type": "row", "title": row.title, "collapsed": False, "panels": [], **_place(0, y, _WIDTH, 1)})
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                x, y = 0, y + row.height
            made.append({**_panel(panel), **_place(x, y, panel.width, row.height)})
            x += panel.width
        y += row.height
    return [{"id": number, **panel} for number, panel in enumerate(made, start=1)]


def _place(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for place, (legend, expression) in enumerate(panel.shows)
        ],
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {},
    }
    if panel.link is not None:
        made["fieldConfig"]["defaults"]["links"] = [
            {"title": panel.link.title, "url": panel.link.url, "targetBlank": True}
        ]
    _SHAPES[panel.kind](made, panel)
    return made


def _as_timeseries(made: dict[str, Any], panel: Panel) -> None:
    mode = "normal" if panel.is_stacked else "none"
    made["fieldConfig"]["defaults"]["custom"] = {
        "fillOpacity": 20 if panel.is_stacked else 5,
        "showPoints": "never",
        "stacking": {"mode": mode, "group": "A"},
    }
    made["options"] = {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _as_stat(made: dict[str, Any], panel: Panel) -> None:
    steps: list[dict[str, Any]] = [{"color": panel.colour, "value": None}]
    if panel.turns is not None:
        value, colour = panel.turns
        steps.append({"color": colour, "value": value})
    made["fieldConfig"]["defaults"]["thresholds"] = {"mode": "absolute", "steps": steps}
    made["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
    }


def _as_table(made: dict[str, Any], panel: Panel) -> None:
    for target in made["targets"]:
        target |= {"format": "table", "instant": True, "range": False}
    names = {f"Value #{target['refId']}": target["legendFormat"] for target in made["targets"]}
    made["transformations"] = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {"excludeByName": {"Time": True}, "renameByName": {"worker": "Worker", **names}},
        },
    ]
    made["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [
                {"id": key, "value": value} for key, value in {"custom.cellOptions": _PLAIN, **shown}.items()
            ],
        }
        for name, shown in panel.columns.items()
    ]
    made["options"] = {
        "showHeader": True,
        "sortBy": [{"displayName": "Failed", "desc": True}],
        "footer": {"show": False, "enablePagination": True},
    }


def _as_heatmap(made: dict[str, Any], panel: Panel) -> None:
    for target in made["targets"]:
        target |= {"format": "heatmap"}
    made["fieldConfig"]["defaults"] = {}
    made["options"] = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "steps": 64, "reverse": False},
        "filterValues": {"le": 1e-9},  # empty cells stay empty
        "legend": {"show": True},
        "tooltip": {"show": True, "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "unit": panel.unit},
    }


def _as_alert_list(made: dict[str, Any], panel: Panel) -> None:
    del panel
    made["targets"], made["fieldConfig"]["defaults"] = [], {}
    made["options"] = {
        "alertInstanceLabelFilter": '{alertname=~"Sfr.+"}',
        "groupMode": "default",
        "maxItems": 20,
        "sortOrder": 3,  # by importance
        "stateFilter": {"firing": True, "pending": True, "error": True, "noData": False, "normal": False},
        "viewMode": "list",
    }


_PLAIN = {"type": "color-text"}
_SHAPES = {
    "timeseries": _as_timeseries,
    "stat": _as_stat,
    "table": _as_table,
    "heatmap": _as_heatmap,
    "alertlist": _as_alert_list,
}
