"""Makes a release in dist/: `make release VERSION=1.2.3`, or `make release` for the version that the checkout has.

A new version is first written into the files that name one. Then come the sdist, the wheel, the constraints, the Helm
chart, a list of what the wheel installs (SBOM, CycloneDX), and checksums of all. It commits, tags and sends nothing.
"""

import argparse
import gzip
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from router.version import __version__

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
CHART = ROOT / "deploy" / "helm" / "sandboxfusion-router"
SUMS = "SHA256SUMS"
# The versions of all libraries with which the tests were green.
CONSTRAINTS = ROOT / "constraints.txt"

CHANGELOG = ROOT / "CHANGELOG.md"
UPGRADING = ROOT / "docs" / "upgrading.md"
# The line of each file that names the version, with the version between its two groups.
NAMED_IN = (
    (ROOT / "router" / "version.py", re.compile(r'^(__version__ = ")[^"]+(")$', re.MULTILINE)),
    (CHART / "Chart.yaml", re.compile(r"^(version: )\S+()$", re.MULTILINE)),
    (CHART / "Chart.yaml", re.compile(r'^(appVersion: ")[^"]+(")$', re.MULTILINE)),
    (
        ROOT / "deploy" / "kubernetes" / "base" / "kustomization.yaml",
        re.compile(r'^(.*newName: sandboxfusion-router, newTag: ")[^"]+("}.*)$', re.MULTILINE),
    ),
)
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_UNRELEASED = "## Unreleased\n"


class CannotRelease(Exception):
    """The release cannot be made; the message says why and what to do."""


def parts(version: str) -> tuple[int, int, int]:
    """Return MAJOR, MINOR and PATCH. Raises CannotRelease if `version` has another form.

    >>> parts("1.20.3")
    (1, 20, 3)
    """
    found = _VERSION.fullmatch(version)
    if found is None:
        raise CannotRelease(f"VERSION={version}: expected MAJOR.MINOR.PATCH, such as 1.2.3")
    major, minor, patch = map(int, found.groups())
    return major, minor, patch


def check_step(before: str, after: str, upgrading: str) -> None:
    """Raise CannotRelease unless `after` is newer than `before` and, if its MINOR is, has notes for who upgrades."""
    old, new = parts(before), parts(after)
    if new <= old:
        raise CannotRelease(f"VERSION={after}: expected a newer version than {before}")
    heading = f"## From {old[0]}.{old[1]} to {new[0]}.{new[1]}"
    if new[:2] != old[:2] and f"\n{heading}\n" not in upgrading:
        raise CannotRelease(f"docs/upgrading.md: expected the section `{heading}`")


def released(changelog: str, version: str, day: date) -> str:
    """Return the changelog with what stands under Unreleased moved to `version`.

    Raises CannotRelease if nothing stands there.
    """
    head, mark, rest = changelog.partition(_UNRELEASED)
    if not mark or not rest.partition("\n## ")[0].strip():
        raise CannotRelease("CHANGELOG.md: expected lines under `## Unreleased`")
    return f"{head}{mark}\n## {version} - {day.isoformat()}\n{rest}"


def named(text: str, pattern: re.Pattern[str], version: str) -> str:
    """Return `text` with `version` in the one line that `pattern` finds. Raises CannotRelease if there is not one."""
    changed, count = pattern.subn(rf"\g<1>{version}\g<2>", text)
    if count != 1:
        raise CannotRelease(f"expected one line of the form {pattern.pattern}, found {count}")
    return changed


def chart_archive(folder: Path) -> bytes:
    """Return the chart as `helm package` packs it. The same files always make the same bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        # helm reads Chart.yaml first, and so finds a broken chart without reading all of it.
        paths = sorted(folder.rglob("*"), key=lambda path: (path.name != "Chart.yaml", path))
        for path in (path for path in paths if path.is_file()):
            member = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder)}")
            member.size, member.mode = path.stat().st_size, 0o644
            archive.addfile(member, io.BytesIO(path.read_bytes()))
    return packed.getvalue()


def checksums(folder: Path) -> str:
    """Return the lines of SHA256SUMS, as `sha256sum --check` reads them."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def set_version(version: str) -> None:
    """Write `version` into all files that name it. Raises CannotRelease before any is changed."""
    if _said(["git", "status", "--porcelain"]):
        raise CannotRelease(
            "the checkout has changes; commit them first, so that the release's commit has only its version"
        )
    check_step(__version__, version, UPGRADING.read_text())
    changed = {CHANGELOG: released(CHANGELOG.read_text(), version, datetime.now(UTC).date())}
    for path, pattern in NAMED_IN:
        changed[path] = named(changed.get(path) or path.read_text(), pattern, version)
    for path, text in changed.items():
        path.write_text(text)


def build(version: str) -> None:
    """Make all files of the release in dist/, which is emptied first."""
    shutil.rmtree(DIST, ignore_errors=True)
    _run([sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT)])
    (wheel,) = DIST.glob(f"*-{version}-*.whl")
    shutil.copy(CONSTRAINTS, DIST)
    (DIST / f"{CHART.name}-{version}.tgz").write_bytes(chart_archive(CHART))
    with tempfile.TemporaryDirectory() as folder:
        _run([sys.executable, "-m", "venv", "--without-pip", folder])
        pip = [sys.executable, "-m", "pip", "--python", folder, "--quiet", "--disable-pip-version-check"]
        _run([*pip, "install", "--constraint", str(CONSTRAINTS), f"{wheel}[traces]"])
        for path in Path(folder).rglob("direct_url.json"):
            path.unlink()  # it names the wheel's place on this machine
        sbom = DIST / f"{CHART.name}-{version}.cdx.json"
        _run([_tool("cyclonedx-py"), "environment", "--output-reproducible", "--output-file", str(sbom), folder])
    (DIST / SUMS).write_text(checksums(DIST))


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _run(argv: Sequence[str]) -> None:
    if subprocess.run(argv, cwd=ROOT, check=False).returncode:
        raise CannotRelease(f"`{' '.join(argv)}` failed; its last lines above say why")


def _said(argv: Sequence[str]) -> str:
    return subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Make the release that the command line asks for, and say what is left to do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", nargs="?", default="", help="the new version; without it, the one that there is")
    version = parser.parse_args().version
    try:
        if version:
            set_version(version)
        build(version or __version__)
    except CannotRelease as error:
        sys.exit(f"cannot release: {error}")
    print("dist/:", *sorted(path.name for path in DIST.iterdir()), sep="\n  ")
    if version:
        print(f"Then: git commit -am 'Release {version}' && git tag v{version}")


if __name__ == "__main__":
    main()
