"""Changes files like careful programs do."""

from pathlib import Path


def put(path: Path, content: str | bytes) -> None:
    """Replace `path` by a new file in one step, as most editors do, so that no reader sees half of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content if isinstance(content, bytes) else content.encode())
    new.replace(path)
