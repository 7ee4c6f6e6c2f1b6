"""Instances by where they stand: which zone is called first, and how much of the requests each gets.

A function of who is there: the instances of the service, and, where requests are to stay in the caller's zone, the
caller's own instances, which share what is in their zone. How healthy those are is Envoy's to add.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.objects.traffic import BackendTrafficPolicy, Failover, PreferLocal, ZoneAware
from schemas.records import Endpoint, Locality

# Weights add up to about that; fine enough for steps of 0.01 %.
_WHOLE = 10_000


@dataclass(frozen=True, slots=True)
class Placed:
    """How a zone's instances are called. weight: among the zones of its priority; None: by the number of instances."""

    priority: int = 0
    weight: int | None = None


def zone_aware(policy: BackendTrafficPolicy | None) -> ZoneAware | None:
    return policy.spec.load_balancer.zone_aware if policy is not None else None


def prefers_local(policy: BackendTrafficPolicy | None) -> PreferLocal | None:
    """Where this is given, the caller's own instances have to be known."""
    asked = zone_aware(policy)
    return asked.prefer_local if asked is not None else None


def zones_of(endpoints: Iterable[Endpoint]) -> Counter[Locality]:
    return Counter(endpoint.locality for endpoint in endpoints)


def places(
    asked: ZoneAware | None, own: Locality, instances: Mapping[Locality, int], callers: Mapping[Locality, int]
) -> dict[Locality, Placed]:
    """For each zone of `instances`. own: the caller's; callers: its service's instances by zone, which may be none."""
    if asked is not None and own.zone and instances:
        if asked.failover is not None:
            return _by_rank(_failover(asked.failover, own, instances))
        if asked.prefer_local is not None:
            return _prefer_local(asked.prefer_local, own, instances, callers)
    return dict.fromkeys(instances, Placed())


def _failover(asked: Failover, own: Locality, instances: Iterable[Locality]) -> dict[Locality, int]:
    """Rank of each zone: the lower is called first."""
    listed: Sequence[str] = next((one.to for one in asked.zones if one.from_ == own.zone), ())
    ranks = {}
    for zone in instances:
        if zone == own:
            ranks[zone] = 0
        elif zone.zone in listed:
            ranks[zone] = 1 + listed.index(zone.zone)
        else:
            ranks[zone] = len(listed) + (1 if zone.region == own.region else 2)
    return ranks


def _by_rank(ranks: Mapping[Locality, int]) -> dict[Locality, Placed]:
    """Envoy wants priorities from 0 on without a gap."""
    order = sorted(set(ranks.values()))
    return {zone: Placed(order.index(rank)) for zone, rank in ranks.items()}


def _prefer_local(
    asked: PreferLocal, own: Locality, instances: Mapping[Locality, int], callers: Mapping[Locality, int]
) -> dict[Locality, Placed]:
    here, there = instances.get(own, 0), sum(instances.values())
    if asked.force is not None and here >= asked.force.min_endpoints_in_zone_threshold:
        return _by_rank({zone: int(zone != own) for zone in instances})
    if there < asked.min_endpoints_threshold or not here:
        return dict.fromkeys(instances, Placed())
    weights = _shares(own, instances, {**callers, own: max(1, callers.get(own, 0))})
    about, rest = asked.percentage_enabled, 100 - asked.percentage_enabled
    mixed = {
        zone: (about * weight + rest * _WHOLE * instances[zone] // there) // 100 for zone, weight in weights.items()
    }
    # Who gets nothing now stands by for the case that the others fail.
    last = int(any(mixed.values()))
    return {zone: Placed(0, weight) if weight else Placed(last) for zone, weight in mixed.items()}


def _shares(own: Locality, instances: Mapping[Locality, int], callers: Mapping[Locality, int]) -> dict[Locality, int]:
    """As Envoy's zone-aware routing: all stays here where this zone's part of the instances is at least its part of the
    callers; else what is over goes to the zones that have room, by how much they have."""
    all_instances, all_callers = sum(instances.values()), sum(callers.values())
    room = {zone: count * all_callers - callers.get(zone, 0) * all_instances for zone, count in instances.items()}
    if room[own] >= 0:
        return {zone: _WHOLE if zone == own else 0 for zone in instances}
    kept = max(1, _WHOLE * instances[own] * all_callers // (callers[own] * all_instances))
    free = sum(one for one in room.values() if one > 0)
    return {zone: kept if zone == own else (_WHOLE - kept) * max(0, room[zone]) // free for zone in instances}
