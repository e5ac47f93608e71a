"""Groups of jobs that stop on failure: once the code of one job has failed, those of the group that wait are not run.

A group is named by a tenant's clients, and is one over all processes: they tell one another which groups have failed.
Or it is a part of one batch, which one process runs; then no other process hears of it.
"""

import asyncio
import itertools
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from router.jobs.options import JobOptions

# Jobs of a failed group that come this long after are not run either. Then its name is that of a new group.
KEPT_S = 300.0
# So many failed groups are known at a time; the oldest are forgotten, and what comes of them is run.
MAX_FAILED = 50_000


class Group(NamedTuple):
    """Which group it is; `scope` is the batch to which it belongs, "" if clients have named it for several requests."""

    scope: str
    tenant: str
    name: str

    @classmethod
    def of(cls, options: JobOptions, tenant: str) -> "Group":
        """Return the group of a job with these options."""
        return cls(options.scope, tenant, options.group)


class GroupFailed(msgspec.Struct, frozen=True, tag="group_failed"):
    """The note to other processes that a group has failed."""

    tenant: str
    group: str


def untold(note: GroupFailed) -> None:
    """Tell nobody, where one process is alone."""


class Groups:
    """The groups of this process. `tell` sends a note to all others; `hear` takes theirs."""

    def __init__(
        self, tell: Callable[[GroupFailed], None] = untold, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._scopes = itertools.count(1)
        # By scope: its failed groups, each with the moment until which that is remembered; the oldest first.
        self._failed: dict[str, OrderedDict[Group, float]] = {"": OrderedDict()}
        self._members: dict[Group, dict[object, Callable[[], None]]] = {}

    def open(self) -> str:
        """Return the scope of a new batch. Its failed groups are remembered until it is closed."""
        scope = str(next(self._scopes))
        self._failed[scope] = OrderedDict()
        return scope

    def close(self, scope: str) -> None:
        """Forget the groups of a batch that has ended."""
        self._failed.pop(scope, None)

    def join(self, group: Group, member: object, skip: Callable[[], None]) -> None:
        """Have `skip` called when the group fails; it may do nothing. Each member has to `leave`."""
        self._members.setdefault(group, {})[member] = skip

    def leave(self, group: Group, member: object) -> None:
        """Forget a member that has its answer."""
        members = self._members.get(group)
        if members is not None and members.pop(member, None) is not None and not members:
            del self._members[group]

    def has_failed(self, group: Group) -> bool:
        """Whether a job of this group has failed."""
        failed = self._failed.get(group.scope)
        return failed is not None and failed.get(group, -math.inf) > self._clock()

    def fail(self, group: Group) -> None:
        """Let the group's other jobs be skipped, in this process and in all others."""
        if not self.has_failed(group) and self._stop(group) and not group.scope:
            self._tell(GroupFailed(group.tenant, group.name))

    def hear(self, note: GroupFailed) -> None:
        """Let the group's jobs in this process be skipped."""
        self._stop(Group("", note.tenant, note.group))

    def _stop(self, group: Group) -> bool:
        failed = self._failed.get(group.scope)
        if failed is None:  # its batch has ended
            return False
        now = self._clock()
        failed[group] = math.inf if group.scope else now + KEPT_S
        failed.move_to_end(group)
        while len(failed) > MAX_FAILED or next(iter(failed.values())) <= now:
            failed.popitem(last=False)
        loop = asyncio.get_running_loop()
        for skip in self._members.get(group, {}).values():
            loop.call_soon(skip)
        return True
