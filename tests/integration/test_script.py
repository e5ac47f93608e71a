"""Scripts asked with callbacks, on a real Valkey that loses the script, closes the connection or stops."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.exceptions import RedisError

from router.config.settings import RedisSettings
from router.fleet.connection import connect
from router.fleet.script import Library, Script, ServerScript, script
from tests.support.eventually import eventually
from tests.support.programs import Valkey

TIMEOUT_S = 0.3
# Returns its key, its argument and its constants.
SAYS = """
redis.call('INCR', KEYS[1])
return {KEYS[1], ARGV[1], ARGV[2], ARGV[3]}
"""


@pytest.fixture
async def says(valkey: Valkey) -> AsyncIterator[Script]:
    """The script SAYS with a client of the real Valkey."""
    client = connect(RedisSettings(url=valkey.url), TIMEOUT_S)
    yield script(client, SAYS, TIMEOUT_S, "key", ("const", 7))
    await client.aclose()


class Asked:
    """Asks a script, and keeps the reply to each word."""

    def __init__(self, asked: Script) -> None:
        self.told: dict[str, Any] = {}
        self._script = asked

    def ask(self, word: str) -> None:
        """Ask the script with one word."""

        def then(told: object) -> None:
            assert word not in self.told, f"told twice of {word}"
            self.told[word] = told

        self._script.ask(word.encode(), then)
        assert word not in self.told, "told before ask had returned"

    async def all(self, *words: str) -> list[Any]:
        """Ask with all words at once and return the replies."""
        for word in words:
            self.ask(word)
        await eventually(lambda: self.told.keys() >= set(words), what="all that was asked")
        return [self.told[word] for word in words]


def reply(word: str) -> list[bytes]:
    """Return the script's reply to a word."""
    return [b"key", word.encode(), b"const", b"7"]


async def test_each_of_several_calls_at_once_gets_its_own_reply(says: Script) -> None:
    """Each call gets its own reply, before the connection is open and after."""
    asked = Asked(says)
    for words in ("ab", "cde"):
        assert await asked.all(*words) == [reply(word) for word in words]


async def test_connection_that_brought_an_error_is_not_used_again(says: Script, valkey: Valkey) -> None:
    """A connection to a master that became a replica is closed, and later calls on it end with an error."""
    asked = Asked(says)
    await asked.all("a")
    async with valkey.client() as client:
        await client.replicaof("127.0.0.1", "1")
        refused, other = await asked.all("b", "c")
        assert "READONLY" in str(refused)
        assert isinstance(other, ConnectionError)
        before = {int(known["id"]) for known in await client.client_list()}
        await client.replicaof("NO", "ONE")
        assert await asked.all("d") == [reply("d")]
        assert {int(known["id"]) for known in await client.client_list()} - before


async def test_lost_script_is_sent_again(says: Script, valkey: Valkey) -> None:
    """After a SCRIPT FLUSH no call fails, and each runs once."""
    asked = Asked(says)
    async with valkey.client() as client:
        await asked.all("a")
        await client.script_flush()
        assert await asked.all("b", "c", "d") == [reply(word) for word in "bcd"]
        assert await client.get("key") == "4"


@pytest.mark.parametrize("large", [100, 300_000])
async def test_large_call_is_whole(says: Script, large: int) -> None:
    """A reply that arrives in several parts is put together."""
    word = "x" * large
    assert await Asked(says).all(word) == [reply(word)]


async def test_all_calls_under_way_end_with_their_connection(says: Script, valkey: Valkey) -> None:
    """Each of them gets an error, and the next call opens a new connection."""
    asked = Asked(says)
    await asked.all("a")
    valkey.send(signal.SIGSTOP)
    asked.ask("b")
    asked.ask("c")
    await valkey.kill()
    await eventually(lambda: {"b", "c"} <= asked.told.keys(), what="the end of the connection")
    assert all(isinstance(asked.told[word], OSError) for word in "bc")
    (refused,) = await asked.all("d")
    assert isinstance(refused, Exception)
    await valkey.start()
    assert await asked.all("e") == [reply("e")]


async def test_late_reply_goes_to_no_other_call(says: Script, valkey: Valkey) -> None:
    """A call ends at its time limit, and its late reply is dropped."""
    asked = Asked(says)
    await asked.all("a")
    valkey.send(signal.SIGSTOP)
    try:
        late = await asked.all("b", "c")
        assert [type(told) for told in late] == [TimeoutError, TimeoutError]
        (unopened,) = await asked.all("d")
        assert isinstance(unopened, OSError)
    finally:
        valkey.send(signal.SIGCONT)
    for word in "efg":
        await eventually(answers(asked, word), what="Valkey's answer")


def answers(asked: Asked, word: str) -> Callable[[], Any]:
    """Return a condition that the script answers; each reply must be right."""
    tries = iter(range(100))

    async def answered() -> bool:
        each = f"{word}{next(tries)}"
        (told,) = await asked.all(each)
        assert isinstance(told, Exception) or told == reply(each)
        return not isinstance(told, Exception)

    return answered


async def test_reply_in_the_socket_counts_after_the_time_limit(says: Script) -> None:
    """A process that got no CPU for a while reads its socket once more before a call times out."""
    asked = Asked(says)
    await asked.all("a")
    asked.ask("b")
    await asyncio.sleep(TIMEOUT_S / 10)  # sent
    asked.ask("c")
    busy_until = asyncio.get_running_loop().time() + 2 * TIMEOUT_S
    while asyncio.get_running_loop().time() < busy_until:
        pass
    await eventually(lambda: {"b", "c"} <= asked.told.keys(), what="both answers")
    assert (asked.told["b"], asked.told["c"]) == (reply("b"), reply("c"))


async def test_pool_loses_no_connection(says: Script, valkey: Valkey) -> None:
    """After any number of closed connections exactly one is open."""
    assert isinstance(says, ServerScript)
    asked = Asked(says)
    async with valkey.client() as client:
        for word in "abcde":
            await asked.all(word)
            await client.client_kill_filter(_type="normal", skipme=True)
            await eventually(
                lambda: says._connection is None or not says._connection.is_open, what="the closed connection"
            )
    await asked.all("f")
    pool = says._pool
    assert len(pool._in_use_connections) == 1
    assert len(pool._available_connections) == 0


async def test_connections_that_a_restart_has_closed_are_not_used(valkey: Valkey) -> None:
    """Else a call fails for each of them, long after Redis is back, and the journal tells of outages that were none."""
    client = connect(RedisSettings(url=valkey.url), TIMEOUT_S)
    await asyncio.gather(*(client.ping() for _ in range(4)))
    await valkey.kill()
    await valkey.start()
    assert await asyncio.gather(*(client.ping() for _ in range(4))) == [True] * 4
    await client.aclose()


async def test_wrong_password_reaches_the_caller(valkey: Valkey) -> None:
    """An error at the connection's start reaches the caller, like any other error."""
    async with valkey.client() as client:
        await client.config_set("requirepass", "secret")
        opened = connect(RedisSettings(url=valkey.url), TIMEOUT_S)
        (told,) = await Asked(script(opened, SAYS, TIMEOUT_S, "key", ())).all("a")
        assert isinstance(told, RedisError)
        assert "uth" in str(told)
        await opened.aclose()
        await client.config_set("requirepass", "")


@pytest.fixture
async def says_by_library(valkey: Valkey) -> AsyncIterator[Script]:
    """The same script, with a library of it."""
    client = connect(RedisSettings(url=valkey.url), TIMEOUT_S)
    text = SAYS.replace("KEYS[1]", "keys[1]").replace("ARGV", "args")
    body = f"redis.register_function('says', function(keys, args) {text} end)"
    yield script(client, SAYS, TIMEOUT_S, "key", ("const", 7), Library("says", f"#!lua name=says\n{body}"))
    await client.aclose()


async def _calls_of(client: Any) -> dict[str, int]:
    return {name: told["calls"] for name, told in (await client.info("commandstats")).items()}


async def test_lost_library_is_sent_again(says_by_library: Script, valkey: Valkey) -> None:
    """At first, and after a FUNCTION FLUSH, no call fails, and each runs once."""
    asked = Asked(says_by_library)
    async with valkey.client() as client:
        assert await asked.all("a", "b") == [reply(word) for word in "ab"]
        await client.function_flush()
        assert await asked.all("c", "d", "e") == [reply(word) for word in "cde"]
        assert await client.get("key") == "5"
        assert not {"cmdstat_eval", "cmdstat_evalsha"} & (await _calls_of(client)).keys()


@pytest.mark.parametrize("forbidden", ["-function", "-fcall"])
async def test_server_that_forbids_libraries_runs_the_script(valkey: Valkey, forbidden: str) -> None:
    """Some users may not load or call functions."""
    async with valkey.client() as opened_by_test:
        client: Any = opened_by_test
        await client.function_flush()
        await client.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", forbidden)
    url = valkey.url.replace("//", "//plain:secret@")
    opened = connect(RedisSettings(url=url), TIMEOUT_S)
    asked = Asked(script(opened, SAYS, TIMEOUT_S, "key", ("const", 7), Library("none", "#!lua name=none\n")))
    for word in "ab":
        assert await asked.all(word) == [reply(word)]
    await opened.aclose()
