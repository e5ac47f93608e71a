"""`make mutants` asks files that exist."""

import pytest

from tools.mutants import table
from tools.mutants.__main__ import ROOT


@pytest.mark.parametrize("module", table.TESTS)
def test_modules_and_their_tests_exist(module: str) -> None:
    """A renamed file is renamed in the table."""
    assert [name for name in (module, *table.tests_of(module)) if not (ROOT / name).exists()] == []
