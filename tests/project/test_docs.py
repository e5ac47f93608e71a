"""The documentation builds without a warning, fetches nothing from elsewhere, and says of the settings what holds."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.dashboard_feed import FILE as DASHBOARD_NUMBERS
from bench.dashboard_feed import PAGE as SPEED
from bench.dashboard_feed import table
from bench.support.table import put
from router.config.settings import Settings
from router.jobs import answers
from router.jobs.job import FailedAttempt
from router.policy.endpoints import SANDBOX_FUSION
from router.policy.verdict import Kind
from router.version import __version__
from tests.support.browser import IS_THERE, chromium
from tools.architecture import PALETTES, PICTURES, svg
from tools.config_reference import PAGE, keys, page

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
_README_LINES, _README_KEYS = 200, 10
_ROW = re.compile(r"^\| `([\w.\[\]]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?://)([^)#]+)#?([^)]*)\)")
_PICTURE = re.compile(r"\bsrc(?:set)?=\"([^\"]+)\"")
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
    """docs/configuration.md is what `python -m tools.config_reference` writes."""
    assert PAGE.read_text() == page(PAGE.read_text())


def test_reference_has_every_key() -> None:
    """No key that config.yaml may have is missing, at whatever depth."""
    named = {key.name for _, members in keys().values() for key in members}
    for name, field in Settings.model_fields.items():
        nested = getattr(field.annotation, "model_fields", None)
        assert {f"{name}.{inner}" for inner in nested} <= named if nested else name in named


def test_readme_says_the_same() -> None:
    """README's table has ten keys, each with the default and the meaning that the settings give."""
    table = README.read_text().partition("| key | default | meaning |")[2].partition("\n\n")[0]
    made = {(key.name, key.default, key.meaning) for _, members in keys().values() for key in members}
    shown = _ROW.findall(table)
    assert len(shown) == _README_KEYS
    assert set(shown) <= made


def test_readme_is_short() -> None:
    """README can be read at one go: what goes further stands in docs/ alone."""
    assert len(README.read_text().splitlines()) <= _README_LINES


@pytest.mark.parametrize("name", PALETTES)
def test_architecture_s_pictures_are_made_from_their_source(name: str) -> None:
    """docs/pictures has what `python -m tools.architecture` draws, and it is well-formed."""
    text = (PICTURES / f"architecture-{name}.svg").read_text()
    assert text == svg(PALETTES[name])
    ET.fromstring(text)


def test_handbook_names_every_error() -> None:
    """docs/failures.md has a word on each error of the router's own, as its client reads it."""
    failed = [FailedAttempt("http://worker", "timed out", Kind.TIMED_OUT)] * 2
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


def test_api_page_names_every_endpoint() -> None:
    """docs/api.md names each of SandboxFusion's endpoints, with its method before it."""
    page = (ROOT / "docs" / "api.md").read_text()
    shown = {
        path: method
        for method, paths in re.findall(r"`(POST|GET) (/\w+(?:`, `/\w+)*)`", page)
        for path in paths.split("`, `")
    }
    assert {path: endpoint.method for path, endpoint in SANDBOX_FUSION.items()}.items() <= shown.items()


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


@pytest.mark.skipif(not IS_THERE, reason="chromium and chromedriver are not installed (make browser)")
async def test_pages_fit_on_a_phone(site: Path, tmp_path: Path) -> None:
    """No page is wider than a window of 390 pixels: what is, such as a table, scrolls by itself."""
    with chromium(tmp_path / "chromium") as browser:
        await browser.resize(390, 844)
        for path in sorted(site.glob("*.html")):
            await browser.open(path.as_uri())
            wide = await browser.js("const page = document.documentElement; return page.scrollWidth > page.clientWidth")
            assert not wide, path.name


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.md")))
def test_links_outside_of_docs_lead_somewhere(name: str, site: Path) -> None:
    """Each relative link and picture of README and its siblings is a file here, and each anchor is one of its page."""
    text = (ROOT / name).read_text()
    for target, anchor in [*_LINK.findall(text), *((picture, "") for picture in _PICTURE.findall(text))]:
        assert (ROOT / target).exists(), target
        if anchor and target.startswith("docs/"):
            assert f'id="{anchor}"' in (site / Path(target).with_suffix(".html").name).read_text(), (target, anchor)


def test_changelog_tells_of_this_version() -> None:
    """Below what is unreleased stands the version that the programs show."""
    first, second, *_ = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert (first, second) == ("Unreleased", __version__)


def test_page_says_what_watching_costs() -> None:
    """What the dashboard costs stands in docs/speed.md as bench/dashboard_feed.py has found it."""
    made = table(json.loads(DASHBOARD_NUMBERS.read_text())["results"])
    assert put(made, SPEED.read_text(), "bench.dashboard_feed") == SPEED.read_text()
