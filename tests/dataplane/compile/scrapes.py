"""What an Envoy has counted, as a scrape of its agent shows it; it goes by the name of its service in ``shop``."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dataplane.envoy import stats
from dataplane.envoy.admin import NAMED_STATISTICS, STATISTICS
from schemas.names import ServiceRef, SpiffeId
from telemetry.families import registry
from tests.dataplane.compile.envoys import FedEnvoy, wait_until
from tests.states.build import TRUST_DOMAIN

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def scraped(envoy: FedEnvoy) -> Samples:
    """By name, then by labels: as text, and read again, as Prometheus would."""
    own = SpiffeId.of_service(TRUST_DOMAIN, ServiceRef("shop", envoy.name))
    counted = stats.read(envoy.admin(NAMED_STATISTICS) + envoy.admin(STATISTICS), own)
    text = generate_latest(registry(lambda: stats.families(counted))).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def number(envoy: FedEnvoy, name: str, **labels: str) -> float:
    """Of all samples with these labels."""
    samples = scraped(envoy).get(f"hostmesh_{name}", {})
    return sum(value for key, value in samples.items() if labels.items() <= dict(key).items())


def counts(envoy: FedEnvoy, name: str, more: float, **labels: str) -> None:
    """Waits for that many."""
    wait_until(f"{envoy.name} has {more} of {name} {labels}", lambda: number(envoy, name, **labels) == more)
