"""deploy/'s files for single hosts are valid for their programs and agree with the code."""

import configparser
import inspect
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from router.auth.admin_token import TOKEN_VARIABLE
from router.cli.agent.command import agent
from router.config.load import CONFIG_VARIABLE, load

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
SLURM = ROOT / "deploy" / "slurm" / "sandbox-workers.sbatch"
PROGRAMS = "/opt/sandboxfusion-router/.venv/bin"


def unit(name: str) -> configparser.SectionProxy:
    """Return the [Service] section of a unit."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "deploy" / "systemd" / f"{name}.service")
    return parser["Service"]


def graceful_s(monkeypatch: pytest.MonkeyPatch) -> int:
    """Return gunicorn's graceful timeout with the repository's config.yaml."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(ROOT / "config.yaml"))
    found: int = runpy.run_path(str(ROOT / "gunicorn.conf.py"))["graceful_timeout"]
    return found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_units_are_valid(tmp_path: Path) -> None:
    """Each key and value is known to systemd, which finds the programs in this test's environment."""
    for path in UNITS:
        text = path.read_text()
        assert PROGRAMS in text
        (tmp_path / path.name).write_text(text.replace(PROGRAMS, str(Path(sys.executable).parent)))
    argv = ["systemd-analyze", "--man=no", "--recursive-errors=no", "verify", *map(str, tmp_path.iterdir())]
    said = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


def test_router_s_unit_gives_time_to_finish_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop limit is longer than gunicorn's graceful timeout, and only the master is signalled."""
    router = unit("sandboxfusion-router")
    assert int(router["TimeoutStopSec"]) > graceful_s(monkeypatch)
    assert (router["Type"], router["KillMode"]) == ("notify", "mixed")


def test_balancers_wait_longer_than_a_job_takes() -> None:
    """No balancer gives up on a job that the router still runs."""
    longest_s = load(ROOT / "config.yaml").timeout
    nginx = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    haproxy = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    for text, key in ((nginx, "proxy_read_timeout "), (haproxy, "timeout server "), (haproxy, "timeout client ")):
        (seconds,) = re.findall(rf"^ *{key}(\d+)s", text, re.MULTILINE)
        assert int(seconds) > longest_s


def test_slurm_warns_before_an_agent_s_time_is_up() -> None:
    """Slurm's warning leaves time for the agent's grace and the worker's end, and no process list shows the token."""
    subprocess.run(["bash", "-n", SLURM], check=True)
    text = SLURM.read_text()
    (seconds,) = re.findall(r"^#SBATCH --signal=B:TERM@(\d+)$", text, re.MULTILINE)
    (grace,) = re.findall(r"GRACE:-(\d+)\}", text)
    default = {name: parameter.default for name, parameter in inspect.signature(agent).parameters.items()}
    assert int(grace) == default["grace"]
    assert int(seconds) >= default["grace"] + default["kill_after"] + 10
    assert TOKEN_VARIABLE not in "".join(line for line in text.splitlines() if not line.startswith("#"))
