"""What a job's tenant means for its way: under which name it is counted, where it waits, and by which rule."""

from functools import lru_cache

import msgspec

from router.fleet.snapshot import FleetView
from router.jobs.job import Job, JobRun
from router.policy.deadline import ClientBudget
from router.policy.placement import Placement
from router.policy.tenants import DEFAULT, LONGEST_FIRST, KnownTenants, TenantRule

_budget = lru_cache(maxsize=1024)(ClientBudget.of)


class Tenants:
    """The tenants of this process' jobs. `client_budget` is config.yaml's, for tenants without one of their own."""

    def __init__(self, view: FleetView, client_budget: str | float) -> None:
        self.client_budget = ClientBudget.of(client_budget)
        self._view = view
        self._known = KnownTenants()

    def settle(self, run: JobRun) -> Job:
        """Return a job that names a tenant with the name that counts: `other`, if there are too many already.

        From now on the job waits in that tenant's line.
        """
        job = run.job
        name = self._known.name_for(job.tenant, run.since, self._view.snapshot.state.tenants)
        if name != job.tenant:
            run.job = job = msgspec.structs.replace(job, tenant=name)
        if name != DEFAULT:
            run.placement = Placement(name)
        return job

    def rule_of(self, tenant: str) -> TenantRule | None:
        """Return a tenant's rule: its own, or that of tenants without one; None if there is neither."""
        rules = self._view.snapshot.state.tenants
        return rules.get(tenant or DEFAULT) or rules.get(DEFAULT)

    def order_of(self, tenant: str) -> str:
        """Return in which order a tenant's jobs go, by its rule; "" if there is none."""
        rule = self.rule_of(tenant)
        return "" if rule is None else rule.order

    def goes_by_size(self, tenant: str) -> bool:
        """Whether a tenant's longest jobs go first."""
        return self.order_of(tenant) == LONGEST_FIRST

    def budget_of(self, tenant: str) -> ClientBudget:
        """Return how long the clients of a tenant wait."""
        rule = self.rule_of(tenant)
        return self.client_budget if rule is None or rule.client_budget is None else _budget(rule.client_budget)
