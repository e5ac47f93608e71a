"""Loads a Lua script: joins it with the parts that it includes, and fills in the names that it shares with Python.

A part that needs another one says so in a line `-- @include NAME`; NAME.lua stands in the same folder. The names shared
with Python are written in capitals: keys of the schema, and constants.

A run of a script makes all its functions anew, and each costs. So a part that few runs need says `-- @lazy TABLE`: its
functions are fields of that table, and all of a table's parts are made when one of them is first used. Every part may
use them, and they may use all other parts. The other functions become fields of one table when the script is loaded.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

_INCLUDE = re.compile(r"^--\s*@include\s+(.*?)\s*$", re.MULTILINE)
_LAZY = re.compile(r"^--\s*@lazy\s+(\w+)\s*$", re.MULTILINE)
_SHEBANG = re.compile(r"\A#!.*\n")
# Comments and texts, in which no name is replaced.
_QUIET = r'''--[^\n]*|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"'''
_WORD_OR_QUIET = re.compile(_QUIET + r"|\b[A-Za-z_]\w*")
_FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
_NAME_OR_QUIET = re.compile(_QUIET + r"|(?<![.\w])[A-Za-z_]\w*")
# Names that a function gives to locals, parameters and fields of a table.
_OWN_NAMES = re.compile(
    r"^ +local (?!function)([\w, ]+)|\bfor ([\w, ]+) (?:in|=)|\bfunction[ \w.]*\(([^)]*)\)|[{,] *(\w+) =", re.MULTILINE
)
# The table of the functions that are not lazy.
_EAGER = "Eager"
_IN_CAPITALS = re.compile(r"[A-Z][A-Z0-9_]*")
# Redis' own names.
_GIVEN = {"KEYS", "ARGV"}


class LuaSourceError(Exception):
    """A script includes a part that does not exist or includes itself, or it uses a name that it does not share."""


def lua(package: str, name: str, names: Mapping[str, str | float]) -> str:
    """Return the script `lua/NAME.lua` of `package`, ready for Redis.

    `names` are those that it may share with Python, each with its value. Raises LuaSourceError.
    """
    return filled(gathered(joined(files(package).joinpath("lua"), name)), names)


def joined(folder: Traversable, name: str) -> str:
    """Return the text of NAME.lua after all parts that it includes, each once, and each after those that it includes.

    If NAME.lua begins with a line `#!lua`, so does the whole. Raises LuaSourceError.
    """
    texts = parts(folder, name)
    shebang = _SHEBANG.match(texts[name])
    texts[name] = _SHEBANG.sub("", texts[name])
    main = texts.pop(name)
    lazy: dict[str, list[str]] = {}
    for part, text in list(texts.items()):
        if table := lazy_table(text):
            lazy.setdefault(table, []).append(texts.pop(part))
    declared = [f"local {table} = {{}}" for table in lazy]
    deferred = [_deferred(table, of_table) for table, of_table in lazy.items()]
    return (shebang.group() if shebang else "") + "\n".join([*declared, *texts.values(), *deferred, main])


def parts(folder: Traversable, name: str) -> dict[str, str]:
    """Return the texts of NAME.lua and of all parts that it includes, each after those that it includes.

    Raises LuaSourceError.
    """
    texts: dict[str, str] = {}
    _collect(folder, name, (), texts)
    return texts


def lazy_table(text: str) -> str:
    """Return the table of a lazy part's functions, "" for a part that is not lazy."""
    found = _LAZY.search(text)
    return found[1] if found else ""


def gathered(text: str) -> str:
    r"""Return the script with all its `local function`s as fields of one table. Raises LuaSourceError.

    To make a function, Lua looks for each local that the function uses among all locals of the script that are used by
    functions so far. With functions as locals, a script pays in each run for the square of their number.

    >>> gathered("local function f() return 1 end\nreturn f() -- f")
    'local Eager = {}\nfunction Eager.f() return 1 end\nreturn Eager.f() -- f'
    """
    names = set(_FUNCTION.findall(text))
    if not names:
        return text
    own = {
        name
        for found in _OWN_NAMES.finditer(text)
        for name in re.findall(r"\w+", " ".join(filter(None, found.groups())))
    }
    if shadowed := sorted(names & own):
        raise LuaSourceError(
            f"{', '.join(shadowed)}: the name of a function of the script, and of something in a function"
        )

    def field(match: re.Match[str]) -> str:
        return f"{_EAGER}.{match.group()}" if match.group() in names else match.group()

    text = _NAME_OR_QUIET.sub(field, _FUNCTION.sub(r"function \1", text))
    shebang = _SHEBANG.match(text)
    first = shebang.group() if shebang else ""
    return f"{first}local {_EAGER} = {{}}\n{text[len(first) :]}"


def filled(text: str, names: Mapping[str, str | float]) -> str:
    """Return the script with the value of each of `names` in its place. Raises LuaSourceError.

    Values are filled in, not declared as locals: each run of a script makes all its functions anew, and pays for every
    local of the script that a function uses.

    >>> filled("return redis.call('GET', TICKET) -- TICKET", {"TICKET": "sfr:ticket"})
    "return redis.call('GET', 'sfr:ticket') -- TICKET"
    """

    def value(match: re.Match[str]) -> str:
        word = match.group()
        if word in names:
            return _literal(names[word])
        if _IN_CAPITALS.fullmatch(word) and word not in _GIVEN:
            raise LuaSourceError(f"unknown name {word}: it is neither a key of the schema nor a constant")
        return word

    return _WORD_OR_QUIET.sub(value, text)


def _deferred(table: str, parts: list[str]) -> str:
    """Return what makes the functions of lazy parts when one of them is first looked up in their table."""
    made = "".join(f"do\n{text}\nend\n" for text in parts)
    return (
        f"setmetatable({table}, {{__index = function(_, name)\nsetmetatable({table}, nil)\n{made}"
        f"return {table}[name]\nend}})"
    )


def _collect(folder: Traversable, name: str, path: tuple[str, ...], texts: dict[str, str]) -> None:
    """Add to `texts` what NAME.lua includes, then NAME.lua; `path` names the parts that have led to it."""
    if name in texts:
        return
    if name in path:
        raise LuaSourceError(f"circular @include: {' -> '.join((*path, name))}")
    try:
        text = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        where = f"{path[-1]}.lua includes {name!r}, but " if path else ""
        raise LuaSourceError(f"{where}there is no {name}.lua in {folder}") from error
    for needed in _INCLUDE.findall(text):
        _collect(folder, needed, (*path, name), texts)
    texts[name] = text


def _literal(value: str | float) -> str:
    r"""Return the value as Lua spells it.

    >>> _literal(-1), _literal("it's")
    ('(-1)', "'it\\'s'")
    """
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        return f"'{escaped}'"
    return f"({value!r})" if value < 0 else repr(value)
