"""Makes the mutants, runs the tests against each, and shows which survive: `python -m tools.mutants`."""

import argparse
import importlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tools.mutants import lua_mutants, python_mutants
from tools.mutants.mutant import Mutant
from tools.mutants.table import TESTS, tests_of
from tools.mutants.trial import outcomes

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
# Libraries that tests load. They are loaded once, before the tree is copied.
_LIBRARIES = (
    *("aiohttp", "fakeredis", "fastapi", "hypothesis", "msgspec", "prometheus_client", "pydantic", "pytest_asyncio"),
    *("redis.asyncio", "rich.console", "starlette", "trustme", "typer", "uvicorn", "uvloop", "yaml"),
)
_ENOUGH = 0.95


def main() -> int:
    """Return 0 if the tests kill enough of the mutants, otherwise 1."""
    asked = _asked()
    for library in _LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(library)
    chosen = {module: _mutants(module, None if asked.modules else asked.base) for module in asked.modules or TESTS}
    chosen = {module: mutants for module, mutants in chosen.items() if mutants}
    if not chosen:
        print(f"No code that decides differs from {asked.base}. MODULES=… chooses modules to look at.")
        return 0
    until = time.monotonic() + 60 * asked.minutes
    counts: Counter[tuple[str, str]] = Counter()
    with _copy() as tree:
        for number, (module, mutants) in enumerate(chosen.items()):
            share_s = (until - time.monotonic()) / (len(chosen) - number)
            try:
                tests = [*tests_of(module), "-k", asked.chosen]
                counts += _tried(tree, mutants, tests, time.monotonic() + share_s)
            except RuntimeError as error:
                print(error, flush=True)
                counts[module, "not tried"] = len(mutants)
    return _report(counts)


def _tried(tree: Path, mutants: list[Mutant], tests: list[str], until: float) -> Counter[tuple[str, str]]:
    """Try the mutants of one module, and show those that survive."""
    module = mutants[0].path
    source, known = (ROOT / module).read_bytes(), _equivalent()
    fresh = [mutant for mutant in mutants if mutant.told(source) not in known]
    random.Random(1).shuffle(fresh)  # if time runs out, all parts of the module have had some tries
    found = outcomes(tree, module, fresh, tests, until)
    for mutant, outcome in zip(fresh, found, strict=False):
        if outcome != "killed":
            print(f"{mutant.told(source)}  ({outcome}, line {mutant.line(source)})", flush=True)
    counts = Counter((module, "killed" if outcome == "killed" else "survived") for outcome in found)
    counts[module, "equivalent"] = len(mutants) - len(fresh)
    counts[module, "not tried"] = len(fresh) - len(found)
    return counts


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--base", default="main", help="look at lines that differ from this revision")
    parser.add_argument("--minutes", type=float, default=20, help="stop after this time")
    parser.add_argument("-k", dest="chosen", default="", help="run only these tests (an expression, as for pytest -k)")
    parser.add_argument("modules", nargs="*", help="look at all lines of these modules, also at unchanged ones")
    asked = parser.parse_args()
    asked.modules = [module for given in asked.modules for module in TESTS if module.startswith(given)]
    return asked


def _equivalent() -> set[str]:
    """Return the mutants that are known to have no effect. In the file, the reason follows each of them, indented."""
    return {line for line in EQUIVALENT.read_text().splitlines() if line and line[0] not in "# "}


def _mutants(module: str, base: str | None) -> list[Mutant]:
    source = (ROOT / module).read_bytes()
    make = python_mutants.mutants if module.endswith(".py") else lua_mutants.mutants
    made = make(module, source)
    if base is None:
        return made
    changed = _changed(module, base)
    return [mutant for mutant in made if changed & set(range(*mutant.lines(source)))]


def _changed(module: str, base: str) -> set[int]:
    """Return the numbers of the lines that differ from `base`."""
    argv = ["git", "diff", "--unified=0", base, "--", module]
    diff = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    hunks = re.findall(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", diff, re.MULTILINE)
    return {line for start, count in hunks for line in range(int(start), int(start) + int(count or 1))}


@contextmanager
def _copy() -> Iterator[Path]:
    """Copy the working tree, and let Python write no bytecode there.

    Python would take a mutant's bytecode for that of the next one if both files have the same time and length.
    """
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != ROOT]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("router", "sidecar", "tests")]:
        del sys.modules[name]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder)
        for name in names:
            if name and (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, tree / name)
        yield tree


def _report(counts: Counter[tuple[str, str]]) -> int:
    outcomes = ("killed", "survived", "equivalent", "not tried")
    rows = [[counts[module, outcome] for outcome in outcomes] for module in TESTS]
    rows.append([sum(column) for column in zip(*rows, strict=True)])
    print(f"\n{'':32}{'killed':>8}{'survived':>10}{'equivalent':>12}{'not tried':>11}{'':>7}")
    for name, row in zip((*TESTS, "all"), rows, strict=True):
        killed, survived, equivalent, untried = row
        share = f"{killed / (killed + survived):7.1%}" if killed + survived else ""
        if any(row):
            print(f"{name:32}{killed:8}{survived:10}{equivalent:12}{untried:11}{share}")
    return 0 if rows[-1][0] >= _ENOUGH * (rows[-1][0] + rows[-1][1]) else 1


if __name__ == "__main__":
    sys.exit(main())
