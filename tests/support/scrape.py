"""A router's metrics as Prometheus reads them."""

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Scrape:
    """One reading of /metrics."""

    families: list[Metric]

    def values(self, name: str) -> Mapping[tuple[str, ...], float]:
        """Return a series' samples by their label values, in the order of the labels' names."""
        samples = (sample for family in self.families for sample in family.samples)
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for sample in samples
            if sample.name == name
        }

    def total(self, name: str) -> float:
        """Return the sum of a series over all labels."""
        return sum(self.values(name).values())

    def by_worker(self, name: str) -> dict[str, float]:
        """Return a series whose only label is the worker's URL, by that URL."""
        return {url: value for (url,), value in self.values(name).items()}


async def scrape(router_url: str) -> Scrape:
    """Read /metrics over a new connection."""
    async with aiohttp.ClientSession() as session, session.get(f"{router_url}/metrics") as response:
        assert response.status == 200
        return Scrape(list(text_string_to_metric_families(await response.text())))
