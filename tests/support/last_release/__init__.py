"""What the last release runs in Redis: routers of both releases work side by side while a fleet is upgraded."""

from pathlib import Path

# The scheduler's script, joined and filled in for the prefix `sfr`.
SCHEDULER = (Path(__file__).parent / "scheduler.lua").read_text()
