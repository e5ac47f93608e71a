"""Logs when the breaker ejects a worker, with cause and end, and when an ejection is over."""

import logging
from collections.abc import Iterable, Mapping

from router.fleet.model import Ejection, Health, WorkerRecord
from router.logs import local_time

log = logging.getLogger(__name__)


def log_ejections(
    before: Mapping[str, Ejection], now: Mapping[str, Ejection], records: Iterable[WorkerRecord], whose: str = ""
) -> None:
    """Log the workers ejected since `before`, and those of `records` that are ejected no more.

    `whose` is "", or text such as ` by this process alone` after "is ejected".
    """
    for url, ejection in now.items():
        earlier = before.get(url)
        if earlier is None or earlier.times < ejection.times:
            until = local_time(ejection.until)
            fields = {"worker_url": url, "until": until, "cause": ejection.reason}
            log.warning("Worker %s is ejected%s until %s: %s", url, whose, until, ejection.reason, extra=fields)
    ended = before.keys() - now.keys()
    for record in records if ended else ():
        if (url := record.worker.url) in ended:
            is_ill = record.health is Health.UNHEALTHY
            cause = "its health checks fail by now" if is_ill else "it gets jobs again"
            log.info("Worker %s is ejected no more: %s", url, cause, extra={"worker_url": url, "cause": cause})
