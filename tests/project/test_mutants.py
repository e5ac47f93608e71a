"""`make mutants` asks files that exist."""

import pytest

from tools.mutants import table
from tools.mutants.__main__ import ROOT


@pytest.mark.parametrize("module", table.TESTS)
def test_modules_and_their_tests_exist(module: str) -> None:
    """A renamed file is renamed in the table."""
    assert [name for name in (module, *table.tests_of(module)) if not (ROOT / name).exists()] == []


def test_each_part_of_the_scheduler_is_asked() -> None:
    """The script decides as its Python twin does, part by part."""
    parts = {str(path.relative_to(ROOT)) for path in (ROOT / "router" / "scheduling" / "lua").glob("*.lua")}
    assert parts == {module for module in table.TESTS if module.endswith(".lua")}
