"""The table of tenants after some readings."""

from collections.abc import Mapping

from router.dashboard.tenants import MOST_ROWS, TenantRow, Tenants, TenantTable
from router.fleet.stats import TenantStats, TenantUsage
from router.policy.tenants import TenantRule


def had(busy_ms: int, jobs: int = 0, failures: int = 0, running: int = 0, waiting: int = 0) -> TenantUsage:
    """Return what one tenant has and has had."""
    return TenantUsage(running, waiting, TenantStats(jobs, failures, busy_ms))


def shares(table: TenantTable) -> Mapping[str, float | None]:
    """Return each tenant's share, in the table's order."""
    return {row.name: row.share for row in table.rows}


def test_share_is_that_of_the_last_minute() -> None:
    """What a tenant used before counts no longer. The largest share stands first."""
    tenants = Tenants()
    first = tenants.table(100, {"a": had(900_000), "b": had(0)}, {})
    assert list(shares(first).items()) == [("a", None), ("b", None)]
    for second in range(1, 121):
        b_ms = 3000 * max(0, second - 60)
        table = tenants.table(100 + second, {"a": had(900_000 + 1000 * second), "b": had(b_ms)}, {})
        if second == 60:
            assert shares(table) == {"a": 1, "b": 0}
    assert shares(table) == {"b": 0.75, "a": 0.25}
    assert list(shares(table)) == ["b", "a"]


def test_row_has_rate_counts_and_weight() -> None:
    """The rate is that of some seconds; who has no rule has the default's."""
    tenants, rules = Tenants(), {"a": TenantRule(weight=3), "default": TenantRule(weight=2)}
    for second in range(11):
        told = {"a": had(1000 * second, jobs=10 * second, failures=second, running=4, waiting=7), "b": had(0)}
        table = tenants.table(100 + second, told, rules)
    assert table.rows == [TenantRow("a", 3, 4, 7, 10.0, 100, 10, 1.0), TenantRow("b", 2, 0, 0, 0.0, 0, 0, 0.0)]


def test_tenant_that_comes_later_counts_from_its_start() -> None:
    """It has a share from its first second on."""
    tenants = Tenants()
    tenants.table(100, {"a": had(5000), "b": had(0)}, {})
    table = tenants.table(101, {"a": had(6000), "b": had(0), "c": had(1000, jobs=3)}, {})
    assert shares(table) == {"a": 0.5, "c": 0.5, "b": 0}
    assert table.rows[1].rate == 3


def test_row_tells_what_reuse_has_saved() -> None:
    """Jobs that got the answers of identical ones are counted, and the time of the runs that they did not need."""
    table = Tenants().table(100, {"a": TenantUsage(0, 0, TenantStats(jobs=9, reused=4, saved_ms=1500))}, {})
    assert [(row.reused, row.saved_ms) for row in table.rows] == [(4, 1500)]


def test_table_has_few_rows_of_many_tenants() -> None:
    """The rest is told by its number."""
    table = Tenants().table(100, {f"run-{number}": had(0, running=number) for number in range(MOST_ROWS + 5)}, {})
    assert (len(table.rows), table.hidden) == (MOST_ROWS, 5)
    assert table.rows[0].name == f"run-{MOST_ROWS + 4}"


def test_counts_that_fall_make_no_negative_share() -> None:
    """A tenant that was forgotten counts from 0 again, and so does an emptied Redis."""
    tenants = Tenants()
    tenants.table(100, {"a": had(9000, jobs=90), "b": had(0)}, {})
    table = tenants.table(101, {"a": had(10, jobs=1), "b": had(500)}, {})
    assert (shares(table), table.rows[1].rate) == ({"b": 0.98, "a": 0.02}, 0)
    tenants.forget()
    assert shares(tenants.table(102, {"a": had(0), "b": had(0)}, {})) == {"a": None, "b": None}
