"""Which requests may send jobs, and which may change the fleet."""

import asyncio
import threading
from base64 import b64encode
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from router.auth.access import (
    PEER,
    PROXY,
    UNIX_SOCKET,
    Access,
    AdminGate,
    Admission,
    ApiKeys,
    JobGate,
    basic,
    bearer,
    peer_in,
    peer_of,
)
from router.auth.origin import Pages
from router.config.load import ConfigError, parse
from router.http.headers import Headers
from router.policy.request_head import Refusal
from tests.support.eventually import eventually
from tests.support.files import put

HERE = (b"host", b"127.0.0.1:8000")


def digest(key: str) -> str:
    """Return a key's hash as it is in the file."""
    return sha256(key.encode()).hexdigest()


@pytest.mark.parametrize(
    ("headers", "given"),
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"bearer  abc ")], b"abc"),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"authorization", b"abc")], None),
    ],
)
def test_bearer(headers: Headers, given: bytes | None) -> None:
    """The scheme's case does not matter, and other schemes give no key."""
    assert bearer(headers) == given


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (b"any:KEY", b"KEY"),
        (b":KEY", b"KEY"),
        (b"KEY:", b"KEY"),
        (b"any:KEY:with:colons", b"KEY:with:colons"),
        ("jemand:schlüssel".encode(), "schlüssel".encode()),
        (b"any:\xff\x00", b"\xff\x00"),
        (b"KEY", None),
        (b":", None),
        (b"", None),
    ],
)
def test_basic_gives_its_password_or_else_its_user(given: bytes, key: bytes | None) -> None:
    """Clients send the userinfo of http://any:KEY@router/ or http://KEY@router/ in these forms."""
    for scheme in (b"Basic ", b"basic  "):
        assert basic([(b"host", b"a"), (b"authorization", scheme + b64encode(given))]) == key


@pytest.mark.parametrize(
    "value", [b"Basic", b"Basic ", b"Basic YTp", b"Basic YTpi*", b"Basic a:b", b"Basic Y T p i", b"Bearer YTpi"]
)
def test_invalid_basic_gives_no_key(value: bytes) -> None:
    """Another scheme or bad base64 gives no key."""
    assert basic([(b"authorization", value)]) is None


@pytest.mark.parametrize("peer", ["127.0.0.1", UNIX_SOCKET, "10.0.0.1"])
@pytest.mark.parametrize("allow_loopback", [False, True])
def test_configured_token_is_needed_from_every_peer(peer: str, allow_loopback: bool) -> None:
    """Every peer needs the token, and the refusal does not tell what is wrong with it."""
    gate = AdminGate("sécret", allow_loopback=allow_loopback)
    assert gate.refusal([HERE, (b"authorization", "Bearer sécret".encode())], peer) is None
    for headers in ([HERE], [HERE, (b"authorization", b"Bearer s")], [HERE, (b"authorization", b"Bearer ")]):
        refusal = gate.refusal(headers, peer)
        assert refusal is not None
        assert refusal[0] == 401
        assert "secret" not in refusal[1]


@pytest.mark.parametrize(
    ("headers", "peer", "told"),
    [
        ([HERE], "127.0.0.1", None),
        ([HERE], "127.8.8.8", None),
        ([HERE], "::1", None),
        ([HERE], "::ffff:127.0.0.1", None),
        ([(b"host", b"localhost")], "127.0.0.1", None),
        ([(b"host", b"[::1]:8000")], "::1", None),
        ([(b"host", b"sfr")], UNIX_SOCKET, None),
        ([HERE, (b"origin", b"http://localhost:8000")], "127.0.0.1", None),
        ([HERE], "10.0.0.1", "from this host alone"),
        ([HERE], "", "from this host alone"),
        ([HERE, (b"x-forwarded-for", b"127.0.0.1")], "10.0.0.1", "from this host alone"),
        ([HERE, (b"x-forwarded-for", b"10.0.0.1")], "127.0.0.1", "through a proxy"),
        ([HERE, (b"forwarded", b"for=127.0.0.1")], UNIX_SOCKET, "through a proxy"),
        ([HERE, (b"x-real-ip", b"127.0.0.1")], "127.0.0.1", "through a proxy"),
        ([HERE, (b"via", b"1.1 proxy")], "127.0.0.1", "through a proxy"),
        ([HERE, (b"origin", b"http://evil.example")], "127.0.0.1", "pages of another site"),
        ([HERE, (b"origin", b"http://[::1")], "127.0.0.1", "pages of another site"),
        ([HERE, (b"origin", b"")], "127.0.0.1", "pages of another site"),
        ([(b"host", b"evil.example"), (b"origin", b"http://localhost")], "127.0.0.1", "pages of another site"),
        ([], "127.0.0.1", "pages of another site"),
        ([HERE, (b"origin", b"null")], "127.0.0.1", "pages of another site"),
        ([(b"host", b"evil.example:8000")], "127.0.0.1", "pages of another site"),
        ([(b"host", b"evil.example"), (b"origin", b"http://evil.example")], "127.0.0.1", "pages of another site"),
        ([(b"host", b"[::1")], "127.0.0.1", "pages of another site"),
        ([(b"host", b"evil.com\\@127.0.0.1")], "127.0.0.1", "pages of another site"),
        ([HERE, (b"origin", b"http://evil.com\\@127.0.0.1:8000")], "127.0.0.1", "pages of another site"),
        ([HERE, (b"origin", b"http://127.0.0.1:3000")], "127.0.0.1", "pages of another site"),
        ([HERE, (b"origin", b"http://localhost")], "127.0.0.1", "pages of another site"),
        ([HERE, (b"sec-fetch-site", b"cross-site")], "127.0.0.1", "pages of another site"),
        ([HERE, (b"sec-fetch-site", b"same-site")], "127.0.0.1", "pages of another site"),
        ([HERE, (b"sec-fetch-site", b"same-origin")], "127.0.0.1", None),
        ([HERE], PROXY, "through a proxy"),
    ],
)
def test_without_a_token_only_users_of_this_host_are_admitted(headers: Headers, peer: str, told: str | None) -> None:
    """The peer's address decides: no header makes it local, but a proxy's header makes a local one remote."""
    refusal = AdminGate(None, allow_loopback=True).refusal(headers, peer)
    assert (refusal is None) is (told is None)
    if refusal and told:
        assert refusal[0] == 403
        assert told in refusal[1]
        assert refusal[1].endswith("; set ADMIN_TOKEN for the router")
    refusal = AdminGate(None, allow_loopback=False).refusal(headers, peer)
    assert refusal == (403, "Changes need an admin token, and none is set; set ADMIN_TOKEN for the router")


def test_token_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable means no token; a file's line break is removed, and an empty or unreadable file is an error."""
    settings = parse("", "c")
    assert Access.load(settings) == Access()
    held = tmp_path / "token"
    put(held, "from-file\n")
    monkeypatch.setenv("ADMIN_TOKEN_FILE", str(held))
    monkeypatch.setenv("ADMIN_TOKEN", "")
    assert Access.load(settings).admin_token == "from-file"
    monkeypatch.setenv("ADMIN_TOKEN", "from-environment")
    assert Access.load(settings).admin_token == "from-environment"
    monkeypatch.delenv("ADMIN_TOKEN")
    put(held, " \n")
    with pytest.raises(ConfigError, match=r"ADMIN_TOKEN_FILE: .*token is empty"):
        Access.load(settings)
    held.unlink()
    with pytest.raises(ConfigError, match=r"ADMIN_TOKEN_FILE: .*token cannot be read: No such file"):
        Access.load(settings)


def test_api_keys_are_known_by_their_hashes(tmp_path: Path) -> None:
    """Each line has a hash, a name and comments; only the key itself is accepted."""
    held = tmp_path / "keys"
    put(held, f"# who may send jobs\n{digest('first')}  trainer-a\n\n{digest('second').upper()} # b\n")
    keys = ApiKeys(held)
    assert [keys.name_of(key) for key in (b"first", b"second", b"", b"third")] == ["trainer-a", "", None, None]
    assert keys.name_of(digest("first").encode()) is None


@pytest.mark.parametrize("line", ["my-secret-key", "abc", digest("x")[:-1], digest("x") + "0"])
def test_bad_line_among_the_api_keys_is_named_and_never_repeated(tmp_path: Path, line: str) -> None:
    """The line may be a key by mistake."""
    held = tmp_path / "keys"
    put(held, f"\n{line}\n")
    with pytest.raises(ConfigError, match=r"keys:2: expected a key's SHA-256") as caught:
        ApiKeys(held)
    assert line not in str(caught.value)
    with pytest.raises(ConfigError, match=r"api_keys: .*none cannot be read: No such file"):
        Access.load(parse(f"api_keys: {tmp_path / 'none'}", "c"))


def test_api_keys_are_read_again_when_they_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key that was removed is refused; after a bad file the last good one stays in force."""
    held = tmp_path / "keys"
    put(held, digest("first"))
    keys = ApiKeys(held)
    new = tmp_path / "new"
    put(new, digest("second"))
    new.replace(held)
    keys.look()
    assert [keys.name_of(key) for key in (b"first", b"second")] == [None, ""]
    assert (keys.take_news(), keys.take_news()) == ("", None)
    put(held, "second")
    keys.look()
    assert str(keys.take_news()).startswith(f"{held}:1: expected a key's SHA-256")
    assert keys.name_of(b"second") == ""
    assert "API keys not taken over" in caplog.text
    held.unlink()
    keys.look()
    assert keys.name_of(b"second") == ""
    put(held, "")
    keys.look()
    assert keys.name_of(b"second") is None


async def test_only_the_peer_of_a_unix_socket_counts_as_one(tmp_path: Path) -> None:
    """A TCP peer that has gone has no address either, but does not count as being on this host."""
    peers: dict[str, tuple[str, str]] = {}

    class Accepted(asyncio.Protocol):
        def __init__(self, kind: str) -> None:
            self.kind = kind

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            peers[self.kind] = peer_of(None, transport), peer_of(("10.0.0.1", 1), transport)

    loop = asyncio.get_running_loop()
    tcp = await loop.create_server(partial(Accepted, "tcp"), "127.0.0.1", 0)
    unix = await loop.create_unix_server(partial(Accepted, "unix"), tmp_path / "socket")
    _, writer = await asyncio.open_connection(*tcp.sockets[0].getsockname())
    _, other = await asyncio.open_unix_connection(tmp_path / "socket")
    await eventually(lambda: len(peers) == 2, what="both connections")
    assert peers == {"tcp": ("", "10.0.0.1"), "unix": (UNIX_SOCKET, "10.0.0.1")}
    for server in (tcp, unix):
        server.close()
    for each in (writer, other):
        each.close()


def test_connection_without_a_known_peer_has_an_empty_address() -> None:
    """Plain uvicorn's connections have none."""
    scopes: list[dict[str, Any]] = [{}, {"state": {}}, {"state": {PEER: "::1"}}]
    assert [peer_in(scope) for scope in scopes] == ["", "", "::1"]


async def test_removed_key_is_refused_though_no_job_has_come_since(tmp_path: Path) -> None:
    """A timer looks at the file; in a quiet process a job would find the last keys still in force."""
    held = tmp_path / "keys"
    put(held, digest("first"))
    keys = ApiKeys(held)
    looking = asyncio.create_task(keys.run())
    put(held, digest("second"))
    await eventually(lambda: keys.name_of(b"second") is not None, what="the new key")
    assert keys.name_of(b"first") is None
    looking.cancel()


def test_keys_that_have_not_changed_are_not_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their file was read when the router began."""
    caplog.set_level("INFO")
    held = tmp_path / "keys"
    put(held, digest("first"))
    keys = ApiKeys(held)
    keys.look()
    assert "read again" not in caplog.text
    put(held, digest("first") + " name")
    keys.look()
    keys.look()
    assert caplog.text.count("read again: 1 API keys") == 1


async def test_large_key_file_is_read_beside_the_jobs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is read in a thread; until then the last good keys stay in force."""
    caplog.set_level("INFO")
    held = tmp_path / "keys"
    put(held, digest("first"))
    keys = ApiKeys(held)
    new = tmp_path / "new"
    put(new, digest("second") + "\n" + "# of another trainer\n" * 10_000)
    new.replace(held)
    keys.look()
    await eventually(lambda: keys.name_of(b"second") == "" and "read again" in caplog.text, what="the new key")
    assert keys.name_of(b"first") is None
    (told,) = [record for record in caplog.records if "read again: 1 API keys" in record.getMessage()]
    assert told.thread != threading.get_ident()


def gate(keys: Path | None = None) -> JobGate:
    """Return a gate that admits jobs of one other site's pages, and with a file of keys only jobs with a key."""
    return JobGate(Pages(["https://lab.example"], []), None if keys is None else ApiKeys(keys))


def test_without_api_keys_programs_and_allowed_pages_are_admitted() -> None:
    """Their headers go on unchanged; a page of another site gets 403."""
    for headers in ([HERE, (b"authorization", b"Bearer x")], [HERE, (b"origin", b"https://lab.example")]):
        assert gate().admit(headers) == Admission(headers)
    refusal = gate().admit([HERE, (b"sec-fetch-site", b"cross-site")])
    assert isinstance(refusal, Refusal)
    assert refusal.status == 403


@pytest.mark.parametrize(
    ("credentials", "told"),
    [
        ([(b"x-api-key", b"first")], "trainer-a"),
        ([(b"authorization", b"Bearer first")], "trainer-a"),
        ([(b"authorization", b"Basic " + b64encode(b"any:first"))], "trainer-a"),
        ([(b"x-api-key", b"first"), (b"authorization", b"Bearer other")], "trainer-a"),
        ([], "Jobs need an API key: send it as"),
        ([(b"x-api-key", b"other")], "Unknown API key"),
        ([(b"x-api-key", b"other"), (b"authorization", b"Bearer first")], "Unknown API key"),
    ],
)
def test_with_api_keys_a_job_needs_one_of_them(
    tmp_path: Path, credentials: list[tuple[bytes, bytes]], told: str
) -> None:
    """The admission has the key's name, and headers without credentials; a job without a known key gets 401."""
    held = tmp_path / "keys"
    put(held, f"{digest('first')}  trainer-a\n")
    found = gate(held).admit([HERE, *credentials, (b"x-a", b"b")])
    if isinstance(found, Refusal):
        assert found.status == 401
        assert found.detail.startswith(told)
    else:
        assert (found.key_name, found.headers) == (told, [HERE, (b"x-a", b"b")])


def test_admission_is_renewed_as_long_as_its_key_is_known(tmp_path: Path) -> None:
    """The key's name may have changed; a key that was removed gets 401."""
    held = tmp_path / "keys"
    put(held, f"{digest('first')}  trainer-a\n")
    known = ApiKeys(held)
    keys = JobGate(Pages([], []), known)
    admission = keys.admit([HERE, (b"x-api-key", b"first")])
    assert isinstance(admission, Admission)
    put(held, f"{digest('first')}  trainer-b\n")
    known.look()
    renewed = keys.renew(admission)
    assert isinstance(renewed, Admission)
    assert (renewed.key_name, renewed.headers) == ("trainer-b", admission.headers)
    assert keys.renew(renewed) is renewed
    put(held, "")
    known.look()
    assert isinstance(keys.renew(admission), Refusal)
