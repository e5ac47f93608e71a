"""How a library of functions is made of a script."""

from pathlib import Path
from typing import Any

import pytest
from lupa.lua51 import LuaRuntime  # type: ignore[import-untyped]

from router.fleet.keys import Keys
from router.scheduling.lua_library import divided, library
from router.scheduling.redis_scheduler import script_library

PARTS = {
    "top": """#!lua
-- @include state
-- @include late
local first = count
bump()
return first .. ' ' .. count .. ' ' .. Late.of(ARGV[1])
""",
    "state": """local count = 0
-- @kept
local runs = 0

local function bump()
  count, runs = count + 1, runs + 1
end
""",
    "late": """-- @lazy Late
-- @include state
local seen = ''
function Late.of(word)
  seen = seen .. word
  return seen .. runs
end
""",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The function of a library, as a Lua that runs it."""
    package = tmp_path / "parts"
    (package / "lua").mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, text in PARTS.items():
        (package / "lua" / f"{name}.lua").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    made = library("parts", "top", {})
    lua = LuaRuntime()
    functions: dict[str, Any] = {}
    lua.globals().redis = lua.table_from({"register_function": functions.__setitem__})
    shebang, _, text = made.text.partition("\n")
    assert shebang == f"#!lua name={made.name}"
    lua.execute(text)
    return lambda word: functions[made.name](lua.table_from([]), lua.table_from([word]))


def test_each_run_begins_anew_but_for_what_is_kept(run: Any) -> None:
    """Also the parts that begin late."""
    assert [run("a"), run("b")] == ["0 1 a1", "0 1 b2"]


def test_definitions_stand_and_all_else_runs() -> None:
    """A statement may go over several lines; a function may stand in one."""
    text = (
        "local a, b\nlocal function f() return a end\nif b then\n  f()\nelse\n  a = 1\nend\nfunction T.g()\n  f()\nend"
    )
    assert divided(text) == (
        "local a, b\nlocal function f() return a end\nfunction T.g()\n  f()\nend",
        "a, b = nil\nif b then\n  f()\nelse\n  a = 1\nend",
    )


def test_name_tells_the_text() -> None:
    """Releases and prefixes side by side have each their own library."""
    assert script_library(Keys("sfr")) == script_library(Keys("sfr"))
    assert script_library(Keys("sfr")).name != script_library(Keys("other")).name
