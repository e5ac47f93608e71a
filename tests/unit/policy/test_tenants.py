"""Tenants' names: which are good, where they come from, and how many a process knows at a time."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.tenants import DEFAULT, NAME, OTHER, KnownTenants, flaw, of_key, split

GOOD = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64)


@given(GOOD)
def test_good_name_has_no_flaw_and_is_a_key_s_tenant_as_it_is(name: str) -> None:
    """Letters, digits, dots, underscores and hyphens, up to 64 of them."""
    assert flaw(name) is None
    assert of_key(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a\n", "x" * 65, "a\x00", "'", "%41"])
def test_bad_name_is_told(name: str) -> None:
    """The client reads which name is meant, in printable characters."""
    told = flaw(name)
    assert told is not None
    assert told.startswith(f"Tenant {name!r}: expected ")
    assert told.isprintable()


def test_long_bad_name_is_not_repeated_as_a_whole() -> None:
    """An answer is no place for 30 kB of a client's own text."""
    assert len(flaw("?" * 30_000) or "") < 200


@given(st.text())
def test_every_key_with_a_name_has_a_tenant(key_name: str) -> None:
    """Whatever the file of keys calls it, the tenant's name is good; a key without a name has none."""
    tenant = of_key(key_name)
    assert NAME.fullmatch(tenant) if key_name else tenant == ""


@given(GOOD, st.sampled_from(["", "/", "/run_code", "//run_code", "/run_code/batch", "/t/b/run_code"]))
def test_prefix_and_rest_are_told_apart(name: str, rest: str) -> None:
    """The rest is a path with one slash in front; a second prefix is a part of it."""
    assert split(f"/t/{name}{rest}") == (name, f"/{rest.lstrip('/')}")


def test_names_beyond_the_most_are_other_until_there_is_a_place() -> None:
    """A name that has had no job for a while makes room for one that has."""
    known = KnownTenants(most=2, forget_after_s=10)
    assert [known.name_for(name, 0) for name in ("a", "b", "c", "a")] == ["a", "b", OTHER, "a"]
    assert known.name_for("a", 9) == "a"
    assert known.name_for("c", 9.9) == OTHER
    assert known.name_for("c", 10) == "c"  # b was silent for 10 s
    assert known.name_for("b", 10) == OTHER
    assert known.name_for("a", 10) == "a"


def test_configured_names_and_the_router_s_own_take_no_place() -> None:
    """A run that config.yaml names keeps its share, whatever names others invent."""
    known = KnownTenants(most=1, forget_after_s=10)
    named = [known.name_for(name, 0, {"eval"}) for name in (DEFAULT, OTHER, "eval", "a", "eval", "b", DEFAULT)]
    assert named == [DEFAULT, OTHER, "eval", "a", "eval", OTHER, DEFAULT]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, 20))), st.integers(1, 5))
def test_never_more_names_than_the_most_within_the_time(jobs: list[tuple[str, float]], most: int) -> None:
    """Of the jobs of any ten seconds, at most so many names other than OTHER are seen."""
    known, now, seen = KnownTenants(most, 10), 0.0, list[tuple[float, str]]()
    for name, pause_s in jobs:
        now += pause_s
        seen.append((now, known.name_for(name, now)))
        assert seen[-1][1] in (name, OTHER)
        assert len({given for at, given in seen if now - at < 10} - {OTHER}) <= most
