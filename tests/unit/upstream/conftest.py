"""Fixtures of the tests of upstream."""

from collections.abc import AsyncIterator

import pytest

from router.config.settings import TlsSettings
from router.upstream.pool import WorkerPool


@pytest.fixture
async def upstream() -> AsyncIterator[WorkerPool]:
    """A pool of connections, closed after the test."""
    connections = WorkerPool(TlsSettings())
    yield connections
    connections.close()
