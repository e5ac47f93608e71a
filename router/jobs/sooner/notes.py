"""What processes tell one another about runs that a job of one of them has left behind for a job of another one."""

import msgspec


class Adopt(msgspec.Struct, frozen=True, tag="adopt"):
    """Job `number` of `process` has got the run under the lease `run`: it asks for the answer, again and again."""

    run: int
    process: str
    number: int


class Brought(msgspec.Struct, frozen=True, tag="brought"):
    """The answer for job `number` is kept under `name`; "": it will have none from this run."""

    number: int
    name: str = ""


class Returned(msgspec.Struct, frozen=True, tag="returned"):
    """The client of job `number` of `process` has gone, too: the run under the lease `run` is free again."""

    run: int
    process: str
    number: int
