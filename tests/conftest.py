"""Fixtures of several test rooms."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from redis import Redis

from tests.support.programs import System, Valkey
from tests.support.worker import ScriptedWorker

# The same examples each time and without a time limit, so that a busy machine makes no test fail.
settings.register_profile(
    "steady", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[Valkey]:
    """A real, empty Valkey."""
    async with Valkey(tmp_path) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def lasting_valkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    """One real Valkey for all tests that empty it themselves, because its start takes longer than most of them."""
    async with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def redis(lasting_valkey: Valkey) -> Iterator[Redis]:
    """A client of a real, empty Valkey."""
    with Redis.from_url(lasting_valkey.url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def system(tmp_path: Path, valkey: Valkey) -> System:
    """A folder for a configuration, and the programs that use it with a real Valkey."""
    return System(tmp_path, valkey.url)


@pytest.fixture
async def worker() -> AsyncIterator[ScriptedWorker]:
    """One scripted worker."""
    async with ScriptedWorker() as scripted:
        yield scripted


@pytest.fixture
async def workers() -> AsyncIterator[list[ScriptedWorker]]:
    """Three scripted workers."""
    async with ScriptedWorker() as first, ScriptedWorker() as second, ScriptedWorker() as third:
        yield [first, second, third]
