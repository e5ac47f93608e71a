"""The names of Redis' keys and channels under one prefix, for Python and for the Lua scripts."""

from router.fleet.schema import SCHEMA


class Keys:
    """The keys under one prefix: those that Python uses, as attributes and methods, and all for Lua."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.workers = f"{prefix}:workers"
        self.plan = f"{prefix}:plan"
        self.plan_head = f"{prefix}:plan:head"
        self.drain = f"{prefix}:drain"
        self.intent = f"{prefix}:intent"
        self.tenants = f"{prefix}:tenants"
        self.tenants_intent = f"{prefix}:tenants:intent"
        self.registered = f"{prefix}:registered"
        self.ejected = f"{prefix}:ejected"
        self.quarantine = f"{prefix}:quarantine"
        self.sizes = f"{prefix}:sizes"
        self.speeds = f"{prefix}:speeds"
        self.processes = f"{prefix}:processes"
        self.queue = f"{prefix}:queue"
        self.lines = f"{prefix}:lines"
        self.sidecar = f"{prefix}:sidecar"
        self.fleet = f"{prefix}:fleet"
        self.events = f"{prefix}:events"
        self.failures = f"{prefix}:failures"
        self.history_hour = f"{prefix}:history:hour"
        self.history_day = f"{prefix}:history:day"
        self.history_mark = f"{prefix}:history:mark"
        # Not keys but channels. The first tells the routers that the fleet or a worker's health has changed. The second
        # tells the sidecar that a worker has registered or left, or has a new weight or cap.
        self.changes = f"{prefix}:changes"
        self.wishes = f"{prefix}:wishes"

    def lua_names(self) -> dict[str, str]:
        """Return the schema's keys and the two channels by the names that the Lua scripts use.

        A key for each worker, process or job is named as far as all of them are alike: `LEASES_OF .. url` is a key.

        >>> names = Keys("sfr").lua_names()
        >>> names["PLAN_HEAD"], names["LEASES_OF"], names["CHANGES"]
        ('sfr:plan:head', 'sfr:leases:', 'sfr:changes')
        """
        names = {"CHANGES": self.changes, "WISHES": self.wishes}
        for key in SCHEMA:
            stem, is_each, _ = key.name.removeprefix("sfr:").partition(":<")
            name = stem.replace(":", "_").upper()
            names[f"{name}_OF" if is_each else name] = f"{self.prefix}:{stem}:" if is_each else f"{self.prefix}:{stem}"
        return names

    def worker(self, url: str) -> str:
        """Return the key of the hash that holds the worker at `url`."""
        return f"{self.prefix}:worker:{url}"

    def registration(self, url: str) -> str:
        """Return the key of the hash by which the worker at `url` is registered."""
        return f"{self.registered}:{url}"

    def breaker(self, url: str) -> str:
        """Return the key of the hash of the breaker of the worker at `url`."""
        return f"{self.prefix}:breaker:{url}"

    def leases(self, url: str) -> str:
        """Return the key of the sorted set of the leases on the worker at `url`."""
        return f"{self.prefix}:leases:{url}"

    def queue_of(self, pool: str, tenant: str) -> str:
        """Return the key of the line of a tenant's pending jobs in a pool; that of jobs like any is `queue`."""
        return f"{self.queue}:{pool}/{tenant}"

    def answer(self, name: str) -> str:
        """Return the key of an answer on its way to another process."""
        return f"{self.prefix}:answer:{name}"

    def process(self, process: str) -> str:
        """Return the key of the hash by which `process` shows that it lives."""
        return f"{self.prefix}:process:{process}"

    def grants(self, process: str) -> str:
        """Return the key of the list through which `process` gets its grants."""
        return f"{self.prefix}:grants:{process}"
