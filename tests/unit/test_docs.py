"""The documentation builds without a warning, fetches nothing from elsewhere, and says of the settings what holds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.dashboard import FILE as DASHBOARD_NUMBERS
from bench.dashboard import PAGE as SPEED
from bench.dashboard import table
from bench.table import put
from router import answers
from router.policy.verdict import Kind
from router.settings import Settings
from tests.browser import IS_THERE, chromium
from tools.reference import PAGE, keys, page

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
_ROW = re.compile(r"^\| `([\w.\[\]]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)
# What a browser fetches by itself; links are the reader's to follow.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc="([^"]*)"|<link\s[^>]*href="([^"]*)"|url\(([^)]*)\)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


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


def test_handbook_names_every_error() -> None:
    """docs/failures.md has a word on each error of the router's own, as its client reads it."""
    failed = [answers.FailedAttempt("http://worker", "timed out", Kind.TIMED_OUT)] * 2
    told = [
        answers.no_healthy_workers(503, b"id"),
        answers.all_failed(503, failed, b"id", is_unfunded=True),
        answers.queue_full(503, 1, b"id"),
        answers.buffers_full(503, 2**20, b"id"),
        answers.queue_timeout(504, 1, b"id"),
        answers.deadline_passed(504, 1, b"id"),
        answers.quarantined(1, b"id"),
    ]
    handbook = (ROOT / "docs" / "failures.md").read_text()
    for answer in told:
        said = re.sub(r"\d+", "N", json.loads(answer.body)["detail"])
        assert said in handbook


def test_every_page_is_built(site: Path) -> None:
    """Each page of docs/ is one of the site's."""
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {path.stem for path in site.glob("*.html")}


def test_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    """No page or style sheet names another host for what a browser fetches by itself."""
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        fetched = {address for found in _FETCHED.findall(path.read_text()) for address in found if address}
        assert not {address for address in fetched if re.match(r"[\"']?(https?:)?//", address)}, path


@pytest.mark.skipif(not IS_THERE, reason="chromium and chromedriver are not installed (make browser)")
async def test_search_works_in_pages_opened_from_the_disk(site: Path, tmp_path: Path) -> None:
    """The search finds a page's words without a server, and without another host."""
    with chromium(tmp_path / "chromium") as browser:
        await browser.open((site / "index.html").as_uri())
        await browser.js("document.querySelector('.md-search__input').focus()")
        await browser.type("client_budget")
        await browser.shows(".md-search-result__list", "Clients")
        assert [asked for asked in await browser.requested() if asked.startswith("http")] == []


def test_readme_links_to_pages_that_exist() -> None:
    """Each relative link of README leads to a file of the repository."""
    for target in re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", README.read_text()):
        assert (ROOT / target).exists(), target


def test_page_says_what_watching_costs() -> None:
    """What the dashboard costs stands in docs/speed.md as bench/dashboard.py has found it."""
    made = table(json.loads(DASHBOARD_NUMBERS.read_text())["results"])
    assert put(made, SPEED.read_text(), "bench.dashboard") == SPEED.read_text()
