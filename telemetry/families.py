"""What the metrics of agents and replicas have in common: names, and a collector that asks at each scrape.

All names begin with ``hostmesh_``; moments are ``…_timestamp_seconds`` (since 1970), so that an alert is
``x - time() < 86400``; counters end in ``_total``. https://prometheus.io/docs/practices/naming/
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily


@dataclass(slots=True)
class Histogram:
    """buckets: how many were at most that, by upper bound as written; the last is ``+Inf``. total: their sum."""

    buckets: dict[str, float] = field(default_factory=dict)
    total: float = 0.0

    def add(self, bound: str, number: float) -> None:
        self.buckets[bound] = self.buckets.get(bound, 0.0) + number

    @property
    def count(self) -> float:
        return self.buckets.get("+Inf", 0.0)


class _Asks(Collector):
    def __init__(self, ask: Callable[[], Iterable[Family]]) -> None:
        self._ask = ask

    def collect(self) -> Iterable[Family]:
        return self._ask()


def registry(ask: Callable[[], Iterable[Family]]) -> CollectorRegistry:
    """`ask` is called at each scrape: nothing is kept in between that could be old."""
    made = CollectorRegistry(auto_describe=False)
    made.register(_Asks(ask))
    return made


def gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"hostmesh_{name}", about, value=value)


def counter(name: str, about: str, value: float) -> CounterMetricFamily:
    """`name` without ``_total``, which the exposition adds."""
    return CounterMetricFamily(f"hostmesh_{name}", about, value=value)


def counters(name: str, about: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"hostmesh_{name}", about, labels=[label])
    for key in sorted(values):
        family.add_metric([key], values[key])
    return family


def counters_by(
    name: str, about: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> CounterMetricFamily:
    """By the values of `labels`, in their order."""
    family = CounterMetricFamily(f"hostmesh_{name}", about, labels=labels)
    for key in sorted(values):
        family.add_metric(key, values[key])
    return family


def gauges(name: str, about: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"hostmesh_{name}", about, labels=[label])
    for key in sorted(values):
        family.add_metric([key], values[key])
    return family


def info(name: str, about: str, labels: Mapping[str, str]) -> GaugeMetricFamily:
    """What is said by labels alone."""
    family = GaugeMetricFamily(f"hostmesh_{name}", about, labels=list(labels))
    family.add_metric(list(labels.values()), 1.0)
    return family


def histograms(
    name: str, about: str, labels: Sequence[str], values: Mapping[tuple[str, ...], Histogram], *, divisor: float
) -> HistogramMetricFamily:
    """divisor: of the bounds and sums, to come from their unit to that of the name."""
    family = HistogramMetricFamily(f"hostmesh_{name}", about, labels=labels)
    for key in sorted(values):
        one = values[key]
        buckets = [
            (bound if bound == "+Inf" else str(float(bound) / divisor), number) for bound, number in one.buckets.items()
        ]
        family.add_metric(key, buckets, one.total / divisor)
    return family


def expiries(moments: Mapping[str, float]) -> GaugeMetricFamily:
    """`moments`: the end of each certificate that this process uses, by what it is for."""
    about = "When the certificate ends; it is renewed long before, by this process unless it is a file."
    family = GaugeMetricFamily("hostmesh_certificate_expiry_timestamp_seconds", about, labels=["certificate"])
    for name in sorted(moments):
        family.add_metric([name], moments[name])
    return family
