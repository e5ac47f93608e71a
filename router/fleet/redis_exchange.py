"""The exchange in Redis (exchange.lua), under the rules of one configuration."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from router.fleet.exchange import CONSTANTS, Call, Reply, Rules
from router.fleet.store import EXCHANGE, Store, StoreUnavailable

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Reply).decode


class RedisExchange:
    """Does all that a call says, in one atomic step."""

    def __init__(self, store: Store, rules: Rules, steady: str = EXCHANGE) -> None:
        """`steady` names the calls to the store; "" where they are made now and then."""
        self._store = store
        self._steady = steady
        self._script = store.script("exchange.lua", store.keys.plan, (store.keys.prefix, _encode(rules), *CONSTANTS))

    def ask(self, call: Call, then: Callable[[Reply | StoreUnavailable], None]) -> None:
        """Have `call` done. `then` is called once, and never before this has returned."""
        self._script.ask(_encode(call), partial(self._answered, then))

    async def __call__(self, call: Call) -> Reply:
        """Return the reply to `call`, for those who wait in a coroutine. Raises StoreUnavailable."""
        answered: asyncio.Future[Reply | StoreUnavailable] = asyncio.get_running_loop().create_future()
        self.ask(call, lambda reply: None if answered.done() else answered.set_result(reply))
        reply = await answered
        if isinstance(reply, StoreUnavailable):
            raise reply
        return reply

    def _answered(self, then: Callable[[Reply | StoreUnavailable], None], told: Any) -> None:
        try:
            if isinstance(told, Exception):
                raise told
            reply = _decode(told)
        except Exception as error:  # noqa: BLE001  (else who asked would wait for ever)
            then(self._store.failed(error, self._steady))
        else:
            self._store.succeeded(self._steady)
            then(reply)
