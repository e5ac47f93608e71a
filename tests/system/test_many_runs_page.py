"""The set-ups of docs/many-runs.md, each run as it is written there but for its ports."""

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    port: str

    @classmethod
    def read(cls, heading: str) -> "SetUp":
        """Return the set-up under a heading of the page, on free ports."""
        text = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        ports: dict[str, str] = {}
        text = _PORT.sub(lambda port: ports.setdefault(port[0], str(free_port())), text)
        (_, config), (_, start), (_, use), *_ = [block for block in _BLOCK.findall(text) if block[0] in ("yaml", "sh")]
        port = ports["8000"]
        return cls(config, re.sub(r"^sfr up", f"exec sfr up --port {port}", start, flags=re.MULTILINE), use, port)

    async def printed(self, folder: Path) -> str | None:
        """Run it in `folder`; return what the other terminal shows, or None if another program has taken its port."""
        (folder / "config.yaml").write_text(self.config)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {"PATH": path, "TMPDIR": str(folder), "SFR_URL": f"http://127.0.0.1:{self.port}"}
        async with Program(["bash", "-c", self.start], folder / "up.log", env, folder) as system:
            await eventually(lambda: "Ctrl-C stops" in system.output or system.status is not None, 60, "the start")
            if "Address already in use" in system.output:
                return None
            assert system.status is None, system.output
            async with Program(["bash", "-ec", self.use], folder / "use.log", env, folder) as use:
                await use.ended(100)
                assert use.status == 0, use.output
                return use.output


async def shown_by(heading: str, folder: Path) -> tuple[SetUp, str]:
    """Run the set-up under a heading of the page, on other ports if these are taken; return it and what it shows."""
    while True:
        set_up = SetUp.read(heading)
        if (shown := await set_up.printed(folder)) is not None:
            return set_up, shown


def answers(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in `text`, which curl prints without a line's end."""
    decoder, found = json.JSONDecoder(), []
    while (start := text.find('{"')) >= 0:
        answer, end = decoder.raw_decode(text[start:])
        found.append(answer)
        text = text[start + end :]
    return found


async def test_two_training_runs(tmp_path: Path) -> None:
    """Of eight slots the run of weight 3 has six, and every job has its result."""
    _, shown = await shown_by("Two training runs, 3 : 1", tmp_path)
    # Name, weight, priority, running.
    assert re.findall(r"^(run-.) +(\d) +0 +(\d)\b", shown, re.MULTILINE) == [("run-a", "3", "6"), ("run-b", "1", "2")]
    assert shown.count("200 done") == 2


async def test_evaluation_beside_training(tmp_path: Path) -> None:
    """The evaluation's job has its result while most of the training's jobs wait, and all of those end well."""
    _, shown = await shown_by("An evaluation beside training", tmp_path)
    (answer,) = answers(shown)
    assert answer["run_result"]["stdout"] == "42\n"
    assert answer["router_metadata"]["tenant"] == "evaluation"
    assert "200 done" in shown


async def test_pools(tmp_path: Path) -> None:
    """The first worker runs the job that fits, and the two others are refused with the reasons that the page gives."""
    set_up, shown = await shown_by("A pool of GPU workers, languages and memory", tmp_path)
    runs, too_large, without_label = answers(shown)
    assert runs["router_metadata"]["worker_url"] in set_up.config.partition("labels: [gpu]")[0]
    assert "20000" in too_large["detail"]
    assert "tpu" in without_label["detail"]
