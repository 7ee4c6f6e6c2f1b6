"""Events ▸ state: what a listing takes away, whose revision counts, what is remembered."""

from __future__ import annotations

from dataplane.snapshot.state import Change, MeshState, Stored, from_stored
from dataplane.watch.events import Changes, Delete, Dropped, Listing, Put
from schemas import codec
from tests.states.build import KEYS, ORDERS, ROOT_DER, balance, bundle, epoch, instance, policy, ref, service

ONE, TWO = instance("orders", "o1", "10.0.0.1", http=80), instance("orders", "o2", "10.0.0.2", http=80)
POLICY = policy("p", "ALLOW")
KEY = KEYS.object(POLICY.ref)


def changes(*items: tuple[bytes, bytes], revision: int = 5) -> Changes:
    return Changes(KEYS.data(), revision, tuple(Put(key, value, revision) for key, value in items))


def listing(prefix: bytes, *items: tuple[bytes, bytes], revision: int = 5) -> Listing:
    return Listing(prefix, revision, tuple(Put(key, value, revision) for key, value in items))


def names(mesh: MeshState) -> list[str]:
    return [name for name, _ in mesh.endpoints(ORDERS)]


def test_a_listing_takes_away_what_it_lacks_under_its_prefix_only() -> None:
    mesh = MeshState(KEYS)
    other = instance("payments", "p1", "10.0.0.3", grpc=9000)
    mesh.apply(changes(ONE, TWO, other))
    gone = mesh.apply(listing(KEYS.endpoints_of(ORDERS), TWO))
    assert [(change.before is not None, change.after) for change in gone] == [(True, None)]
    assert names(mesh) == ["o2"]
    assert len(mesh.endpoints(ref("payments"))) == 1


def test_dropped_forgets() -> None:
    mesh = MeshState(KEYS)
    mesh.apply(listing(KEYS.endpoints_of(ORDERS), ONE, (KEYS.endpoints_of(ORDERS) + b"bad", b"\xc1")))
    assert len(mesh.problems()) == 1
    assert len(mesh.apply(Dropped(KEYS.endpoints_of(ORDERS)))) == 1
    assert (names(mesh), mesh.problems()) == ([], [])


def test_the_revision_is_that_of_the_configuration() -> None:
    mesh = MeshState(KEYS)
    mesh.apply(Changes(KEYS.endpoints(), 9, ()))
    assert mesh.revision == 0
    mesh.apply(listing(KEYS.config(), revision=7))
    mesh.apply(Changes(KEYS.config(), 6, ()))
    assert mesh.revision == 7
    mesh.apply(listing(KEYS.config(), revision=3))  # etcd was restored
    assert mesh.revision == 3


def test_equal_values_change_nothing_and_the_mod_revision_is_kept() -> None:
    mesh = MeshState(KEYS)
    (change,) = mesh.apply(changes(ONE))
    assert change.before is None
    assert mesh.apply(changes(ONE, revision=8)) == []
    assert mesh.stored[ONE[0]] == Stored(ONE[1], 8)


def test_a_bad_value_and_a_good_one_again() -> None:
    mesh = MeshState(KEYS)
    good = codec.encode(POLICY)
    mesh.apply(changes((KEY, good)))
    assert mesh.apply(changes((KEY, b"\xc1"), revision=6)) == []
    assert (mesh.authorization_policies("shop"), mesh.unreadable_policies) == ([POLICY], set())
    assert mesh.stored[KEY] == Stored(good, 5)
    assert len(mesh.problems()) == 1
    # The same again, of a newer revision: what is compiled from it says by which revision it goes.
    assert mesh.apply(changes((KEY, good), revision=7)) == [Change(POLICY.ref, POLICY, POLICY)]
    assert mesh.revision_of(POLICY.ref) == 7
    assert mesh.apply(changes((KEY, good), revision=7)) == []
    assert mesh.problems() == []


def test_a_policy_that_was_never_good() -> None:
    mesh, only = MeshState(KEYS), [Change(POLICY.ref, None, None)]
    assert mesh.apply(changes((KEY, b"\xc1"))) == only
    assert mesh.apply(changes((KEY, b"\xc0"))) == []  # as unreadable as before
    assert mesh.unreadable_policies == {POLICY.ref}
    assert mesh.apply(Changes(KEYS.config(), 6, (Delete(KEY, 6),))) == only
    assert mesh.unreadable_policies == set()


def test_readers() -> None:
    mesh = MeshState(KEYS)
    first, second = balance("a", "RoundRobin", "orders"), balance("b", "LeastRequest", "orders")
    entries = [(KEYS.object(one.ref), codec.encode(one)) for one in (second, first, service("orders"))]
    mesh.apply(changes(*entries, TWO, ONE, bundle(1, ROOT_DER), epoch("e")))
    assert names(mesh) == ["o1", "o2"]
    assert mesh.traffic_policy(ORDERS) == first
    assert mesh.traffic_policy(ref("orders.back")) is None
    assert mesh.services() == mesh.destinations() == [ORDERS]
    assert mesh.epoch == "e"
    found = mesh.trust_bundle("mesh.test")
    assert found is not None
    assert found.sequence == 1
    mesh.apply(Changes(KEYS.config(), 6, (Delete(entries[1][0], 6), Delete(entries[2][0], 6))))
    assert (mesh.traffic_policy(ORDERS), mesh.service(ORDERS)) == (second, None)


def test_from_disk_what_was_stored_and_what_was_closed() -> None:
    mesh = MeshState(KEYS)
    mesh.apply(changes(ONE, (KEY, b"\xc1")))
    again = from_stored(KEYS, 5, mesh.stored, mesh.unreadable_policies)
    assert (again.values, again.unreadable_policies, again.revision) == (mesh.values, {POLICY.ref}, 5)
    assert again.apply(listing(KEYS.config())) == [Change(POLICY.ref, None, None)]
    assert again.unreadable_policies == set()
