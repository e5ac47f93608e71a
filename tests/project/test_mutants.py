"""`make mutants` uses files that exist, and its list of equivalent mutants has only mutants that are still made."""

import pytest

from tools.mutants import lua_mutants, python_mutants, table
from tools.mutants.__main__ import EQUIVALENT, ROOT


@pytest.mark.parametrize("module", table.TESTS)
def test_modules_and_their_tests_exist(module: str) -> None:
    """Each module and test file in the table exists."""
    assert [name for name in (module, *table.tests_of(module)) if not (ROOT / name).exists()] == []


def test_each_part_of_the_scheduler_has_mutants() -> None:
    """Each Lua file of the scheduler is in the table, because it must decide like its Python twin."""
    parts = {str(path.relative_to(ROOT)) for path in (ROOT / "router" / "scheduling" / "lua").glob("*.lua")}
    assert parts == {module for module in table.TESTS if module.endswith(".lua")}


def test_equivalent_mutants_are_still_made() -> None:
    """Each listed mutant is made from today's code; a line about changed code would prove nothing."""
    listed = {line for line in EQUIVALENT.read_text().splitlines() if line and line[0] not in "# "}
    made = set()
    for module in {line.partition(" ")[0] for line in listed}:
        source = (ROOT / module).read_bytes()
        make = python_mutants.mutants if module.endswith(".py") else lua_mutants.mutants
        made |= {mutant.told(source) for mutant in make(module, source)}
    assert sorted(listed - made) == []
