"""Reads Lua scripts, and joins each with the parts that it includes."""

from importlib.resources import files


def lua(package: str, name: str) -> str:
    """Return the text of `lua/NAME.lua` in `package`."""
    return files(package).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
