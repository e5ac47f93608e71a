"""What events say, in words that need no knowledge of this project: one function for each kind that Python tells.

The scheduler's script and the leadership's write theirs themselves: worker_ejected, worker_returned, job_quarantined,
router_silent, sidecar_changed and redis_emptied.
"""

from datetime import UTC, datetime

from router.fleet.journal.model import Event, Kind
from router.fleet.model import Health, Source, WorkerRecord

_NAMED_BY: dict[str, str] = {
    Source.CONFIG: "config.yaml names it",
    Source.FILE: "workers_file names it",
    Source.DNS: "the DNS name has its address",
    Source.REGISTERED: "it has registered, or was added",
}
_NAMED_NO_MORE: dict[str, str] = {
    Source.CONFIG: "config.yaml names it no more",
    Source.FILE: "workers_file names it no more",
    Source.DNS: "the DNS name has its address no more",
    Source.REGISTERED: "its registration has ended, or was removed",
}


def joined(url: str, source: str, by: str) -> Event:
    """Return that a worker has come into the fleet."""
    why = _NAMED_BY.get(source, source)
    return Event(Kind.WORKER_JOINED, url, f"Worker {url} has joined the fleet: {why}", by, {"source": source})


def left(url: str, source: str, by: str) -> Event:
    """Return that a worker is in the fleet no more."""
    why = _NAMED_NO_MORE.get(source, source)
    return Event(Kind.WORKER_LEFT, url, f"Worker {url} has left the fleet: {why}", by, {"source": source})


def checked(record: WorkerRecord, by: str) -> Event:
    """Return that checks have changed a worker's health."""
    url = record.worker.url
    if record.health is Health.HEALTHY:
        return Event(Kind.WORKER_HEALTHY, url, f"Worker {url} is healthy and gets jobs", by)
    times = f"{record.failures} failed check{'' if record.failures == 1 else 's'}"
    text = f"Worker {url} is unhealthy and gets no jobs, after {times}: {record.last_error}"
    return Event(Kind.WORKER_UNHEALTHY, url, text, by, {"failures": record.failures, "cause": record.last_error})


def drained(url: str, by: str) -> Event:
    """Return that a worker gets no new jobs, because somebody wants that."""
    return Event(Kind.WORKER_DRAINED, url, f"Worker {url} is drained: it gets no new jobs", by)


def resumed(url: str, by: str) -> Event:
    """Return that a worker may get jobs again."""
    return Event(Kind.WORKER_RESUMED, url, f"Worker {url} is drained no more: it may have jobs", by)


def too_many_waiting(tenant: str, refused: int, by: str) -> Event:
    """Return that a tenant has as many pending jobs as it may have, and that some were refused."""
    text = (
        f"Tenant {tenant} has as many waiting jobs as it may have (max_waiting): {_jobs(refused)} got 503 within a "
        "second. Other tenants' jobs go on"
    )
    return Event(Kind.TENANT_REFUSED, tenant, text, by, {"refused": refused})


def too_many_running(tenant: str, running: int, waiting: int, by: str) -> Event:
    """Return that a tenant has as many running jobs as it may have, and that more of them wait."""
    text = f"Tenant {tenant} runs as many jobs as it may (max_running: {running}), so {_jobs(waiting)} of it wait"
    return Event(Kind.TENANT_LIMITED, tenant, text, by, {"running": running, "waiting": waiting})


def queue_full(waiting: int, tenant: str, of_tenant: int, refused: int, by: str) -> Event:
    """Return that as many jobs wait as the fleet takes, most of them of `tenant`."""
    text = (
        f"The queue is full: {_jobs(waiting)} wait, {of_tenant} of them of tenant {tenant}. {_jobs(refused)} got 503 "
        "within a second"
    )
    return Event(Kind.QUEUE_FULL, tenant, text, by, {"waiting": waiting, "of_tenant": of_tenant, "refused": refused})


def redis_back(host: str, lost_at: float, back_at: float, cause: str, by: str) -> Event:
    """Return that Redis answers this host's router again; both moments are Unix times."""
    lost, back = _time_of_day(lost_at), _time_of_day(back_at)
    text = (
        f"Redis answers the router on {host} again. It did not from {lost} to {back} UTC ({back_at - lost_at:.1f} s): "
        f"{cause}. Jobs went on meanwhile, without the fleet's common queue"
    )
    moments = {"lost_at": _iso(lost_at), "back_at": _iso(back_at)}
    return Event(Kind.REDIS_BACK, host, text, by, {**moments, "cause": cause})


def no_sidecar(by: str) -> Event:
    """Return that no sidecar leads, though one did before."""
    text = "No sidecar leads any more: nobody checks the workers. Jobs go on with the workers as they were seen last"
    return Event(Kind.SIDECAR_LOST, "", text, by)


def sidecar_again(name: str) -> Event:
    """Return that a sidecar leads after a time without one. If it is another, it has told so itself."""
    return Event(Kind.SIDECAR_CHANGED, name, f"The sidecar {name} leads again, and checks the workers", name)


def started(host: str, version: str, by: str) -> Event:
    """Return that router processes have begun on a host."""
    return Event(Kind.ROUTER_STARTED, host, f"The router on {host} takes jobs (release {version})", by)


def ended(host: str, by: str) -> Event:
    """Return that router processes have ended on a host, as they were told to."""
    return Event(Kind.ROUTER_ENDED, host, f"Processes of the router on {host} have ended, as they were told to", by)


def reloaded(host: str, program: str, what: str) -> Event:
    """Return that a program has taken over a changed configuration."""
    return Event(
        Kind.CONFIG_RELOADED, f"{program} on {host}", f"The {program} on {host} has taken over {what}", program
    )


def refused(host: str, program: str, reason: str) -> Event:
    """Return that a program has not taken over a changed configuration."""
    told = _in_one_line(reason)
    text = f"The {program} on {host} goes on with the last good configuration, because the new one is bad: {told}"
    return Event(Kind.CONFIG_REFUSED, f"{program} on {host}", text, program, {"reason": told})


def keys_read(host: str, flaw: str) -> Event:
    """Return that a host's router has taken over a changed file of API keys, or with a flaw, that it has not."""
    subject = f"API keys on {host}"
    if not flaw:
        text = f"The router on {host} has taken over a changed file of API keys"
        return Event(Kind.CONFIG_RELOADED, subject, text, "router")
    told = _in_one_line(flaw)
    text = f"The router on {host} goes on with the last good API keys, because the changed file is bad: {told}"
    return Event(Kind.CONFIG_REFUSED, subject, text, "router", {"reason": told})


def _in_one_line(text: str) -> str:
    return "; ".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")


def _time_of_day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%H:%M:%S")
