"""A revocation outlives its key: what a sidecar has seen once holds until a record with a higher serial."""

from __future__ import annotations

import itertools

import pytest

from dataplane import lastgood
from dataplane.snapshot.state import MeshState
from dataplane.watch.events import Changes, Delete, Listing, Put
from tests.states.build import KEYS, ORDERS, revocation

KEY = KEYS.revocation(ORDERS)


def listing(revision: int, *items: tuple[bytes, bytes]) -> Listing:
    return Listing(KEYS.revocations(), revision, tuple(Put(key, value, revision) for key, value in items))


def test_the_highest_serial_counts_in_any_order() -> None:
    records = [revocation("orders", 1), revocation("orders", 2, revoked=False), revocation("orders", 3)]
    for count in (2, 3):
        for order in itertools.permutations(records[:count]):
            state = MeshState(KEYS)
            for revision, one in enumerate(order, 1):
                state.apply(listing(revision, one))
            assert (ORDERS in state.revoked) == (count == 3), order


@pytest.mark.fault(5)
def test_a_store_that_came_back_older_makes_nobody_valid() -> None:
    state = MeshState(KEYS)
    assert [one.after is not None for one in state.apply(listing(9, revocation("orders", 5)))] == [True]
    for older in (listing(3), listing(3, revocation("orders", 4, revoked=False))):
        assert state.apply(older) == []
        assert state.revoked.services() == [ORDERS]
    assert state.apply(Changes(KEYS.revocations(), 10, (Delete(KEY, 10),))) == []
    assert state.revoked.services() == [ORDERS]


@pytest.mark.fault(5)
def test_it_outlives_a_restart() -> None:
    state = MeshState(KEYS)
    state.apply(listing(9, revocation("orders", 5), (KEYS.revocation(ORDERS) + b"-2", b"\xc1")))
    saved = lastgood.parse(lastgood.dump(state, now=1))
    assert saved is not None
    again = lastgood.restore(saved)
    assert [str(one) for one in again.revoked.services()] == ["orders.shop", "orders-2.shop"]
    again.apply(listing(3))
    assert again.revoked.services() == [ORDERS]
    again.apply(listing(4, revocation("orders", 6, revoked=False)))
    assert again.revoked.services() == []


def test_what_nobody_can_read_denies_until_it_can_be_read_or_is_gone() -> None:
    state = MeshState(KEYS)
    assert len(state.apply(listing(1, (KEY, b"\xc1")))) == 1
    assert ORDERS in state.revoked
    assert state.problems()
    assert len(state.apply(listing(2))) == 1
    assert ORDERS not in state.revoked
    state.apply(listing(3, revocation("orders", 1, revoked=False)))
    assert state.apply(listing(4, (KEY, b"\xc1"))) == []  # its last good record stays in force
    assert ORDERS not in state.revoked
