"""Files as careful programs change them."""

from pathlib import Path


def put(path: Path, content: str | bytes) -> None:
    """Write a new file and let it take the place of `path`, as most editors do: nobody sees half of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content if isinstance(content, bytes) else content.encode())
    new.replace(path)
