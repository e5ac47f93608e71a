"""Loads a Lua script: joins it with the parts that it includes, and declares the names that it shares with Python.

A part that needs another one says so in a line `-- @include NAME`; NAME.lua stands in the same folder.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

_INCLUDE = re.compile(r"^--\s*@include\s+(.*?)\s*$", re.MULTILINE)
_SHEBANG = re.compile(r"\A#!.*\n")


class IncludeError(Exception):
    """A part of a Lua script includes a part that does not exist, or includes itself."""


def lua(package: str, name: str, names: Mapping[str, str | float]) -> str:
    """Return the script `lua/NAME.lua` of `package`, ready for Redis.

    Those of `names` that the script uses become locals at its top, so that no key or constant is spelled in Lua too.
    Raises IncludeError.
    """
    return declared(joined(files(package).joinpath("lua"), name), names)


def joined(folder: Traversable, name: str) -> str:
    """Return the text of NAME.lua after all parts that it includes, each once, and each after those that it includes.

    If NAME.lua begins with a line `#!lua`, so does the whole. Raises IncludeError.
    """
    texts: dict[str, str] = {}
    _collect(folder, name, (), texts)
    shebang = _SHEBANG.match(texts[name])
    texts[name] = _SHEBANG.sub("", texts[name])
    return (shebang.group() if shebang else "") + "\n".join(texts.values())


def declared(text: str, names: Mapping[str, str | float]) -> str:
    """Return the script with a local for each of `names` that stands in it, after the line `#!lua` if there is one.

    >>> print(declared("return redis.call('GET', TICKET)", {"TICKET": "sfr:ticket", "QUEUE": "sfr:queue"}))
    local TICKET = 'sfr:ticket'
    return redis.call('GET', TICKET)
    """
    used = set(re.findall(r"\w+", text))
    lines = [f"local {name} = {_literal(value)}\n" for name, value in names.items() if name in used]
    begins = shebang.end() if (shebang := _SHEBANG.match(text)) else 0
    return text[:begins] + "".join(lines) + text[begins:]


def _collect(folder: Traversable, name: str, path: tuple[str, ...], texts: dict[str, str]) -> None:
    """Add to `texts` what NAME.lua includes, then NAME.lua; `path` names the parts that have led to it."""
    if name in texts:
        return
    if name in path:
        raise IncludeError(f"circular @include: {' -> '.join((*path, name))}")
    try:
        text = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        where = f"{path[-1]}.lua includes {name!r}, but " if path else ""
        raise IncludeError(f"{where}there is no {name}.lua in {folder}") from error
    for needed in _INCLUDE.findall(text):
        _collect(folder, needed, (*path, name), texts)
    texts[name] = text


def _literal(value: str | float) -> str:
    r"""Return the value as Lua spells it.

    >>> _literal(1.5), _literal("it's")
    ('1.5', "'it\\'s'")
    """
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        return f"'{escaped}'"
    return repr(value)
