"""Fixtures that more than one test room uses."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.programs import System, Valkey
from tests.support.worker import ScriptedWorker

# The same examples each time, and as long as it takes: a busy machine makes no test fail.
settings.register_profile(
    "steady", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[Valkey]:
    """A real Valkey, empty."""
    async with Valkey(tmp_path) as server:
        yield server


@pytest.fixture
def system(tmp_path: Path, valkey: Valkey) -> System:
    """A folder for a configuration and the programs that use it, over a real Valkey."""
    return System(tmp_path, valkey.url)


@pytest.fixture
async def workers() -> AsyncIterator[list[ScriptedWorker]]:
    """Three scripted workers."""
    async with ScriptedWorker() as first, ScriptedWorker() as second, ScriptedWorker() as third:
        yield [first, second, third]
