"""What a reply will say, while it is made."""

from dataclasses import dataclass, field, fields
from typing import Any

from router.scheduling.messages import Adopted, Grant, SharedRun


@dataclass(slots=True)
class Told:
    """The lists of a Reply, while it is made."""

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
    shared: list[SharedRun] = field(default_factory=list)

    def lists(self) -> dict[str, Any]:
        """Return the lists by their names in a Reply."""
        return {each.name: tuple(getattr(self, each.name)) for each in fields(self)}
