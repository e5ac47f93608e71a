"""Makes a library of functions for Redis of a Lua script: its functions are made once, and not in each run.

A script makes all its functions anew in each run. In a library they stay, and so do the locals that they share. So what
a part does outside its functions is done at the beginning of each run: all locals of a part get their first values
again, and nothing of a run is left to the next one. Only a local that is declared after a line `-- @kept` stays as it
is. Such locals are caches: what stands in them must be true whatever happens in Redis, and in a script they are empty.
"""

import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files

from router.fleet.lua_source import filled, gathered, lazy_table, parts
from router.fleet.script import Library

_KEPT = re.compile(r"--\s*@kept\s*")
_DEFINITION = re.compile(r"(?:local )?function\b")
_LOCAL = re.compile(r"local ([\w, ]+?)(?: = (.*))?", re.DOTALL)


def library(package: str, name: str, names: Mapping[str, str | float]) -> Library:
    """Return the script `lua/NAME.lua` of `package` as a library. `names` as in lua_source.lua.

    Raises LuaSourceError.
    """
    texts = parts(files(package).joinpath("lua"), name)
    order = sorted(texts, key=lambda part: (part == name, bool(lazy_table(texts[part]))))  # stable: as in a script
    runs: dict[str, list[str]] = {table: [] for part in order if (table := lazy_table(texts[part]))}
    pieces = ["local KEYS, ARGV", *(f"local {table} = {{}}" for table in runs)]
    runs[""] = []
    for part in order:
        standing, running = divided(texts[part])
        pieces.append(standing)
        if running:
            pieces.append(f"local function run_{part}()\n{running}\nend")
            runs[lazy_table(texts[part])].append(f"run_{part}()")
    *first, last = runs.pop("")
    for table, of_table in runs.items():
        if of_table:
            pieces.append(_begun_late(table, of_table))
            first.insert(0, f"{table} = late_{table} or late_for_{table}()")
    pieces.append("local function run_all(keys, args)\nKEYS, ARGV = keys, args")
    pieces += [*first, f"return {last}", "end"]
    text = filled(gathered("\n".join(pieces)), names)
    its_name = f"sfr_{name}_{hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:16]}"
    return Library(its_name, f"#!lua name={its_name}\n{text}\nredis.register_function('{its_name}', Eager.run_all)\n")


def _begun_late(table: str, runs: list[str]) -> str:
    """Return what lets a table's lazy parts begin when one of their functions is first looked up in a run.

    Redis has no setmetatable while it loads a library.
    """
    begins = "\n".join(runs)
    return (
        f"local made_{table}, late_{table} = {table}, nil\nlocal function late_for_{table}()\n"
        f"late_{table} = setmetatable({{}}, {{__index = function(_, name)\n"
        f"{table} = made_{table}\n{begins}\nreturn {table}[name]\nend}})\nreturn late_{table}\nend"
    )


def divided(text: str) -> tuple[str, str]:
    r"""Return what of a part is made once, and what is done in each run.

    >>> divided("local a, b = 1, {\n}\nlocal function f()\n  return a\nend\nf()\n-- @kept\nlocal c = {}")
    ('local a, b\nlocal function f()\n  return a\nend\nlocal c = {}', 'a, b = 1, {\n}\nf()')
    """
    standing, running = [], []
    is_kept = False
    for statement in _statements(text):
        if _KEPT.fullmatch(statement):
            is_kept = True
            continue
        declared = _LOCAL.fullmatch(statement)
        if is_kept or _DEFINITION.match(statement):
            standing.append(statement)
        elif declared:
            standing.append(f"local {declared[1]}")
            running.append(f"{declared[1]} = {declared[2] or 'nil'}")
        elif not statement.startswith(("--", "#!")):
            running.append(statement)
        is_kept = False
    return "\n".join(standing), "\n".join(running)


def _statements(text: str) -> list[str]:
    """Return the statements and comments that begin in the first column, with the lines that belong to each."""
    statements: list[str] = []
    for line in text.splitlines():
        is_more = not line or line[0] in " })" or re.match(r"(?:end|else|elseif|until)\b", line)
        if is_more and statements:
            statements[-1] += f"\n{line}"
        else:
            statements.append(line)
    return [statement.rstrip() for statement in statements]
