"""`make release`: what it refuses, what it writes, and what is in its files."""

import hashlib
import io
import tarfile
from datetime import date
from pathlib import Path

import pytest
import yaml

from router.version import __version__
from tools.release import CHART, NAMED_IN, CannotRelease, chart_archive, check_step, checksums, named, parts, released

CHANGES = "# Changelog\n\n## Unreleased\n\n- One.\n\n## 1.0.0 - 2026-01-01\n\n- Old.\n"


def test_every_file_names_this_version() -> None:
    """The package, the chart and kustomize's image have one version, in lines that the next release finds."""
    for path, pattern in NAMED_IN:
        assert named(path.read_text(), pattern, __version__) == path.read_text(), path
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_line_that_is_missing_is_an_error() -> None:
    """A file whose line has changed its form is not left behind in silence."""
    with pytest.raises(CannotRelease, match="expected one line of the form"):
        named("version = 1\n", NAMED_IN[0][1], "1.0.1")


def test_unreleased_lines_move_to_the_version() -> None:
    """What stood under Unreleased is the new version's, with its day, and an empty Unreleased is above."""
    moved = released(CHANGES, "1.0.1", date(2026, 2, 3))
    assert moved == CHANGES.replace("## Unreleased\n", "## Unreleased\n\n## 1.0.1 - 2026-02-03\n")
    with pytest.raises(CannotRelease, match="expected lines under `## Unreleased`"):
        released(moved, "1.0.2", date(2026, 2, 4))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("1.2", "VERSION=1.2: expected MAJOR.MINOR.PATCH"),
        ("v1.2.4", "VERSION=v1.2.4: expected MAJOR.MINOR.PATCH"),
        ("1.2.3", "VERSION=1.2.3: expected a newer version than 1.2.3"),
        ("1.1.9", "expected a newer version than 1.2.3"),
        ("1.4.0", "expected the section `## From 1.2 to 1.4`"),
    ],
)
def test_bad_version_is_refused(after: str, said: str) -> None:
    """A version has three numbers and is newer, and who upgrades to a new MINOR finds notes."""
    with pytest.raises(CannotRelease, match=said):
        check_step("1.2.3", after, "\n## From 1.2 to 1.3\n")


@pytest.mark.parametrize("after", ["1.2.4", "1.3.0", "1.2.10"])
def test_good_version_is_taken(after: str) -> None:
    """A PATCH needs no notes; numbers are compared as numbers."""
    check_step("1.2.3", after, "# Upgrading\n\n## From 1.2 to 1.3\n")
    assert parts(after) > parts("1.2.3")


def test_chart_is_packed_as_helm_packs_it() -> None:
    """All files lie in one folder of the chart's name, and the same chart makes the same bytes."""
    packed = chart_archive(CHART)
    assert packed == chart_archive(CHART)
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        names = archive.getnames()
    wanted = {f"{CHART.name}/{path.relative_to(CHART)}" for path in CHART.rglob("*") if path.is_file()}
    assert names[0] == f"{CHART.name}/Chart.yaml"
    assert set(names) == wanted


def test_checksums_are_of_every_file(tmp_path: Path) -> None:
    """They have the form that `sha256sum --check` reads."""
    (tmp_path / "b.whl").write_bytes(b"wheel")
    (tmp_path / "a.tgz").write_bytes(b"chart")
    (tmp_path / "SHA256SUMS").write_text("old")
    digests = [hashlib.sha256(content).hexdigest() for content in (b"chart", b"wheel")]
    assert checksums(tmp_path) == f"{digests[0]}  a.tgz\n{digests[1]}  b.whl\n"
