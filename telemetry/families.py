"""What the metrics of agents and replicas have in common: names, and a collector that asks at each scrape.

All names begin with ``hostmesh_``; moments are ``…_timestamp_seconds`` (since 1970), so that an alert is
``x - time() < 86400``; counters end in ``_total``. https://prometheus.io/docs/practices/naming/
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

Family = GaugeMetricFamily | CounterMetricFamily


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


def expiries(moments: Mapping[str, float]) -> GaugeMetricFamily:
    """`moments`: the end of each certificate that this process uses, by what it is for."""
    about = "When the certificate ends; it is renewed long before, by this process unless it is a file."
    family = GaugeMetricFamily("hostmesh_certificate_expiry_timestamp_seconds", about, labels=["certificate"])
    for name in sorted(moments):
        family.add_metric([name], moments[name])
    return family
