"""What a `BackendTrafficPolicy` contradicts itself in, beyond what its types can say. Pure.

Replicas refuse it on a write, and sidecars don't believe it in etcd: Envoy would refuse the cluster.
"""

from collections.abc import Iterator

from schemas.checking import Fault
from schemas.durations import milliseconds
from schemas.objects.traffic import (
    BackendTrafficPolicySpec,
    CircuitBreaker,
    ConsistentHash,
    LoadBalancer,
    PassiveHealthCheck,
    ZoneAware,
)


def traffic_faults(spec: BackendTrafficPolicySpec) -> Iterator[Fault]:
    """Paths are below ``spec``."""
    yield from _load_balancer(spec.load_balancer)
    if spec.circuit_breaker is not None:
        yield from _circuit_breaker(spec.circuit_breaker)
    if spec.health_check is not None and spec.health_check.passive is not None:
        yield from _passive(spec.health_check.passive)


def _load_balancer(balancer: LoadBalancer) -> Iterator[Fault]:
    here = ("loadBalancer",)
    hashed = balancer.consistent_hash
    if balancer.type == "ConsistentHash" and hashed is None:
        yield Fault((*here, "consistentHash"), "missing: type is ConsistentHash", "say what is hashed")
    if balancer.type != "ConsistentHash" and hashed is not None:
        yield Fault((*here, "consistentHash"), f"says nothing for type {balancer.type}", "write type: ConsistentHash")
    if balancer.slow_start is not None and balancer.type not in ("LeastRequest", "RoundRobin"):
        remedy = "leave it out, or use LeastRequest or RoundRobin"
        yield Fault((*here, "slowStart"), f"there is none for type {balancer.type}", remedy)
    if hashed is not None:
        for fault in _consistent_hash(hashed):
            yield Fault((*here, "consistentHash", *fault.path), fault.message, fault.remedy)
    if balancer.zone_aware is not None:
        for fault in _zone_aware(balancer.zone_aware):
            yield Fault((*here, "zoneAware", *fault.path), fault.message, fault.remedy)


def _consistent_hash(hashed: ConsistentHash) -> Iterator[Fault]:
    for of_type, field, given in (("Header", "header", hashed.header), ("Cookie", "cookie", hashed.cookie)):
        if (hashed.type == of_type) != (given is not None):
            message = f"says nothing for type {hashed.type}" if given else f"missing: type is {of_type}"
            yield Fault((field,), message, "leave it out" if given else "add it, with its name")
    ring, size = hashed.ring_hash, hashed.table_size
    if ring is not None and size is not None:
        yield Fault(("tableSize",), "is of Maglev, and ringHash asks for a ring", "leave one of them out")
    if ring is not None and ring.minimum_ring_size > ring.maximum_ring_size:
        message = f"is above maximumRingSize, {ring.maximum_ring_size}"
        yield Fault(("ringHash", "minimumRingSize"), message, "make it at most that")
    if size is not None and not _is_prime(size):
        yield Fault(("tableSize",), f"expected a prime number, got {size}", "Envoy's own is 65537")


def _zone_aware(zones: ZoneAware) -> Iterator[Fault]:
    if (zones.prefer_local is None) == (zones.failover is None):
        yield Fault((), "expected one of preferLocal and failover", "write one of them")
    seen = set()
    for index, one in enumerate(zones.failover.zones if zones.failover else ()):
        path = ("failover", "zones", index)
        if one.from_ in seen:
            yield Fault((*path, "from"), f"zone {one.from_!r} stands there twice", "merge the two")
        seen.add(one.from_)
        for place, zone in enumerate(one.to):
            if zone == one.from_ or zone in one.to[:place]:
                yield Fault((*path, "to", place), f"zone {zone!r} comes before already", "leave it out")


def _circuit_breaker(breaker: CircuitBreaker) -> Iterator[Fault]:
    if breaker.retry_budget is not None and breaker.max_parallel_retries is not None:
        message = "Envoy takes either a budget or a number"
        yield Fault(("circuitBreaker", "maxParallelRetries"), message, "leave it or retryBudget out")


def _passive(check: PassiveHealthCheck) -> Iterator[Fault]:
    here = ("healthCheck", "passive")
    longest = check.max_ejection_time
    if longest is not None and milliseconds(longest) < milliseconds(check.base_ejection_time):
        message = f"is below baseEjectionTime, {check.base_ejection_time}"
        yield Fault((*here, "maxEjectionTime"), message, "make it at least that")


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
