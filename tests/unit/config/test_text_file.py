"""How a file that a setting names is read."""

from pathlib import Path

import pytest

from router.config.text_file import Unreadable, read_text


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    """Editors on Windows write such a mark."""
    path = tmp_path / "key"
    path.write_bytes("\ufeffsecret\n".encode())
    assert read_text(path) == "secret\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory"), ("folder", "Is a directory"), (b"caf\xe9", "it is not UTF-8")],
)
def test_message_has_setting_file_and_reason(tmp_path: Path, content: str | bytes | None, reason: str) -> None:
    """The message has nothing of the content, which may be a secret."""
    path = tmp_path / "key"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(Unreadable) as caught:
        read_text(path, "api_keys")
    assert str(caught.value) == f"api_keys: {path} cannot be read: {reason}"
    with pytest.raises(Unreadable) as caught:
        read_text(path)
    assert str(caught.value) == f"{path} cannot be read: {reason}"
