"""How config.yaml describes workers: one by one, or by a DNS name. A registration at run time has the same fields."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from router.config.addresses import dns_name, worker_url
from router.config.bounds import MAX_MEMORY_MB, MAX_WEIGHT
from router.config.section import FROM_LIST, Count, FilePath, Section
from router.policy.placement import LABEL, LANGUAGE, MAX_NAMES


def _no_header(path: str) -> str:
    if re.search(r":\s", path):
        raise PydanticCustomError("auth_file", "expected the name of a file that holds the header, not the header")
    return path


def _label(name: str) -> str:
    if not LABEL.fullmatch(name):
        raise PydanticCustomError("label", "expected 1 to 64 letters, digits and ._-")
    return name


def _language(name: str) -> str:
    if not LANGUAGE.fullmatch(name):
        raise PydanticCustomError("language", "expected 1 to 64 letters, digits and ._+#-, such as python or c++")
    return name


def _sorted(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


WorkerUrl = Annotated[str, AfterValidator(worker_url)]
AuthFile = Annotated[FilePath, AfterValidator(_no_header)]
Label = Annotated[str, AfterValidator(_label)]
Labels = Annotated[tuple[Label, ...], Field(max_length=MAX_NAMES), FROM_LIST, AfterValidator(_sorted)]
Languages = Annotated[
    tuple[Annotated[str, AfterValidator(_language)], ...],
    Field(max_length=MAX_NAMES),
    FROM_LIST,
    AfterValidator(_sorted),
]
MemoryMb = Annotated[int, Field(ge=1, le=MAX_MEMORY_MB)]


class Abilities(Section):
    """Which jobs a worker can run."""

    labels: Labels = ()
    """what a worker has, by names of your choice, such as `gpu`: jobs that ask for labels run on workers with all of
    these"""
    languages: Languages = ()
    """the languages that a worker runs, as jobs name them (`python`, `cpp`, …); none: every language"""
    memory_mb: MemoryMb | None = None
    """a worker's memory for jobs (MB): the sum of the `memory_limit_MB` of the jobs that run on it is never above this;
    none: their memory is not counted"""


class _Named(Section):
    url: WorkerUrl
    """its address, in any spelling: `HTTP://Node1.:80/run_code` is known as `http://node1`"""
    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] = 1
    """its share of the jobs, 1 to 100: a worker of weight 3 gets three jobs for each job of a worker of weight 1"""
    max_concurrency: Count | None = None
    """the cap: how many jobs may run on it at once; none: any number"""


class _Discovered(Section):
    dns: Annotated[str, AfterValidator(dns_name)] | None = None
    """`name:port`: each address of the name is a worker, such as the pods of a headless service"""


# The base that stands last gives the first fields.
class NamedWorker(Abilities, _Named):
    """One worker, as config.yaml or a registration describes it."""


class WorkerSettings(NamedWorker):
    """One worker of the fleet, as config.yaml names it."""

    worker_auth: AuthFile | None = None
    """a file with the header that this worker wants, instead of the one for all workers"""


class DiscoverSettings(Abilities, _Discovered):
    """Where to find workers that are not named one by one, and what all of these have."""
