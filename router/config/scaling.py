"""The section `scaling` of config.yaml."""

from router.config.section import PositiveSeconds, Section


class ScalingSettings(Section):
    """How many slots `/admin/scaling` and `/metrics` say that the fleet needs; see [Scaling](operations.md#scaling)."""

    target_wait: PositiveSeconds = 10.0
    """within how many seconds all pending jobs shall have begun: wanted slots = running jobs + waiting worker-seconds /
    this"""
