"""What the tests of upstream share."""

from collections.abc import AsyncIterator

import pytest

from router.config.settings import TlsSettings
from router.upstream.pool import WorkerPool


@pytest.fixture
async def upstream() -> AsyncIterator[WorkerPool]:
    """Connections, closed after the test."""
    connections = WorkerPool(TlsSettings())
    yield connections
    connections.close()
