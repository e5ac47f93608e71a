"""The router's application in this process, on a real socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from router.downstream.connection import ClientConnection
from router.http.asgi import Application
from tests.support.eventually import eventually


@asynccontextmanager
async def served(app: Application, *, access_log: bool = True) -> AsyncIterator[str]:
    """Serve `app` with uvicorn while the block runs; yield its URL."""
    config = uvicorn.Config(
        app, http=ClientConnection, port=0, log_config=None, workers=1, lifespan="on", access_log=access_log
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started, what="uvicorn's start")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving
