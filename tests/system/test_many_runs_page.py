"""The set-ups of docs/many-runs.md, each run as it is written there but for its ports."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.programs import ROOT, Program

PAGE = ROOT / "docs" / "many-runs.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PORT = re.compile(r"\b80[08]\d\b")


@dataclass
class SetUp:
    """One set-up of the page: its config.yaml, what starts the system, what is run in another terminal."""

    config: str
    start: str
    use: str

    @classmethod
    def read(cls, heading: str) -> "SetUp":
        """Return the set-up under a heading of the page, on free ports."""
        text = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        ports: dict[str, str] = {}
        text = _PORT.sub(lambda port: ports.setdefault(port[0], str(free_port())), text)
        (_, config), (_, start), (_, use), *_ = [block for block in _BLOCK.findall(text) if block[0] in ("yaml", "sh")]
        return cls(config, re.sub(r"^sfr up", f"exec sfr up --port {ports['8000']}", start, flags=re.MULTILINE), use)

    @asynccontextmanager
    async def run(self, folder: Path) -> AsyncIterator[list[str]]:
        """Run it in `folder`; yields the lines that are printed in the other terminal."""
        (folder / "config.yaml").write_text(self.config)
        env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TMPDIR": str(folder)}
        async with Program(["bash", "-c", self.start], folder / "up.log", env, folder) as system:
            await eventually(lambda: "Ctrl-C stops" in system.output or system.status is not None, 60, "the start")
            assert system.status is None, system.output
            async with Program(["bash", "-c", self.use], folder / "use.log", env, folder) as use:
                assert await use.ended(100) == 0, use.output
                yield use.output.splitlines()


async def test_two_training_runs(tmp_path: Path) -> None:
    """Of eight slots the run of weight 3 has six, as `sfr tenants` shows."""
    async with SetUp.read("Two training runs, 3 : 1").run(tmp_path) as lines:
        print(lines)
        raise AssertionError
