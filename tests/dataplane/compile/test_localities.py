"""What each zone gets: by hand for known cases, by property for all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.compile.localities import Placed, places
from schemas.objects.traffic import Failover, Force, PreferLocal, ZoneAware, ZoneFailover
from schemas.records import Locality
from tests.states.build import locality

A, B, C, US, NOWHERE = map(locality, ("eu/a", "eu/b", "eu/c", "us/a", ""))
LOCAL = ZoneAware(prefer_local=PreferLocal(min_endpoints_threshold=1))

_zones = st.sampled_from([A, B, C, US, NOWHERE])
_counts = st.dictionaries(_zones, st.integers(1, 50), max_size=5)
_asked = st.one_of(
    st.none(),
    st.builds(
        ZoneAware,
        prefer_local=st.builds(
            PreferLocal,
            min_endpoints_threshold=st.integers(1, 9),
            percentage_enabled=st.integers(0, 100),
            force=st.none() | st.builds(Force, min_endpoints_in_zone_threshold=st.integers(1, 9)),
        ),
    ),
    st.builds(
        ZoneAware,
        failover=st.builds(Failover, zones=st.sampled_from([(), (ZoneFailover(from_="a", to=("c", "a2")),)])),
    ),
)


def weights(asked: ZoneAware, instances: dict[Locality, int], callers: dict[Locality, int]) -> dict[Locality, int]:
    found = places(asked, A, instances, callers)
    return {zone: placed.weight or 0 for zone, placed in found.items()}


def test_a_zone_that_has_its_share_keeps_all() -> None:
    assert places(LOCAL, A, {A: 1, B: 1}, {A: 2, B: 2}) == {A: Placed(0, 10_000), B: Placed(1)}


def test_what_is_too_much_goes_where_room_is() -> None:
    # Half of the callers, a quarter of the instances: half of its requests leave; B has room for 1/4, C for none.
    assert weights(LOCAL, {A: 1, B: 2, C: 1}, {A: 2, B: 1, C: 1}) == {A: 5000, B: 5000, C: 0}


def test_the_share_is_that_of_all_callers_together() -> None:
    """What all zones' callers send, by these weights, gives each instance the same."""
    instances, callers = {A: 2, B: 5, C: 1}, {A: 4, B: 2, C: 2}
    got = dict.fromkeys(instances, 0.0)
    for here, count in callers.items():
        for zone, placed in places(LOCAL, here, instances, callers).items():
            got[zone] += count * (placed.weight or 0) / 10_000
    for zone, requests in got.items():
        assert abs(requests / instances[zone] - 1) < 0.01


def test_a_caller_that_is_not_registered_yet_counts_as_one() -> None:
    assert weights(LOCAL, {A: 1, B: 1}, {}) == weights(LOCAL, {A: 1, B: 1}, {A: 1})


def test_the_same_name_of_a_zone_in_another_region_is_another_zone() -> None:
    found = places(ZoneAware(failover=Failover()), A, {US: 1, B: 1, A: 1}, {})
    assert {zone: placed.priority for zone, placed in found.items()} == {A: 0, B: 1, US: 2}


@given(_asked, _zones, _counts, _counts)
def test_what_envoy_takes(
    asked: ZoneAware | None, own: Locality, instances: dict[Locality, int], callers: dict[Locality, int]
) -> None:
    """Each zone has its place; priorities begin at 0 without a gap; a weight is above 0; within one priority either
    all have one or none; nobody is called first whom nobody is in."""
    found = places(asked, own, instances, callers)
    assert found.keys() == instances.keys()
    priorities = {placed.priority for placed in found.values()}
    assert priorities == set(range(len(priorities)))
    for priority in priorities:
        given_ = [placed.weight for placed in found.values() if placed.priority == priority]
        assert all(weight is None for weight in given_) or all(weight is not None and weight > 0 for weight in given_)
    assert sum(placed.weight or 0 for placed in found.values()) <= 10_000
