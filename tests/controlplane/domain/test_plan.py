from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.addresses import Assignment
from controlplane.domain.change import Change
from controlplane.domain.known import Known, Stored
from controlplane.domain.plan import Action, Plan
from controlplane.domain.plan import plan as plan_of
from controlplane.domain.reads import objects_needed, prefixes_needed
from controlplane.store.ops import MAX_REQUEST_BYTES, Delete, KeyGuard, PrefixGuard, Put
from schemas import codec
from schemas.errors import Conflict, LimitExceeded, NotFound
from schemas.keys import Keyspace
from schemas.names import ObjectRef
from schemas.objects import Metadata, Service
from schemas.objects.service import Dependency, ServicePort, ServiceSpec
from tests.controlplane.domain.objects import KEYSPACE, delete, known, known_for, objects, put, service

ORDERS = service("orders")
WEB = service("web", depends_on="[{name: orders}]")


def plan(changes: list[Change], state: Known, keyspace: Keyspace) -> Plan:
    """Without virtual addresses: see test_addresses."""
    return plan_of(Assignment(tuple(changes)), state, keyspace)


def test_each_action() -> None:
    changed = service("orders", ports=(8081,))
    changes = [put(changed), put(WEB), delete(service("old")), put(service("same"))]
    result = plan(changes, known(ORDERS, service("old"), service("same")), KEYSPACE)
    assert [outcome.action for outcome in result.outcomes] == [
        Action.UPDATED, Action.CREATED, Action.DELETED, Action.UNCHANGED,
    ]  # fmt: skip
    assert result.ops == (
        Put(KEYSPACE.object(ORDERS.ref), codec.encode(changed)),
        Put(KEYSPACE.object(WEB.ref), codec.encode(WEB)),
        Delete(KEYSPACE.object(service("old").ref)),
    )


def test_guards_hold_what_is_written_and_what_it_names() -> None:
    result = plan([put(WEB)], known(ORDERS, revision=7), KEYSPACE)
    assert set(result.guards) == {
        KeyGuard(KEYSPACE.object(WEB.ref), 0),
        KeyGuard(KEYSPACE.object(ORDERS.ref), 7),
    }


def test_nothing_changed_is_nothing_written() -> None:
    result = plan([put(WEB)], known(WEB, ORDERS), KEYSPACE)
    assert not result.ops
    assert not result.guards


def test_fields_of_a_newer_writer_survive() -> None:
    plain = msgspec.msgpack.decode(codec.encode(ORDERS))
    plain["spec"]["fromTheFuture"] = {"a": 1}
    stored = msgspec.msgpack.encode(plain, order="sorted")
    state = Known({ORDERS.ref: Stored(stored, 5, ORDERS)})
    assert plan([put(ORDERS)], state, KEYSPACE).ops == ()
    [op] = plan([put(service("orders", ports=(1,)))], state, KEYSPACE).ops
    assert isinstance(op, Put)
    assert msgspec.msgpack.decode(op.value)["spec"]["fromTheFuture"] == {"a": 1}


def test_a_value_that_can_not_be_understood_is_replaced() -> None:
    state = Known({ORDERS.ref: Stored(b"\xc1", 5, None)})
    result = plan([put(ORDERS)], state, KEYSPACE)
    assert result.ops == (Put(KEYSPACE.object(ORDERS.ref), codec.encode(ORDERS)),)
    assert result.guards == (KeyGuard(KEYSPACE.object(ORDERS.ref), 5),)


def test_an_expected_revision_that_holds_guards_an_unchanged_object_too() -> None:
    result = plan([put(ORDERS, expected_revision=10), put(WEB)], known(ORDERS), KEYSPACE)
    assert KeyGuard(KEYSPACE.object(ORDERS.ref), 10) in result.guards


@pytest.mark.parametrize("stored", [(), (ORDERS,)])
def test_an_expected_revision_that_does_not_hold(stored: tuple[object, ...]) -> None:
    state = known(ORDERS, revision=9) if stored else known()
    with pytest.raises(Conflict, match=r"a\.yaml:3: Service shop/orders: expected at revision 8, but it"):
        plan([put(ORDERS, "a.yaml:3", expected_revision=8)], state, KEYSPACE)


def test_deleting_nothing() -> None:
    with pytest.raises(NotFound, match="Service shop/orders"):
        plan([delete(ORDERS)], known(), KEYSPACE)


def test_what_was_listed_is_guarded_as_a_whole() -> None:
    changes = [delete(ORDERS)]
    result = plan(changes, known_for(changes, ORDERS), KEYSPACE)
    assert PrefixGuard(KEYSPACE.config(), 10) in result.guards


def test_127_objects_fit_and_128_do_not() -> None:
    many = [put(service(f"s{number}")) for number in range(128)]
    assert len(plan(many[:127], known(), KEYSPACE).ops) == 127
    with pytest.raises(LimitExceeded, match="128 objects to write") as caught:
        plan(many, known(), KEYSPACE)
    assert caught.value.problems[0].remedy


def test_more_than_a_request_can_carry() -> None:
    note = "x" * 500_000
    big = [
        put(objects(f"kind: Service\nmetadata: {{name: s{n}, annotations: {{note: {note}}}}}\n"
                    "spec: {ports: [{name: a, port: 1, protocol: tcp}]}")[0])
        for n in range(4)
    ]  # fmt: skip
    assert len(plan(big[:3], known(), KEYSPACE).ops) == 3
    with pytest.raises(LimitExceeded, match=f"{MAX_REQUEST_BYTES}"):
        plan(big, known(), KEYSPACE)


def test_one_object_too_large() -> None:
    big = objects(
        "kind: Service\nmetadata: {name: s, annotations: {note: " + "x" * 600_000 + "}}\n"
        "spec: {ports: [{name: a, port: 1, protocol: tcp}]}"
    )[0]
    with pytest.raises(LimitExceeded, match="one object may have 524288"):
        plan([put(big)], known(), KEYSPACE)


def test_reading_is_by_key_unless_something_narrows() -> None:
    changes = [put(WEB), put(service("orders", ports=(8080, 8443)))]
    external = {ObjectRef("ExternalService", "shop", "web"), ObjectRef("ExternalService", "shop", "orders")}
    mesh = ObjectRef("Mesh", "mesh-system", "mesh")  # the ranges of their addresses
    assert objects_needed(changes) == {WEB.ref, ORDERS.ref, mesh} | external  # they must not be named like one
    assert not prefixes_needed(KEYSPACE, [put(WEB)], known(ORDERS, WEB))
    assert not prefixes_needed(KEYSPACE, [put(ORDERS)], known(ORDERS))
    assert prefixes_needed(KEYSPACE, changes, known(ORDERS)) == {KEYSPACE.config()}
    assert prefixes_needed(KEYSPACE, [delete(ORDERS)], known(ORDERS)) == {KEYSPACE.config()}


names = st.sampled_from(["a", "b", "c", "d"])


def built(name: str, ports: set[int], on: set[str]) -> Service:
    return Service(
        api_version="mesh/v1",
        metadata=Metadata(name=name, namespace="shop"),
        spec=ServiceSpec(
            ports=tuple(ServicePort(name=f"p{port}", port=port, protocol="http") for port in sorted(ports)),
            dependencies=tuple(Dependency(name=other) for other in sorted(on)),
        ),
    )


services = st.builds(built, names, st.sets(st.integers(1, 4), min_size=1), st.sets(names))


@given(st.lists(services, unique_by=lambda value: value.ref), st.lists(services, unique_by=lambda value: value.ref))
def test_a_plan_leads_to_what_was_asked_and_a_second_changes_nothing(before, wanted) -> None:  # type: ignore[no-untyped-def]  # hypothesis passes untyped lists
    changes = [put(value) for value in wanted]
    state = known(*before)
    result = plan(changes, state, KEYSPACE)
    store = {KEYSPACE.object(ref): stored.value for ref, stored in state.objects.items()}
    for op in result.ops:
        assert isinstance(op, Put)
        store[op.key] = op.value
    assert all(store[KEYSPACE.object(value.ref)] == codec.encode(value) for value in wanted)
    guarded = {guard.key for guard in result.guards if isinstance(guard, KeyGuard)}
    assert guarded >= {op.key for op in result.ops}
    assert not plan(changes, known(*before, *wanted), KEYSPACE).ops
