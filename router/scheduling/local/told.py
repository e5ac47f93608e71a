"""What the twin tells in its reply of single jobs, while it serves a call."""

from dataclasses import dataclass, field, fields

import msgspec

from router.scheduling.messages import Adopted, Grant, Reply, SharedRun


@dataclass(slots=True)
class Told:
    """The lists of a Reply."""

    granted: list[Grant] = field(default_factory=list)
    queued: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    exhausted: list[int] = field(default_factory=list)
    claimed: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    unfunded: list[int] = field(default_factory=list)
    quarantined: list[int] = field(default_factory=list)
    crowded: list[int] = field(default_factory=list)
    unpooled: list[int] = field(default_factory=list)
    adopted: list[Adopted] = field(default_factory=list)
    unhedged: list[int] = field(default_factory=list)
    shared: list[SharedRun] = field(default_factory=list)

    def in_reply(self, reply: Reply) -> Reply:
        """Return the reply with these lists."""
        return msgspec.structs.replace(reply, **{each.name: tuple(getattr(self, each.name)) for each in fields(self)})
