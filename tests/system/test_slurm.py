"""The Slurm script in deploy/ with agents and workers; srun and singularity are stand-ins."""

import asyncio
import os
import shlex
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from router.processes import free_port, is_free
from tests.support.eventually import eventually
from tests.support.programs import ROOT, Program, Router, System, children_of
from tests.system.test_agent import LOCAL, TOKEN, Client, fleet

SCRIPT = ROOT / "deploy" / "slurm" / "sandbox-workers.sbatch"
TASKS = 2
# The script computes ports from the job's number; this one gives the first task the first port.
JOB = 4_000_000 + 4000 * os.getpid()
# srun of Slurm 22.05 on one node, as observed: it runs the command once per task, forwards no signal, kills its
# tasks at SIGTERM, and ends with their highest status. Without --overlap a step waits for the one before it.
SRUN = f"""#!/bin/bash
while [[ $1 == --* ]]; do
  [[ $1 == --overlap ]] && overlap=yes
  [[ $1 == --ntasks-per-node=* ]] && tasks=${{1#*=}}
  shift
done
[[ ! $overlap ]] && exec 9>>"$STEP" && flock 9
for ((task = 0; task < ${{tasks:-{TASKS}}}; task++)); do
  (while [[ -e $HOLD && ! $overlap ]]; do sleep 0.02; done; SLURM_LOCALID=$task exec "$@") &
  pids+=($!)
done
echo "srun: ${{overlap:+overlapping }}step begins"
trap 'echo "srun: forcing job termination"; kill -KILL "${{pids[@]}}"' TERM INT
status=0
for pid in "${{pids[@]}}"; do
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; ended=$?; done
  ((ended > status)) && status=$ended
done
echo "srun: ${{overlap:+overlapping }}step ended with $status"
exit "$status"
"""
# Like `singularity run`: the container gets the variables of --env, and --cleanenv hides all others.
SINGULARITY = f"""#!/bin/bash
[[ $1 == run && " $* " == *" --cleanenv "* && " $* " == *" --env HOST=0.0.0.0 "* ]] || exit 64
[[ "${{@: -1}}" == the-image.sif && ! -v ADMIN_TOKEN ]] || exit 65
while [[ $# -gt 0 ]]; do [[ $1 == --env ]] && declare "$2"; shift; done
exec {shlex.quote(sys.executable)} -m router.cli worker --port "$PORT"
"""
SFR = f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m router.cli "$@"\n'


def path_with(folder: Path, **programs: str) -> str:
    """Return a PATH on which these programs come first."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def free_ports(count: int = TASKS) -> int:
    """Return the first of `count` consecutive free ports."""
    while not all(is_free("127.0.0.1", (first := free_port()) + task) for task in range(count)):
        pass
    return first


class Slurm:
    """A Slurm node: the stand-ins, and the environment of its jobs."""

    def __init__(self, system: System, router: Router, first_port: int) -> None:
        self._folder = system.folder
        # While this file exists, no task of a step starts.
        self.hold = system.folder / "hold"
        self._env = {
            **system.env,
            "PATH": path_with(
                system.folder / "bin",
                srun=SRUN,
                singularity=SINGULARITY,
                sfr=SFR,
                hostname="#!/bin/sh\necho 127.0.0.1\n",
            ),
            "HOLD": str(self.hold),
            "ROUTER": router.url,
            "IMAGE": "the-image.sif",
            "PORT": str(first_port),
            "SLURM_NNODES": "1",
            "SLURM_NTASKS_PER_NODE": str(TASKS),
        }

    def batch(self, job: int) -> Program:
        """Return the batch script of a job, not started yet."""
        env = {**self._env, "SLURM_JOB_ID": str(job), "STEP": str(self._folder / f"step-{job}")}
        return Program(["bash", str(SCRIPT)], self._folder / f"slurm-{job}.log", env)


def left_behind(job: int) -> list[Path]:
    """Return the files that a job has left in /tmp."""
    return list(Path("/tmp").glob(f"sandbox-workers.{job}.*"))


async def test_slurm_script_drains_its_workers_at_slurm_s_warning(system: System) -> None:
    """SIGTERM to the batch script, even twice, lets running jobs finish and removes the workers."""
    system.configure([], admin=LOCAL)
    system.env["ADMIN_TOKEN"] = TOKEN
    async with (
        system.sidecar(),
        system.router(1) as router,
        Slurm(system, router, free_ports()).batch(JOB) as script,
    ):
        await router.sees(healthy=TASKS)
        (srun,) = children_of(script.pid)
        agents = children_of(srun)
        client = Client()
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as jobs:
            for number in range(TASKS):
                jobs.create_task(client.send(session, router, number, seconds=1.5))
            await eventually(lambda: _all_run(router), what="a job on each worker")
            for times in (1, 2):
                script.send(signal.SIGTERM)
                told = lambda: script.output.count("overlapping step ended") == times  # noqa: E731, B023
                await eventually(told, what=f"signal {times} to the agents")
        assert await script.ended() == 128 + signal.SIGTERM
        assert (client.wrong, client.attempts, len(set(client.by))) == ([], {1}, TASKS)
        assert not any(Path(f"/proc/{pid}").exists() for pid in (srun, *agents))
        assert await fleet(router) == {}
        assert left_behind(JOB) == []


@pytest.mark.parametrize("later", [1, 4000 // TASKS], ids=["the next job", "a job with the same ports"])
async def test_two_slurm_jobs_on_one_node_use_different_ports(system: System, later: int) -> None:
    """Tasks of two jobs on one node, as in a job array, are all workers at the same time."""
    system.configure([], admin=LOCAL)
    system.env["ADMIN_TOKEN"] = TOKEN
    async with system.sidecar(), system.router(1) as router:
        slurm = Slurm(system, router, free_ports(2 * TASKS))
        async with slurm.batch(JOB) as first:
            await router.sees(healthy=TASKS)
            async with slurm.batch(JOB + later) as second:
                await router.sees(healthy=2 * TASKS)
                for script in (first, second):
                    script.send(signal.SIGTERM)
                    assert await script.ended() == 128 + signal.SIGTERM
        assert await fleet(router) == {}


async def test_slurm_job_that_is_warned_before_its_tasks_start_ends(system: System) -> None:
    """A task that starts after the warning starts no worker."""
    system.configure([], admin=LOCAL)
    system.env["ADMIN_TOKEN"] = TOKEN
    async with system.router(1) as router:
        slurm = Slurm(system, router, free_ports())
        slurm.hold.touch()
        async with slurm.batch(JOB) as script:
            await eventually(lambda: "srun: step begins" in script.output, what="the step")
            script.send(signal.SIGTERM)
            await eventually(lambda: "overlapping step ended" in script.output, what="the signal to the tasks")
            slurm.hold.unlink()
            assert await script.ended() == 128 + signal.SIGTERM
            assert "Started singularity" not in script.output


async def _all_run(router: Router) -> bool:
    return all(worker["running"] == 1 for worker in (await fleet(router)).values())
