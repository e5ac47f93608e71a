"""The documentation says of the settings what holds."""

import re
from pathlib import Path

from router.settings import Settings
from tools.reference import PAGE, keys, page

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
_ROW = re.compile(r"^\| `([\w.\[\]]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)


def test_reference_is_made_from_the_settings() -> None:
    """docs/configuration.md is what `python -m tools.reference` writes."""
    assert PAGE.read_text() == page(PAGE.read_text())


def test_reference_has_every_key() -> None:
    """No key that config.yaml may have is missing, at whatever depth."""
    named = {key.name for _, members in keys().values() for key in members}
    for name, field in Settings.model_fields.items():
        nested = getattr(field.annotation, "model_fields", None)
        assert {f"{name}.{inner}" for inner in nested} <= named if nested else name in named


def test_readme_says_the_same() -> None:
    """README's table has each key, with the default and the meaning that the settings give."""
    table = README.read_text().partition("| key | default | meaning |")[2].partition("\n\n")[0]
    made = {(key.name, key.default, key.meaning) for _, members in keys().values() for key in members}
    assert set(_ROW.findall(table)) == made


def test_readme_links_to_pages_that_exist() -> None:
    """Each relative link of README leads to a file of the repository."""
    for target in re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", README.read_text()):
        assert (ROOT / target).exists(), target
