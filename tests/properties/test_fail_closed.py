"""Nothing that goes wrong, and nothing that is added to refuse, ever lets a request through that was refused before."""

from __future__ import annotations

import random

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.snapshot.state import from_stored
from dataplane.watch.events import Changes, Delete, Put
from schemas import codec
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import Rule, Source
from tests.properties.sidecar import Sidecar, from_listings
from tests.properties.strategies import PORTS, items, policies, spoiled
from tests.properties.verdict import Request, means, passes, requests
from tests.states.build import (
    KEYS,
    ORDERS,
    ROOT_DER,
    TRUST_DOMAIN,
    bundle,
    federates,
    identity,
    listings,
    mesh_of,
    policy,
    rule,
    service,
    workload,
)

_SLOW = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

Values = dict[bytes, bytes]
REQUESTS = requests(PORTS)
OF_THE_MESH = {one for one in REQUESTS if one.caller.startswith(f"spiffe://{TRUST_DOMAIN}/")}
ORDERS_KEY = KEYS.object(service("orders").ref)
FEDERATED = federates("other", "other.test")
BASE: Values = {
    ORDERS_KEY: codec.encode(service("orders", *PORTS)),
    KEYS.object(FEDERATED.ref): codec.encode(FEDERATED),
    **dict([bundle(1, ROOT_DER), bundle(1, ROOT_DER, trust_domain="other.test")]),
}
# Decodes well, and lets everybody in but those that Envoy would never find: it compares addresses of one family only.
NOT_OF_IPV4 = policy("broken", "ALLOW", rule(Source(not_ip_blocks=("::ffff:10.0.0.0/104",))))


def with_a_condition_of_tomorrow() -> bytes:
    """Decodes well too: a field that is not known is passed over in other objects."""
    plain = msgspec.msgpack.decode(codec.encode(policy("broken", "ALLOW", Rule())))
    plain["spec"]["rules"] = [{"unless": [{"methods": ["GET"]}]}]
    return msgspec.msgpack.encode(plain)


BAD_VALUE = st.sampled_from(
    [
        b"", b"\xc1", b"\x80", b"\x91" * 5000,
        codec.encode(service("orders")), codec.encode(NOT_OF_IPV4), with_a_condition_of_tomorrow(),
    ]
)  # fmt: skip

some_policies = st.lists(policies(), max_size=4)


def with_policies(found: list[AuthorizationPolicy]) -> Values:
    return BASE | {KEYS.object(one.ref): codec.encode(one) for one in found}


def allowed(sidecar: Sidecar) -> set[Request]:
    return {request for request in REQUESTS if passes(sidecar.envoy, request)}


def allowed_by(values: Values) -> set[Request]:
    return allowed(from_listings(workload(ORDERS), values))


def put(sidecar: Sidecar, key: bytes, value: bytes, revision: int = 50) -> None:
    sidecar.take(Changes(KEYS.config(), 50, (Put(key, value, revision),)))


@_SLOW
@given(some_policies)
def test_the_compiled_rules_say_what_the_policies_mean(found: list[AuthorizationPolicy]) -> None:
    values = with_policies(found)
    last = {one.ref: one for one in found}.values()
    ours = [one for one in last if one.metadata.namespace in (ORDERS.namespace, "mesh-system")]
    assert allowed_by(values) == {request for request in REQUESTS if means(ours, ORDERS.name, request)}


@_SLOW
@given(st.lists(items | spoiled, max_size=8))
def test_without_a_policy_nothing_passes(found: list[tuple[bytes, bytes]]) -> None:
    kept = {key: value for key, value in found if b"/AuthorizationPolicy/back/" in key or b"/Authorization" not in key}
    mesh = mesh_of(kept).mesh()
    if mesh is None or mesh.spec.authorization.default_action == "DENY":
        assert allowed_by(BASE | kept) == set()


@_SLOW
@given(some_policies, policies("DENY"))
def test_a_deny_never_allows_more(found: list[AuthorizationPolicy], deny: AuthorizationPolicy) -> None:
    before = with_policies([one for one in found if one.ref != deny.ref])
    after = before | {KEYS.object(deny.ref): codec.encode(deny)}
    assert allowed_by(after) <= allowed_by(before)


@_SLOW
@given(some_policies, st.data())
def test_an_allow_that_goes_never_allows_more(found: list[AuthorizationPolicy], data: st.DataObject) -> None:
    allows = [one for one in found if one.spec.action == "ALLOW"]
    if not allows:
        return
    before = with_policies(found)
    gone = KEYS.object(data.draw(st.sampled_from(allows)).ref)
    kept = {key: value for key, value in before.items() if key != gone}
    if codec.decode(before[gone], AuthorizationPolicy, "").spec.action == "ALLOW":
        assert allowed_by(kept) <= allowed_by(before)


@_SLOW
@given(some_policies, BAD_VALUE, st.randoms(use_true_random=False))
def test_an_unreadable_policy_closes_its_namespace(
    found: list[AuthorizationPolicy], bad: bytes, order: random.Random
) -> None:
    """Whatever came first, and until it is gone or can be read."""
    good = with_policies(found)
    key = KEYS.object(policy("broken", "ALLOW").ref)
    entries = [*good.items(), (key, bad)]
    order.shuffle(entries)
    sidecar = Sidecar(workload(ORDERS))
    for at, value in entries:
        sidecar.take(Changes(KEYS.data(), 5, (Put(at, value, 5),)))
    sidecar.check()
    assert allowed(sidecar) == set() == allowed_by(good | {key: bad})
    if order.random() < 0.5:
        put(sidecar, key, codec.encode(policy("broken", "DENY", Rule(), on=["cart"])))  # readable, and not for us
    else:
        sidecar.take(Changes(KEYS.config(), 6, (Delete(key, 6),)))
    assert allowed(sidecar) == allowed_by(good)


@_SLOW
@given(some_policies, BAD_VALUE)
def test_an_unreadable_policy_of_another_namespace_changes_nothing(
    found: list[AuthorizationPolicy], bad: bytes
) -> None:
    values = with_policies(found)
    assert allowed_by(values | {KEYS.object(policy("broken.back", "ALLOW").ref): bad}) == allowed_by(values)


@_SLOW
@given(some_policies, BAD_VALUE, st.data())
def test_the_last_good_value_stays_in_force(found: list[AuthorizationPolicy], bad: bytes, data: st.DataObject) -> None:
    """Of a policy, and of the service itself; when what damaged it is a listing, too."""
    values = with_policies(found)
    key = data.draw(st.sampled_from(sorted(key for key in values if b"/config/" in key)))
    if key == ORDERS_KEY and bad == codec.encode(service("orders")):
        return  # which is a good one here
    sidecar = from_listings(workload(ORDERS), values)
    before = dict(sidecar.envoy)
    put(sidecar, key, bad)
    assert sidecar.envoy == before
    assert [problem.subject for problem in sidecar.mesh.problems()] != []
    for listing in listings(values | {key: bad}, 60, dict.fromkeys(values, 1)):  # what is unchanged has its revision
        sidecar.take(listing)
    assert sidecar.envoy == before
    put(sidecar, key, values[key], 1)  # a later one would be told, as the revision that decides
    assert sidecar.envoy == before
    assert sidecar.mesh.problems() == []


@_SLOW
@given(some_policies, spoiled)
def test_damage_never_opens(found: list[AuthorizationPolicy], damage: tuple[bytes, bytes]) -> None:
    """Whatever is damaged, seen by a sidecar that knew the good value or by one that did not."""
    key, bad = damage
    good = with_policies(found)
    sidecar = from_listings(workload(ORDERS), good)
    before = allowed(sidecar)
    if key in good or b"/AuthorizationPolicy/" in key:
        was = dict(sidecar.mesh.values)
        put(sidecar, key, bad)
        if sidecar.mesh.values == was:  # it was damage indeed
            assert allowed(sidecar) <= before
        if key in sidecar.mesh.quarantine and b"/AuthorizationPolicy/" in key:
            without = {one: value for one, value in good.items() if one != key}
            assert allowed_by(without | {key: bad}) <= allowed_by(without)


@_SLOW
@given(some_policies, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(found: list[AuthorizationPolicy], order: random.Random) -> None:
    values = with_policies(found)
    entries = list(values.items())
    order.shuffle(entries)
    sidecar = Sidecar(workload(ORDERS))
    for key, value in entries:
        sidecar.take(Changes(KEYS.data(), 5, (Put(key, value, 1),)))  # as listed: its revision is in the routes
    assert sidecar.envoy == from_listings(workload(ORDERS), values).envoy


@_SLOW
@given(some_policies)
def test_nobody_of_a_trust_domain_that_is_not_trusted_any_more(found: list[AuthorizationPolicy]) -> None:
    """On connections from before: policies still name them. Its object is gone, or its bundle is, or is empty."""
    values = with_policies(found)
    before = allowed_by(values)
    key, trust = KEYS.object(FEDERATED.ref), KEYS.trust_bundle("other.test")
    gone = ({**values}, {**values}, values | dict([bundle(2, trust_domain="other.test")]))
    del gone[0][key], gone[1][trust]
    for one in gone:
        assert allowed_by(one) == before & OF_THE_MESH


def test_the_reading_can_tell() -> None:
    """So that the properties above hold of something."""
    everybody = with_policies([policy("p1", "ALLOW", Rule())])
    assert allowed_by(everybody) == OF_THE_MESH != set(REQUESTS)
    assert (
        allowed_by(everybody | {KEYS.object(policy("p2", "DENY").ref): codec.encode(policy("p2", "DENY", Rule()))})
        == set()
    )


def test_a_restart_from_disk_stays_closed() -> None:
    """What was unreadable before is unknown after; it closes all the same, until etcd says that it is gone."""
    key = KEYS.object(policy("broken", "DENY").ref)
    values = with_policies([policy("p1", "ALLOW", Rule())])
    first = from_listings(workload(ORDERS), values | {key: b"\xc1"}).mesh
    again = from_stored(KEYS, 7, first.stored, first.unreadable_policies)
    sidecar = Sidecar(workload(ORDERS), again)
    assert (again.revision, allowed(sidecar)) == (7, set())
    for listing in listings(values, 60):
        sidecar.take(listing)
    assert allowed(sidecar) == OF_THE_MESH
    assert from_stored(KEYS, 7, first.stored).values == first.values


def test_identities_are_compared_as_spiffe_ids() -> None:
    """A DENY whose trust domain is spelled in capitals denies all the same."""
    everybody = policy("p1", "ALLOW", Rule())
    shouted = policy("p2", "DENY", rule(Source(identities=(identity("web").replace("mesh.test", "MESH.test"),))))
    refused = OF_THE_MESH - allowed_by(with_policies([everybody, shouted]))
    assert {request.caller for request in refused} == {identity("web")}
