"""Options, defaults, verdicts, metrics and Redis keys that docs/ names exist."""

import re
from pathlib import Path

from router.fleet.schema import SCHEMA
from router.policy.verdict import Kind, Outcome
from tools.config_reference import keys

DOCS = Path(__file__).parents[2] / "docs"
# A row of a table of options: the key with a link to its section, and the default.
_OPTION = re.compile(r"^\| \[`([\w.\[\]]+)`\]\(configuration\.md#([\w-]+)\) \| (.*?) \| .* \|$", re.MULTILINE)
_CHANNELS = {"sfr:changes", "sfr:wishes"}


def test_pages_give_the_settings_defaults() -> None:
    """In each page's table of options a key links to its section and has the settings' default."""
    made = {key.name: (section, key.default) for section, (_, members) in keys().items() for key in members}
    found = 0
    for path in sorted(DOCS.glob("*.md")):
        for name, anchor, default in _OPTION.findall(path.read_text()):
            section = made[name][0] or "at the top"
            assert (anchor, default) == (re.sub(r"[^\w-]", "", section.replace(" ", "-")).lower(), made[name][1]), path
            found += 1
    assert found


def test_pages_name_every_verdict() -> None:
    """Each verdict of an attempt has a row in docs/retries-and-verdicts.md, of a request in docs/metrics.md."""
    assert {str(kind) for kind in Kind} == _first_words((DOCS / "retries-and-verdicts.md").read_text())
    of_requests = (DOCS / "metrics.md").read_text().partition("| verdict of a request |")[2].partition("\n\n")[0]
    assert {str(outcome) for outcome in Outcome} == _first_words(of_requests)


def test_pages_name_only_existing_metrics_and_keys() -> None:
    """Each metric that a page names is in docs/metrics.md, and each Redis key is in the schema."""
    metrics = set(re.findall(r"^\| `(sfr_\w+)` \|", (DOCS / "metrics.md").read_text(), re.MULTILINE))
    held = {key.name.partition(":<")[0] for key in SCHEMA}
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text()
        assert {name.removesuffix("_bucket") for name in re.findall(r"\bsfr_\w+", text)} <= metrics, path
        named = {name.rstrip(":") for name in re.findall(r"\bsfr:[a-z]+(?::[a-z]+\b(?!:))?", text)}
        assert named <= held | _CHANNELS, path


def _first_words(table: str) -> set[str]:
    """Return the code words in the first cells of the table's rows."""
    first = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", table, re.MULTILINE)
    return {word for cell in first for word in re.findall(r"`(\w+)`", cell)}
