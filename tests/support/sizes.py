"""Sizes for tests of other parts: nothing is known, and nothing is told."""

from typing import Any

from router.jobs.sooner.sizes import Sizes


class NoRedis:
    """Stands in for the sizes in Redis while that is away."""

    available = False


def unknown_sizes(view: Any) -> Sizes:
    """Return sizes of which Redis knows nothing."""
    fleet: Any = NoRedis()
    return Sizes(view, fleet)
