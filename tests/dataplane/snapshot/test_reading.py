"""Bytes under a key: believed, or Corrupt with a reason; never anything else."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.snapshot.reading import read
from schemas import codec
from schemas.errors import Corrupt
from schemas.key_sets import place
from schemas.keys import DataRef, EndpointRef, EpochRef, KeySetRef, TrustRef
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import AnyObject
from schemas.records import Endpoint
from tests.states.build import (
    ROOT_DER,
    authentication,
    bundle,
    key_set,
    mesh_saying,
    need,
    peers,
    policy,
    port,
    rule,
    service,
    traffic,
    who,
)
from tests.support.garbage import UNREADABLE, with_field
from tests.support.tokens import NOBODYS

POLICY = policy("p", "ALLOW", rule(who("web")))
AUTHENTICATION = authentication("a", {"issuer": "https://one.example", "jwksUri": "https://one.example/keys"})
ENDPOINT = EndpointRef(ServiceRef("shop", "orders"), "o1")
REFS: list[DataRef] = [POLICY.ref, service("orders").ref, ENDPOINT, TrustRef("mesh.test"), KeySetRef("0a"), EpochRef()]


def changed(value: bytes, *path: str | int, to: object) -> bytes:
    """`value` with the field at `path` set to something else."""
    plain: Any = msgspec.msgpack.decode(value)
    at = plain
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return msgspec.msgpack.encode(plain)


def why(ref: DataRef, value: bytes) -> str:
    with pytest.raises(Corrupt) as caught:
        read(ref, value)
    return str(caught.value)


@given(st.sampled_from(REFS), st.binary(max_size=200))
def test_any_bytes(ref: DataRef, value: bytes) -> None:
    with contextlib.suppress(Corrupt):
        read(ref, value)


@pytest.mark.parametrize("path", [("spec",), ("spec", "rules", 0), ("spec", "rules", 0, "from", 0)])
def test_a_policy_with_a_condition_that_is_not_known_is_not_believed(path: tuple[str | int, ...]) -> None:
    """Without it an ALLOW would allow more. What stands beside the spec says nothing about who may do what."""
    value = codec.encode(POLICY)
    assert "unknown field 'jwtClaims'" in why(POLICY.ref, changed(value, *path, "jwtClaims", to=["x"]))
    assert read(POLICY.ref, changed(value, "metadata", "color", to="red")) == POLICY
    assert read(POLICY.ref, value) == POLICY


@pytest.mark.fault(20)
def test_a_mesh_that_says_more_of_who_is_let_in_than_is_known_is_not_believed() -> None:
    """Else ``{defaultAction: ALLOW, exceptNamespaces: [pay]}`` would allow pay too."""
    allowing = mesh_saying(authorization={"defaultAction": "ALLOW"})
    value = codec.encode(allowing)
    more = changed(value, "spec", "authorization", "exceptNamespaces", to=["pay"])
    assert "$.spec.authorization.exceptNamespaces: unknown field" in why(allowing.ref, more)
    assert read(allowing.ref, changed(value, "spec", "color", to="red")) == allowing  # of what is no policy
    assert read(allowing.ref, value) == allowing
    plain = mesh_saying()
    written_out = changed(codec.encode(plain), "spec", "authorization", to={"defaultAction": "DENY"})
    assert read(plain.ref, written_out) == plain


@pytest.mark.fault(19)
@pytest.mark.parametrize("garbage", UNREADABLE)
@pytest.mark.parametrize("good", [mesh_saying(), POLICY, AUTHENTICATION, peers("p")], ids=lambda one: one.kind)
def test_garbage_in_a_field_that_nobody_knows(good: AnyObject, garbage: bytes) -> None:
    """The typed decoder passes it over unread; who looks whether all was understood reads it."""
    assert "not MessagePack" in why(good.ref, with_field(codec.encode(good), "x", msgspec.Raw(garbage)))


def test_a_service_with_an_unknown_field_is_believed() -> None:
    orders = service("orders")
    assert read(orders.ref, changed(codec.encode(orders), "spec", "color", to="red")) == orders


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        (service("orders", port("a", 80), port("a", 81)), "port name 'a' stands there twice"),
        (service("orders", port("a", 80), port("b", 80, "tcp")), "port 80 stands there twice"),
        (service("orders", needs=[need("a", bind=9101), need("b", bind=9101)]), "bindPort 9101 stands there twice"),
    ],
)
def test_a_service_that_contradicts_itself(orders: Any, said: str) -> None:
    assert said in why(orders.ref, codec.encode(orders))


def test_a_traffic_policy_that_contradicts_itself() -> None:
    """Envoy would refuse the cluster."""
    spread = traffic("p", "orders", loadBalancer={"type": "ConsistentHash"})
    assert "$.spec.loadBalancer.consistentHash: missing" in why(spread.ref, codec.encode(spread))


@pytest.mark.parametrize(
    "address",
    ["", "orders.example", "fe80::1%eth0", "10.0.0.256", "10.0.0.1:80", "::", "224.0.0.1", " 10.0.0.1"],
)
def test_an_address_that_no_other_host_can_reach(address: str) -> None:
    assert "expected an IP address" in why(ENDPOINT, codec.encode(Endpoint(address=address, ports={})))


def test_a_value_under_the_name_of_another() -> None:
    orders = codec.encode(service("orders"))
    assert "the key holds Service shop/orders" in why(ObjectRef("Service", "shop", "web"), orders)
    assert "the key holds" in why(ObjectRef("Service", "back", "orders"), orders)
    assert "bundle of 'mesh.test'" in why(TrustRef("other.test"), bundle(1, ROOT_DER)[1])
    assert "Service" in why(POLICY.ref, orders)
    assert "unknown kind" in why(ObjectRef("Grotto", "shop", "edge"), orders)


def test_a_bundle_is_believed_whole_or_not_at_all() -> None:
    assert "no DER certificate" in why(TrustRef("mesh.test"), bundle(1, ROOT_DER, b"x")[1])
    assert read(TrustRef("mesh.test"), bundle(1)[1]).x509_authorities == ()  # type: ignore[union-attr]


def test_fetched_keys_are_of_the_place_that_their_key_says() -> None:
    uri = "https://one.example/keys"
    assert "holds the keys of" in why(place(uri, b"x" * 32), key_set(uri, NOBODYS)[1])
    for bad in ("", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "AAAA"}]}'):
        assert "no usable keys" in why(place(uri, b""), key_set(uri, bad)[1])


def test_a_key_that_no_replica_writes() -> None:
    value = codec.encode(Endpoint(address="10.0.0.1", ports={}))
    for service_ref in (ServiceRef("a.b", "c"), ServiceRef("shop", "UPPER"), ServiceRef("shop", "o 1")):
        assert "not a key of the mesh" in why(EndpointRef(service_ref, "i"), value)
    assert read(ENDPOINT, value)
