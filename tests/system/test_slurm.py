"""deploy/'s Slurm script, run by stand-ins for srun and singularity: script, agents, workers, and Slurm's warning."""

import asyncio
import os
import shlex
import signal
import sys
from pathlib import Path

import aiohttp

from router.processes import free_port, is_free
from tests.programs import ROOT, Program, Router, System, children_of
from tests.system.test_agent import LOCAL, TOKEN, Client, fleet
from tests.waiting import eventually

SCRIPT = ROOT / "deploy" / "slurm" / "sandbox-workers.sbatch"
TASKS = 2
# As srun on one node: the command once for each task, signals passed on, and the highest status.
SRUN = f"""#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < {TASKS}; task++)); do
  SLURM_LOCALID=$task "$@" &
  tasks+=($!)
done
trap 'kill -TERM "${{tasks[@]}}"' TERM
status=0
for task in "${{tasks[@]}}"; do
  while kill -0 "$task" 2>/dev/null; do wait "$task"; ended=$?; done
  ((ended > status)) && status=$ended
done
exit "$status"
"""
# As singularity run: what --env sets is what the container sees, and --cleanenv hides the rest.
SINGULARITY = f"""#!/bin/bash
[[ $1 == run && " $* " == *" --cleanenv "* && " $* " == *" --env HOST=0.0.0.0 "* ]] || exit 64
[[ "${{@: -1}}" == the-image.sif && ! -v ADMIN_TOKEN ]] || exit 65
while [[ $# -gt 0 ]]; do [[ $1 == --env ]] && declare "$2"; shift; done
exec {shlex.quote(sys.executable)} -m router.cli worker --port "$PORT"
"""
SFR = f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m router.cli "$@"\n'


def path_with(folder: Path, **programs: str) -> str:
    """Return a PATH that has these programs first."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def free_ports() -> int:
    """Return the first of TASKS free ports in a row."""
    while not all(is_free("127.0.0.1", (first := free_port()) + task) for task in range(TASKS)):
        pass
    return first


async def test_slurm_script_runs_workers_until_it_is_warned_and_loses_no_job(system: System) -> None:
    """Both tasks' workers join by themselves, work, and are gone after SIGTERM to the batch script alone."""
    system.configure([], admin=LOCAL)
    system.env["ADMIN_TOKEN"] = TOKEN
    async with system.sidecar(), system.router(1) as router:
        env = {
            **system.env,
            "PATH": path_with(
                system.folder / "bin",
                srun=SRUN,
                singularity=SINGULARITY,
                sfr=SFR,
                hostname="#!/bin/sh\necho 127.0.0.1\n",
            ),
            "ROUTER": router.url,
            "IMAGE": "the-image.sif",
            "PORT": str(free_ports()),
        }
        async with Program(["bash", str(SCRIPT)], system.folder / "slurm.log", env) as script:
            await router.sees(healthy=TASKS)
            (srun,) = children_of(script.pid)
            agents = children_of(srun)
            client = Client()
            async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as jobs:
                for number in range(TASKS):
                    jobs.create_task(client.send(session, router, number, seconds=1.5))
                await eventually(lambda: _all_run(router), what="a job on each worker")
                script.send(signal.SIGTERM)
            assert await script.ended() == 128 + signal.SIGTERM
            assert (client.wrong, client.attempts, len(set(client.by))) == ([], {1}, TASKS)
            assert not any(Path(f"/proc/{pid}").exists() for pid in (srun, *agents))
            assert await fleet(router) == {}


async def _all_run(router: Router) -> bool:
    return all(worker["running"] == 1 for worker in (await fleet(router)).values())
