"""Presets: what docs/clients.md advises for a kind of client, as one key of config.yaml. Any other key wins over it."""

from collections.abc import Mapping
from typing import Any, Literal

PresetName = Literal["none", "verl", "roll", "reasoning360"]

# Keys of config.yaml, and validated as those. Jobs get second runs where they only grade: a run of the same job beside
# the first changes nothing then. verl's clients may also be tools, whose code may act on something outside.
PRESETS: Mapping[PresetName, Mapping[str, Any]] = {
    "none": {},
    # It waits limits + 10 s, and tries again after 504 only.
    "verl": {
        "client_budget": "job+10",
        "error_status": {"no_workers": 504, "all_failed": 504, "queue_full": 504, "queue_timeout": 504},
    },
    # It waits 30 s for the first byte and 90 s in all, and tries again after every error.
    "roll": {"queue": {"timeout": 20}, "timeout": 60, "hedge": {"enabled": True}},
    # It waits run_timeout + 2 s.
    "reasoning360": {"client_budget": "job+2", "hedge": {"enabled": True}},
}


def with_preset(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is `said` in config.yaml, and below it what its preset says; an unknown preset says nothing.

    >>> with_preset({"preset": "roll", "queue": {"max_waiting": 9}, "timeout": 70})
    {'queue': {'timeout': 20, 'max_waiting': 9}, 'timeout': 70, 'hedge': {'enabled': True}, 'preset': 'roll'}
    """
    return _over(said, preset_of(said))


def preset_of(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the keys and values of the preset that is named; none if it is unknown."""
    return next((its for name, its in PRESETS.items() if name == said.get("preset")), {})


def _over(said: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of both, section by section; where both have one, `said` wins."""
    both = {**below, **said}
    for key in below.keys() & said.keys():
        if isinstance(below[key], Mapping) and isinstance(said[key], Mapping):
            both[key] = _over(said[key], below[key])
    return both
