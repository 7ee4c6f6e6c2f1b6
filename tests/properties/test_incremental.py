"""Random histories: the increments lead where the state alone leads, and nothing that stands in etcd stops them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.compile.workload import VirtualNetwork
from dataplane.snapshot.reading import read
from dataplane.watch.events import Changes, Delete, Listing, Put
from schemas import codec
from schemas.errors import Corrupt
from schemas.objects import AnyObject, ExternalService
from schemas.objects.authorization import Rule
from schemas.objects.service import Dependency
from schemas.records import Locality
from tests.properties.sidecar import EDGE, Sidecar, difference, last_words, listings_of_prefixes, whole
from tests.properties.strategies import foreign_keys, items, spoiled
from tests.states.build import (
    KEYS,
    at,
    authentication,
    need,
    need_external,
    policy,
    port,
    service,
    telemetry,
    traffic,
)
from tests.states.digest import digest_of_all
from tests.states.routes import written

_SLOW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

changes_of_good = st.lists(st.tuples(items, st.booleans()), min_size=1, max_size=4)
changes_of_any = st.lists(st.tuples(items | spoiled, st.booleans()), min_size=1, max_size=4)


# In a zone, so that the zones of instances matter; with names, so that virtual addresses do.
HERE = replace(EDGE, locality=Locality(region="eu", zone="a"), virtual=VirtualNetwork(ipv6=True))


def apply(values: dict[bytes, bytes], step: Sequence[tuple[tuple[bytes, bytes], bool]]) -> dict[bytes, bytes]:
    after = dict(values)
    for (key, value), delete in step:
        if delete:
            after.pop(key, None)
        else:
            after[key] = value
    return after


def believable(values: dict[bytes, bytes]) -> bool:
    for key, value in values.items():
        ref = KEYS.parse(key)
        try:
            read(ref, value)  # type: ignore[arg-type]
        except Corrupt:
            return False
    return True


@_SLOW
@given(st.lists(changes_of_good, max_size=12))
def test_good_histories(steps: list[list[tuple[tuple[bytes, bytes], bool]]]) -> None:
    values: dict[bytes, bytes] = {}
    sidecar, always = Sidecar(HERE), True
    for revision, step in enumerate(steps, 2):
        after = apply(values, step)
        for changes in whole(difference(values, after, revision), revision):
            sidecar.take(changes)
        values = after
        always = always and believable(values)  # a Service that contradicts itself is no good one
        sidecar.check()
        if always:
            sidecar.check_is(values)


@_SLOW
@given(st.lists(st.tuples(changes_of_any, st.booleans()), max_size=12))
def test_any_histories(steps: list[tuple[list[tuple[tuple[bytes, bytes], bool]], bool]]) -> None:
    """With damaged values, and now and then a listing in place of changes."""
    values: dict[bytes, bytes] = {}
    sidecar = Sidecar(HERE)
    for revision, (step, listed) in enumerate(steps, 2):
        after = apply(values, step)
        events: list[Changes] | list[Listing] = whole(difference(values, after, revision), revision)
        for event in listings_of_prefixes(after, revision) if listed else events:
            sidecar.take(event)
        values = after
        sidecar.check()
        for key in sidecar.mesh.stored:
            assert key in values, "a last good value outlives its key"
        assert set(sidecar.mesh.quarantine) <= set(values)


@_SLOW
@given(st.lists(st.tuples(foreign_keys, st.binary(max_size=30) | items.map(lambda item: item[1]), st.booleans())))
def test_foreign_keys(history: list[tuple[bytes, bytes, bool]]) -> None:
    sidecar = Sidecar(EDGE)
    for revision, (key, value, delete) in enumerate(history, 2):
        event = Delete(key, revision) if delete else Put(key, value, revision)
        sidecar.take(Changes(KEYS.data(), revision, (event,)))
        sidecar.check()
        if delete:
            assert key not in sidecar.mesh.quarantine
    for key in {key for key, _, _ in history}:
        sidecar.take(Changes(KEYS.data(), 1000, (Delete(key, 1000),)))
    assert not sidecar.mesh.quarantine
    nothing = Sidecar(EDGE)
    nothing.take(last_words(sidecar.heard))
    assert sidecar.envoy == nothing.envoy


authorities = st.sampled_from(["web", "orders", "orders.shop", "CART:80", "web.back.mesh:8080", "nobody", "a b"])


@_SLOW
@given(
    st.sampled_from([None, [need("*")]]),
    st.lists(st.tuples(changes_of_any, st.lists(st.tuples(authorities, st.booleans()), max_size=2)), max_size=10),
)
def test_histories_in_which_dependencies_are_learnt(
    needs: list[Dependency] | None,
    steps: list[tuple[list[tuple[tuple[bytes, bytes], bool]], list[tuple[str, bool]]]],
) -> None:
    """By a first request, or where everything is a dependency, by a look-up of its name."""
    own = service("orders", needs=needs)
    values: dict[bytes, bytes] = {KEYS.object(own.ref): codec.encode(own)}
    sidecar = Sidecar(HERE)
    for listing in listings_of_prefixes(values, 1):
        sidecar.take(listing)
    for revision, (step, learnt) in enumerate(steps, 2):
        after = apply(values, step)
        for changes in whole(difference(values, after, revision), revision):
            sidecar.take(changes)
        for authority, detour in learnt:
            sidecar.learn(authority, detour=detour)
            sidecar.check()
        values = after
        sidecar.check()


def test_a_policy_that_lets_go_of_a_service_brings_the_next_one_to_light() -> None:
    """Neither says another way of choosing than before; which of the two decides is what changes."""
    first = traffic("a", "cart", circuitBreaker={"maxConnections": 1})
    hashed = traffic("b", "cart", loadBalancer={"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}})
    own, cart = service("orders", needs=[need("cart")]), service("cart", port("http", 8080))
    moved = traffic("a", "payments", circuitBreaker={"maxConnections": 1})
    sidecar = Sidecar(EDGE)
    history: tuple[AnyObject, ...] = (own, cart, first, hashed, moved, first)
    for revision, one in enumerate(history, 2):
        sidecar.take(put(one, revision))
        sidecar.check()


def test_a_policy_that_says_how_long_tcp_lasts_reaches_bound_ports() -> None:
    own, db = service("orders", needs=[need("db", bind=9101)]), service("db", port("main", 5432, "tcp"))
    lasting = (
        traffic("a", "db", timeout={"tcp": one}) for one in ({}, {"idleTimeout": "5m"}, {"maxConnectionDuration": "1h"})
    )
    history: tuple[AnyObject, ...] = (own, db, *lasting)
    sidecar = Sidecar(EDGE)
    for revision, one in enumerate(history, 2):
        sidecar.take(put(one, revision))
        sidecar.check()


def outside(name: str, tls: str = "tls: {mode: DISABLE}") -> ExternalService:
    (made,) = written(
        f"kind: ExternalService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}.example]\n"
        f"  ports: [{{name: http, port: 80, protocol: http}}]\n  {tls}"
    )
    assert isinstance(made, ExternalService)
    return made


def put(item: AnyObject, revision: int) -> Changes:
    return Changes(KEYS.data(), revision, (Put(KEYS.object(item.ref), codec.encode(item), revision),))


def delete(item: AnyObject, revision: int) -> Changes:
    return Changes(KEYS.data(), revision, (Delete(KEYS.object(item.ref), revision),))


def test_what_is_unreadable_in_mesh_system_closes_what_it_might_be_for() -> None:
    """A policy everybody, a RequestAuthentication only services there."""
    everybody = policy("all", "ALLOW", Rule())
    tokens = authentication("t.mesh-system", {"issuer": "https://one.example", "jwks": "{}"})
    first: tuple[AnyObject, ...] = (service("orders"), everybody)
    for bad, closes in ((tokens, False), (policy("p.mesh-system", "ALLOW"), True)):
        sidecar = Sidecar(EDGE)
        for revision, one in enumerate(first, 2):
            sidecar.take(put(one, revision))
        before = dict(sidecar.envoy)
        sidecar.take(Changes(KEYS.data(), 9, (Put(KEYS.object(bad.ref), b"\xc1", 9),)))
        sidecar.check()
        assert (sidecar.envoy != before) is closes, bad.ref
        sidecar.take(delete(bad, 10))
        sidecar.check()
        assert sidecar.envoy == before, bad.ref


def test_the_certificate_that_a_collector_is_shown_comes_and_goes_with_the_telemetry() -> None:
    """Nobody declares the collector as a dependency: the Telemetry alone leads there."""
    files = "{certificate: a.crt, key: a.key}"
    spans = outside("spans", f"tls: {{mode: MUTUAL, clientCertificate: {files}}}")
    provider = {"backendRef": {"kind": "ExternalService", "name": "spans", "port": 80}}
    traces = telemetry("traces", {"tracing": {"provider": provider}})
    sidecar = Sidecar(EDGE)
    first: tuple[AnyObject, ...] = (service("orders", needs=[]), spans)
    for revision, one in enumerate(first, 2):
        sidecar.take(put(one, revision))
    (wanted,) = EDGE.certificates
    for revision in (10, 20):
        sidecar.take(put(traces, revision))
        sidecar.check()
        assert wanted in sidecar.compiler.certificates_wanted
        sidecar.take(delete(traces, revision + 1))
        sidecar.check()
        assert wanted not in sidecar.compiler.certificates_wanted


def test_who_takes_up_a_virtual_address_behind_a_name_is_seen_by_its_rivals() -> None:
    """An ExternalService that a Service of its name hides has an address all the same, once the Service is gone."""
    hidden, hiding, rival = at(outside("aaa"), 7), at(service("aaa"), 8), at(service("zzz"), 7)
    sidecar = Sidecar(HERE)
    history = (service("orders", needs=[need("zzz"), need("aaa"), need_external("aaa")]), hidden, hiding, rival)
    for revision, one in enumerate(history, 2):
        sidecar.take(put(one, revision))
        sidecar.check()
    for revision, change in enumerate((delete(hiding, 20), put(hiding, 21), delete(hiding, 22)), 20):
        sidecar.take(change)
        sidecar.check()
        told = any("is that of aaa.shop too" in one.message for one in sidecar.compiler.problems())
        assert told is (revision != 21)


_PROGRAM = "from tests.states.digest import digest_of_all; print(digest_of_all())"


def test_every_process_gives_the_same_bytes() -> None:
    """Python's hashes and protobuf's maps have another order in each."""
    said = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert said == {digest_of_all()}
