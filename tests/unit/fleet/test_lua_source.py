"""How a Lua script is joined from its parts, with the names that it shares with Python."""

from pathlib import Path

import pytest
from fakeredis import FakeAsyncRedis

from router.fleet.keys import Keys
from router.fleet.lua_source import LuaSourceError, filled, joined, lua


def write(folder: Path, **texts: str) -> None:
    """Write each part."""
    for name, text in texts.items():
        (folder / f"{name}.lua").write_text(text)


def test_part_follows_all_parts_that_it_includes(tmp_path: Path) -> None:
    """A Lua local must be defined before its use."""
    write(tmp_path, top="-- @include middle\ntop()", middle="-- @include bottom\nmiddle()", bottom="bottom()")
    lines = [line for line in joined(tmp_path, "top").splitlines() if not line.startswith("--")]
    assert lines == ["bottom()", "middle()", "top()"]


def test_part_included_twice_stands_once(tmp_path: Path) -> None:
    """Two parts may need the same third one, and a part may name it twice."""
    write(tmp_path, top="-- @include a\n-- @include b\n-- @include c", a="-- @include c", b="-- @include c", c="c()")
    assert joined(tmp_path, "top").count("c()") == 1


def test_missing_part_is_named_with_the_part_that_includes_it(tmp_path: Path) -> None:
    """The error says which line to correct."""
    write(tmp_path, top="-- @include rooms")
    with pytest.raises(LuaSourceError, match=r"^top\.lua includes 'rooms', but there is no rooms\.lua in "):
        joined(tmp_path, "top")
    with pytest.raises(LuaSourceError, match=r"^there is no other\.lua in "):
        joined(tmp_path, "other")


@pytest.mark.parametrize("last", ["top", "a", "b"])
def test_circular_include_is_reported_with_its_path(tmp_path: Path, last: str) -> None:
    """No order of these parts would work."""
    write(tmp_path, top="-- @include a", a="-- @include b", b=f"-- @include {last}")
    with pytest.raises(LuaSourceError, match=f"^circular @include: top -> a -> b -> {last}$"):
        joined(tmp_path, "top")


@pytest.mark.parametrize("line", ["--@include part", "--  @include   part  ", "-- @include part\r"])
def test_include_is_understood_however_it_is_spaced(tmp_path: Path, line: str) -> None:
    """Otherwise the part would be missing without an error."""
    write(tmp_path, top=line, part="part()")
    assert "part()" in joined(tmp_path, "top")


def test_line_for_redis_stays_the_first_one(tmp_path: Path) -> None:
    """Redis reads a script's flags only in its first line."""
    write(tmp_path, top="#!lua\n-- @include part\ntop()", part="part()")
    assert joined(tmp_path, "top").splitlines() == ["#!lua", "part()", "-- @include part", "top()"]


@pytest.mark.parametrize("value", ["sfr", "{sfr}", "it's", 'a"b', "back\\slash\\", "\u00e9", "a -- b", 7, -1, 0.25])
async def test_name_has_the_same_value_in_lua_and_python(value: str | float) -> None:
    """Any prefix in the configuration works."""
    async with FakeAsyncRedis(decode_responses=True) as redis:
        answer = await redis.eval(filled("return {4 - 1, tostring(NAME)}", {"NAME": value}), 0)
    assert answer == [3, str(value)]


def test_only_whole_names_in_code_are_replaced() -> None:
    """Nothing is replaced within another name, a string or a comment."""
    text = """use(PLAN, PLAN_HEAD, 'PLAN', "it's PLAN") -- PLAN's"""
    assert filled(text, {"PLAN": 1, "PLAN_HEAD": 2}) == """use(1, 2, 'PLAN', "it's PLAN") -- PLAN's"""


def test_script_of_a_package_has_the_keys_of_the_prefix() -> None:
    """router/fleet/lua/resign.lua is an example that uses one key."""
    assert lua("router.fleet", "resign", Keys("mine").lua_names()).count("'mine:sidecar'") == 2


def test_unknown_name_is_reported() -> None:
    """Otherwise only the first call that uses it would find the mistake."""
    filled("return KEYS[1] .. ARGV[1] .. 'TIME' -- NOTE", {})
    with pytest.raises(LuaSourceError, match=r"^unknown name QUEU: "):
        filled("return QUEU", {"QUEUE": "sfr:queue"})


def test_lazy_parts_are_made_when_one_of_their_functions_is_used(tmp_path: Path) -> None:
    """All of one table at once, after the other parts and before the script itself; until then the table is empty."""
    one, two = "-- @lazy Rare\nfunction Rare.one()\nend", "-- @lazy Rare\nfunction Rare.two()\nend"
    write(tmp_path, one=one, two=two, plain="plain()", top="-- @include one\n-- @include two\n-- @include plain\ntop()")
    lines = [line for line in joined(tmp_path, "top").splitlines() if not line.startswith("--")]
    made = ["do", "function Rare.one()", "end", "end", "do", "function Rare.two()", "end", "end", "return Rare[name]"]
    head = ["setmetatable(Rare, {__index = function(_, name)", "setmetatable(Rare, nil)"]
    assert lines == ["local Rare = {}", "plain()", *head, *made, "end})", "top()"]
