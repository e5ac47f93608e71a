"""`make mutants` asks files that exist, and its list of equivalent mutants holds only mutants that are still made."""

import pytest

from tools.mutants import lua_mutants, python_mutants, table
from tools.mutants.__main__ import EQUIVALENT, ROOT


@pytest.mark.parametrize("module", table.TESTS)
def test_modules_and_their_tests_exist(module: str) -> None:
    """A renamed file is renamed in the table."""
    assert [name for name in (module, *table.tests_of(module)) if not (ROOT / name).exists()] == []


def test_equivalent_mutants_are_still_made() -> None:
    """A line whose code has changed says nothing any more."""
    listed = {line for line in EQUIVALENT.read_text().splitlines() if line and line[0] not in "# "}
    made = set()
    for module in {line.partition(" ")[0] for line in listed}:
        source = (ROOT / module).read_bytes()
        make = python_mutants.mutants if module.endswith(".py") else lua_mutants.mutants
        made |= {mutant.told(source) for mutant in make(module, source)}
    assert sorted(listed - made) == []
