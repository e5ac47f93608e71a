"""A worker's address has one form, and an unusable address is rejected where it is entered."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from router.config.addresses import dns_name, known_worker_url, masked, origin, otlp_url, redis_url, worker_url

# Parts of URLs, and characters that confuse parsers.
PIECES = st.sampled_from(
    [
        *(
            "http://",
            "HTTPS://",
            "//",
            "node",
            "Node-1",
            "1",
            "0",
            "127.0.0.1",
            "010",
            "[",
            "]",
            "::1",
            "FFFF",
            ".",
            "..",
        ),
        *(":", "80", "443", "99999", "/", "/run_code", "?", "#", "@", "%2f", "%", "\x7f", " ", "\n", "é", "\u3002"),
        *("\uff11", "xn--", "_", "a" * 64, "a." * 130, "\\", "\ud800", "\x00", "-", "*"),
    ]
)
TEXTS = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=9).map("".join))


LONGEST_NAME = "http://" + "a" * 63 + "." + "b" * 63 + "." + "c" * 63 + "." + "d" * 61
LONGEST_URL = "http://a/" + "b" * 1991


@pytest.mark.parametrize(
    ("spelt", "known"),
    [
        ("http://h", "http://h"),
        ("http://h:80", "http://h"),
        ("http://h:0080/", "http://h"),
        ("https://h:443", "https://h"),
        ("http://h:443", "http://h:443"),
        ("HTTP://Node1.Example.ORG.:8080//", "http://node1.example.org:8080"),
        ("http://h:8080/run_code", "http://h:8080"),
        ("http://h:8080/box/run_code/", "http://h:8080/box"),
        ("http://[0:0:0:0:0:0:0:1]:8080", "http://[::1]:8080"),
        ("http://[FD00::00A]", "http://[fd00::a]"),
        ("http://[::ffff:10.0.0.7]:8080", "http://10.0.0.7:8080"),
        ("http://[::ffff:a00:7]:8080", "http://10.0.0.7:8080"),
        ("http://bücher.example:80", "http://xn--bcher-kva.example"),
        ("http://BU\u0308CHER.example", "http://xn--bcher-kva.example"),
        ("http://\uff11\uff10.0.0.7:8080", "http://10.0.0.7:8080"),
        ("http://node。svc:8080", "http://node.svc:8080"),
        ("http://sandbox_1:8080", "http://sandbox_1:8080"),
        ("http://h:1", "http://h:1"),
        ("http://h:65535", "http://h:65535"),
        (LONGEST_NAME, LONGEST_NAME),
        (LONGEST_URL, LONGEST_URL),
    ],
)
def test_worker_has_one_form_however_it_is_spelt(spelt: str, known: str) -> None:
    """Two spellings of one address would be two workers with twice the cap."""
    assert worker_url(spelt) == known
    assert worker_url(known) == known == known_worker_url(spelt)


@pytest.mark.parametrize(
    "text",
    [
        *("http://node..1:8080", "http://.node", "http://node1..", "http://.", f"http://{'a' * 64}:8080", "http://a b"),
        *(f"http://{'a.' * 127}a.b", "http://a\x7f", "http://a/\x7f", "http://a\u200b", "http://é..é", "http://-é"),
        *("http://010.0.0.1:8080", "http://127.1", "http://0x7f000001", "http://2130706433", "http://256.0.0.1"),
        *(
            "http://1.2.3.4.5",
            "http://[::1",
            "http://[::1]x:80",
            "http://[fe80::1%25eth0]",
            "http://[v1.a]",
            "http://::1",
        ),
        *("http://a:", "http://a:0", "http://a:99999", "http://a:8_0", "http://a:٨٠", "http://a:+80", "http://u:p@a"),
        *(
            "http://a/b/../c",
            "http://a/./b",
            "http://a//b",
            "http://a/%2e",
            "http://a/b\\c",
            "http://a\\@b",
            "http://a?b",
        ),
        *(" http://a", "http://[:::]", f"http://{'a' * 64}.b", "http://a:65536", f"{LONGEST_NAME}d", f"{LONGEST_URL}b"),
        *("http://a#b", "http:/a", "http:a:80", "a:80", "ftp://a", "//a", "", "http://", f"http://a/{'b' * 3000}"),
    ],
)
def test_unusable_worker_address_is_refused(text: str) -> None:
    """A label may be empty or too long, and programs may read an address or rewrite a path differently."""
    with pytest.raises(ValueError, match=r"^expected a URL "):
        worker_url(text)
    assert known_worker_url(text) is None


@given(TEXTS)
@example("http://node..1:8080")
@example(f"http://{'a' * 64}")
def test_accepted_address_is_the_same_for_every_program(text: str) -> None:
    """An address is either rejected with one kind of error, or its form is final and works in resolvers and clients."""
    try:
        known = worker_url(text)
    except ValueError:
        return
    assert worker_url(known) == known
    assert known.isascii()
    url = URL(known)
    assert str(url).rstrip("/") == known
    assert url.host is not None
    url.host.encode("idna")  # asyncio does this for each connection


@pytest.mark.parametrize(
    "text", ["a..b:80", f"{'a' * 64}:80", "a:0", "a:99999", "a:٨٠", "[::1]:80", "a b:80", "a:", "a:80/x", "80"]
)
def test_dns_name_that_cannot_be_resolved_is_refused(text: str) -> None:
    """Otherwise the resolver would raise an error at each lookup."""
    with pytest.raises(ValueError, match="expected name:port"):
        dns_name(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host:80/x", "http://***@host:80/x"),
        ("http://secret@host", "http://***@host"),
        ("user:secret@host:8080", "***@host:8080"),
        ("http:/user:secret@host", "http:/***@host"),
        ("redis://:se/cr@et@host/0", "redis://***@host/0"),
        ("redis://host?password=secret&db=1", "redis://host?password=***&db=***"),
        ("http://host/x#token=secret", "http://host/x#token=***"),
        (" http://user:secret\n@host", " http://***@host"),
        ("http://host:8080", "http://host:8080"),
        ("round_robin", "round_robin"),
    ],
)
def test_possible_url_is_shown_without_its_secrets(text: str, shown: str) -> None:
    """No user, password or query value is shown, whatever else is wrong with the URL."""
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("redis://:pa#ss@h:6379", "redis://h:port", "redis://h:99999", "redis+sentinel://a:x/mymaster", "redis://[a"),
        *("redis+sentinel://a,/mymaster", "redis+sentinel://a/mymaster/x", "redis://h\x00", "redis:///0"),
        *("rediss:///0", "rediss://h:x", "redis://h:0", "redis://h:65536", "redis://h:+80", "redis://h:8_0"),
        *("redis://h:٨٠", "redis+sentinel://a/", "redis+sentinel://a/m/\u0663", "redis+sentinel:///m", "http://h"),
    ],
)
def test_redis_url_that_cannot_be_connected_to_is_refused(text: str) -> None:
    """Otherwise the client would raise an error at the start, with a part of the password in it."""
    with pytest.raises(ValueError, match=r"^expected a URL such as redis") as caught:
        redis_url(text)
    assert "ss" not in str(caught.value).replace("expected a URL such as redis", "")


SENTINELS = ("redis+sentinel://a/m", "redis+sentinel://:p@a:1,b:65535/m/15")


@pytest.mark.parametrize(
    "text", ["redis://h", "rediss://:p@h:1/2?db=1", "redis://[::1]:6379", "redis://[::1]", "unix:///s", *SENTINELS]
)
def test_valid_redis_url_is_accepted(text: str) -> None:
    """All forms that redis-py accepts are accepted."""
    assert redis_url(text) == text


def test_rejected_collector_shows_no_password() -> None:
    """The message says what is expected and repeats nothing of the value."""
    with pytest.raises(ValueError, match=r"^expected a whole URL such as http://collector:4318/v1/traces$"):
        otlp_url("http://user:secret@collector/v1/traces")
    with pytest.raises(ValueError, match=r"^expected a whole URL"):
        otlp_url("http://collector:4318")
    assert otlp_url("http://collector:4318/v1/traces") == "http://collector:4318/v1/traces"


def test_dns_name_is_kept_as_written() -> None:
    """The name's form is kept, because only the resolver uses it."""
    assert dns_name("Workers.svc:8080") == "Workers.svc:8080"


@pytest.mark.parametrize(
    ("spelt", "known"),
    [
        ("HTTP://Lab:80", "http://lab"),
        ("http://lab", "http://lab"),
        ("http://lab:443", "http://lab:443"),
        ("https://[::1]:65535", "https://[::1]:65535"),
        ("https://lab:65536", None),
        ("https://lab/", None),
        ("lab", None),
    ],
)
def test_origin_has_the_form_that_browsers_send(spelt: str, known: str | None) -> None:
    """An origin that no browser would send is rejected."""
    if known is not None:
        assert origin(spelt) == known
        return
    with pytest.raises(ValueError, match=r"^expected an origin such as "):
        origin(spelt)
