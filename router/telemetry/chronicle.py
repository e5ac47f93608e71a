"""Tells the journal what this router process sees: its begin and end, Redis' return, limits that jobs met, and reloads.

Jobs only count what they meet. Once a second this looks at the counts.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from router.fleet.counters import Counters
from router.fleet.journal import sentences
from router.fleet.journal.teller import Teller
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.policy.tenants import DEFAULT
from router.telemetry.recorder import Recorder
from router.version import __version__

LOOK_EVERY_S = 1.0
# A state that lasts is told this often.
TELL_EVERY_S = 60.0
# All processes of a host see the same within this time. One of them tells.
TOGETHER_S = 10.0
# So many looks after another find no sidecar that leads: one that stands by takes over within a second.
NO_SIDECAR_LOOKS = 3
# If more tenants than these are at their limits within a second, the others are told later.
_TENANTS_A_LOOK = 20


class Chronicle:
    """What one process tells.

    `reload` returns "" for a new configuration, its flaw for a bad one, None for none. So does `keys` for the file of
    API keys. `leader` returns the name of the sidecar that leads, "" if none ever has, None if none does any more.
    """

    def __init__(
        self,
        redis: RedisClient,
        recorder: Recorder,
        process: str,
        reload: Callable[[], str | None],
        keys: Callable[[], str | None],
        leader: Callable[[], str | None],
    ) -> None:
        self._redis = redis
        self._teller = Teller(redis)
        self._counters = Counters(redis)
        self._recorder = recorder
        self._process = process
        self._host = socket.gethostname()
        self._reload = reload
        self._keys = keys
        self._leader = leader
        self._looks_without_sidecar = 0
        self._queue_told_at = -TELL_EVERY_S
        redis.on_return = self._redis_is_back

    async def run(self) -> None:
        """Tell that the process has begun, and what it sees from then on, until cancelled."""
        self._teller.tell(sentences.started(self._host, __version__, self._process), TOGETHER_S)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._teller.run())
            while True:
                await self._look()
                await asyncio.sleep(LOOK_EVERY_S)

    async def finish(self) -> None:
        """Tell the last things, and take leave: from now on no heartbeat is missed. The process sends none any more."""
        await self._look()
        self._teller.tell(sentences.ended(self._host, self._process), TOGETHER_S)
        await self._teller.finish()
        with suppress(RedisUnavailable):
            await self._redis.ask_all(
                ("ZREM", self._redis.keys.processes, self._process), ("DEL", self._redis.keys.process(self._process))
            )

    async def _look(self) -> None:
        if (flaw := self._reload()) is not None:
            told = sentences.refused if flaw else sentences.reloaded
            self._teller.tell(told(self._host, "router", flaw or "its configuration"), TOGETHER_S)
        if (flaw := self._keys()) is not None:
            self._teller.tell(sentences.keys_read(self._host, flaw), TOGETHER_S)
        self._look_for_sidecar()
        crowded, found_full = self._recorder.take_refusals()
        for tenant, count in list(crowded.items())[:_TENANTS_A_LOOK]:
            self._teller.tell(sentences.too_many_waiting(tenant or DEFAULT, count, self._process), TELL_EVERY_S)
        if found_full and time.monotonic() - self._queue_told_at >= TELL_EVERY_S:
            with suppress(RedisUnavailable):
                await self._tell_of_queue(found_full)

    def _look_for_sidecar(self) -> None:
        leader = self._leader()
        if leader is not None:
            if leader and self._looks_without_sidecar >= NO_SIDECAR_LOOKS:
                self._teller.tell(sentences.sidecar_again(leader), TOGETHER_S)
            self._looks_without_sidecar = 0
            return
        self._looks_without_sidecar += 1
        if self._looks_without_sidecar == NO_SIDECAR_LOOKS:
            self._teller.tell(sentences.no_sidecar(self._process), TOGETHER_S)

    async def _tell_of_queue(self, refused: int) -> None:
        usage = await self._counters.usage(())
        waiting = {name: tenant.waiting for name, tenant in usage.tenants.items()} or {DEFAULT: usage.waiting}
        most = max(waiting, key=waiting.__getitem__)
        event = sentences.queue_full(usage.waiting, most, waiting[most], refused, self._process)
        self._teller.tell(event, TELL_EVERY_S)
        self._queue_told_at = time.monotonic()

    def _redis_is_back(self, lost_at: float, cause: str) -> None:
        event = sentences.redis_back(self._host, lost_at, time.time(), cause, self._process)
        self._teller.tell(event, TOGETHER_S)
