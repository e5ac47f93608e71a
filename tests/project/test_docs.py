"""The documentation builds without a warning, loads nothing from other hosts, and agrees with the code."""

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
from bench.dashboard_views import FILE as VIEWS_NUMBERS
from bench.dashboard_views import table as table_of_views
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
from tools.help_page import PAGE as HELP
from tools.help_page import SOURCE
from tools.help_page import page as help_page

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
_README_LINES, _README_KEYS = 200, 10
_ROW = re.compile(r"^\| `([\w.\[\]]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?://)([^)#]+)#?([^)]*)\)")
_PICTURE = re.compile(r"\bsrc(?:set)?=\"([^\"]+)\"")
# Addresses that a browser loads by itself, without links.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc="([^"]*)"|<link\s[^>]*href="([^"]*)"|url\(([^)]*)\)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, with warnings as errors. With `--quiet` mkdocs would count none."""
    folder = tmp_path_factory.mktemp("site")
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_reference_is_made_from_the_settings() -> None:
    """docs/configuration.md is the output of `python -m tools.config_reference`."""
    assert PAGE.read_text() == page(PAGE.read_text())


def test_reference_has_every_key() -> None:
    """Each key of config.yaml, at any depth, is in the reference."""
    named = {key.name for _, members in keys().values() for key in members}
    for name, field in Settings.model_fields.items():
        nested = getattr(field.annotation, "model_fields", None)
        assert {f"{name}.{inner}" for inner in nested} <= named if nested else name in named


def test_readme_s_table_agrees_with_the_settings() -> None:
    """README's table has ten keys, each with the settings' default and meaning."""
    table = README.read_text().partition("| key | default | meaning |")[2].partition("\n\n")[0]
    made = {(key.name, key.default, key.meaning) for _, members in keys().values() for key in members}
    shown = _ROW.findall(table)
    assert len(shown) == _README_KEYS
    assert set(shown) <= made


def test_readme_is_short() -> None:
    """README can be read in one go; details are in docs/."""
    assert len(README.read_text().splitlines()) <= _README_LINES


@pytest.mark.parametrize("name", PALETTES)
def test_architecture_s_pictures_are_made_from_their_source(name: str) -> None:
    """docs/pictures has the output of `python -m tools.architecture`, which is well-formed XML."""
    text = (PICTURES / f"architecture-{name}.svg").read_text()
    assert text == svg(PALETTES[name])
    ET.fromstring(text)


def test_handbook_names_every_error() -> None:
    """docs/failures.md contains the text of each error that the router itself answers."""
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
    """docs/api.md names each of SandboxFusion's endpoints after its method."""
    page = (ROOT / "docs" / "api.md").read_text()
    shown = {
        path: method
        for method, paths in re.findall(r"`(POST|GET) (/\w+(?:`, `/\w+)*)`", page)
        for path in paths.split("`, `")
    }
    assert {path: endpoint.method for path, endpoint in SANDBOX_FUSION.items()}.items() <= shown.items()


def test_every_page_is_built(site: Path) -> None:
    """Each page of docs/ is in the site."""
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {path.stem for path in site.glob("*.html")}


def test_site_loads_nothing_from_other_hosts(site: Path) -> None:
    """No page or style sheet names another host in an address that a browser loads by itself."""
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        fetched = {address for found in _FETCHED.findall(path.read_text()) for address in found if address}
        assert not {address for address in fetched if re.match(r"[\"']?(https?:)?//", address)}, path


@pytest.mark.skipif(not IS_THERE, reason="chromium and chromedriver are not installed (make browser)")
async def test_search_works_in_pages_opened_from_the_disk(site: Path, tmp_path: Path) -> None:
    """The search finds a page's words without a server and without another host."""
    with chromium(tmp_path / "chromium") as browser:
        await browser.open((site / "index.html").as_uri())
        await browser.js("document.querySelector('.md-search__input').focus()")
        await browser.type("client_budget")
        await browser.shows(".md-search-result__list", "Clients")
        assert [asked for asked in await browser.requested() if asked.startswith("http")] == []


@pytest.mark.skipif(not IS_THERE, reason="chromium and chromedriver are not installed (make browser)")
async def test_pages_fit_on_a_phone(site: Path, tmp_path: Path) -> None:
    """No page is wider than a window of 390 pixels; wide parts such as tables scroll by themselves."""
    with chromium(tmp_path / "chromium") as browser:
        await browser.resize(390, 844)
        for path in sorted(site.glob("*.html")):
            await browser.open(path.as_uri())
            wide = await browser.js("const page = document.documentElement; return page.scrollWidth > page.clientWidth")
            assert not wide, path.name


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.md")))
def test_links_outside_docs_have_targets(name: str, site: Path) -> None:
    """Each relative link or picture of README and its siblings is a file here, and each anchor exists in its page."""
    text = (ROOT / name).read_text()
    for target, anchor in [*_LINK.findall(text), *((picture, "") for picture in _PICTURE.findall(text))]:
        assert (ROOT / target).exists(), target
        if anchor and target.startswith("docs/"):
            assert f'id="{anchor}"' in (site / Path(target).with_suffix(".html").name).read_text(), (target, anchor)


def test_changelog_has_this_version() -> None:
    """The first section is Unreleased, the second the version that the programs show."""
    first, second, *_ = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert (first, second) == ("Unreleased", __version__)


def test_page_has_the_dashboard_s_measured_cost() -> None:
    """docs/speed.md has the table made from the results of bench/dashboard_feed.py."""
    made = table(json.loads(DASHBOARD_NUMBERS.read_text())["results"])
    assert put(made, SPEED.read_text(), "bench.dashboard_feed") == SPEED.read_text()
    views = table_of_views(json.loads(VIEWS_NUMBERS.read_text())["results"])
    assert put(views, SPEED.read_text(), "bench.dashboard_views") == SPEED.read_text()


def test_dashboard_s_help_is_made_from_the_page_on_failures() -> None:
    """router/dashboard/page/help.html is the output of `python -m tools.help_page`."""
    assert HELP.read_text() == help_page(SOURCE.read_text())
