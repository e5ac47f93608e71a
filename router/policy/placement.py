"""Decides which pool of workers can run a job.

A pool is named by what its workers must have: `gpu,ib;python` needs the labels `gpu` and `ib`, and the language
`python`. The pool of all workers has the empty name.
"""

import re
from collections.abc import Collection

import msgspec

# More pools than these would make each call of the scheduler slow.
MAX_POOLS = 64

LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
LANGUAGE = re.compile(r"[A-Za-z0-9._+#-]{1,64}")
# A worker has at most so many labels, and so many languages.
MAX_NAMES = 64
# So much of a bad name is shown.
_SHOWN_CHARACTERS = 80


class Placement(msgspec.Struct, frozen=True):
    """Whose job it is, and where it can run: its tenant, the name of its pool, and how much memory it takes (MB).

    The tenant `default` and the pool of all workers are "". `memory_mb` 0: memory is not counted.
    """

    tenant: str = ""
    pool: str = ""
    memory_mb: int = 0


# The placement of a job that names no tenant and can run on every worker.
ANYWHERE = Placement()


def pool_name(labels: Collection[str], language: str = "") -> str:
    """Return the name of the pool of the workers that have all `labels`, and `language` unless it is empty.

    >>> pool_name(["ib", "gpu", "ib"], "python"), pool_name([], "cpp"), pool_name(["gpu"]), pool_name([])
    ('gpu,ib;python', ';cpp', 'gpu', '')
    """
    named = ",".join(sorted(set(labels)))
    return f"{named};{language}" if language else named


def names_in(text: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Return the names in a list with commas, each once and sorted; `pattern` is LABEL or LANGUAGE. Raises ValueError.

    >>> names_in("ib, gpu,ib", LABEL), names_in("", LABEL)
    (('gpu', 'ib'), ())
    """
    names = sorted({name.strip() for name in text.split(",")}) if text.strip() else []
    for name in names:
        if not pattern.fullmatch(name):
            raise ValueError(f"expected names with commas between, such as gpu,ib; got {name[:_SHOWN_CHARACTERS]!r}")
    if len(names) > MAX_NAMES:
        raise ValueError(f"expected {MAX_NAMES} names at most, got {len(names)}")
    return tuple(names)


def serves(pool: str, labels: Collection[str], languages: Collection[str]) -> bool:
    """Return whether a worker with these labels and languages is in `pool`; without languages it takes every one.

    >>> serves("gpu;python", {"gpu", "ib"}, {"python"}), serves(";cpp", (), ()), serves("gpu", (), ())
    (True, True, False)
    """
    wanted, _, language = pool.partition(";")
    has_labels = not wanted or set(wanted.split(",")).issubset(labels)
    return has_labels and (not language or not languages or language in languages)
