"""Sends requests to an ASGI application in this process."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI

from router.api.application import answer_errors
from router.auth.access import PEER

JSON = (b"content-type", b"application/json")


def serving(*routers: APIRouter) -> FastAPI:
    """Return an application with these endpoints, which answers errors as the router does."""
    app = FastAPI()
    answer_errors(app)
    for each in routers:
        app.include_router(each)
    return app


async def ask(
    app: FastAPI,
    method: str,
    path: str,
    params: Mapping[str, str],
    body: object,
    headers: Sequence[tuple[bytes, bytes]],
    peer: str | None = None,
) -> tuple[int, Any, dict[bytes, bytes]]:
    """Send one request from `peer`; return the answer's status, body and headers. `body` None: it has none."""
    text, sent = b"" if body is None else json.dumps(body).encode(), []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": urlencode(params).encode(),
        "headers": [JSON, *headers],
        "state": {PEER: peer},
    }

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": text}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    answer = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(answer) if answer else None, dict(sent[0]["headers"])
