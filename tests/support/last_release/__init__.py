"""The last release, 0.2.0, as far as this one has to live beside it on one Redis: during an upgrade."""

from pathlib import Path

# Its scheduler's script as Redis ran it, with the prefix `sfr`.
SCRIPT = Path(__file__).with_name("scheduler.lua").read_text(encoding="utf-8")
