"""Which prefixes a workload asks for, and that nothing is built before they have been listed."""

from __future__ import annotations

from dataplane.compile.compiler import Compiler
from dataplane.pipeline import Pipeline
from dataplane.snapshot.state import MeshState
from dataplane.watch.events import Changes, Delete, Listing, Put
from schemas import codec
from tests.states.build import CREDENTIALS, KEYS, ORDERS, listings, need, ref, service, state, traffic, workload
from tests.states.routes import http_route

PREFER = traffic("p", "payments", loadBalancer={"zoneAware": {"preferLocal": {}}})
OWN, PAYMENTS = KEYS.endpoints_of(ORDERS), KEYS.endpoints_of(ref("payments"))


def test_the_own_instances_are_watched_while_a_zone_is_preferred() -> None:
    """How much stays in the zone depends on how many callers are in it; nothing is pushed before they are known."""
    values = state("", "", service("orders", needs=[need("payments")]), service("payments")).values
    pipeline = Pipeline(MeshState(KEYS), Compiler(workload(ORDERS), credentials=CREDENTIALS))
    for listing in listings(values):
        if listing.prefix != KEYS.endpoints():
            pipeline.take(listing)
    assert PAYMENTS in pipeline.wanted()
    assert OWN not in pipeline.wanted()
    pipeline.take(Listing(PAYMENTS, 1, ()))
    assert pipeline.build() is not None

    put = Put(KEYS.object(PREFER.ref), codec.encode(PREFER), 2)
    pipeline.take(Changes(KEYS.config(), 2, (put,)))
    assert OWN in pipeline.wanted()
    assert pipeline.build() is None
    pipeline.take(Listing(OWN, 2, ()))
    assert pipeline.build() is not None

    pipeline.take(Changes(KEYS.config(), 3, (Delete(put.key, 3),)))
    assert OWN not in pipeline.wanted()


def test_they_are_watched_where_a_route_leads_to_such_a_service() -> None:
    """Nobody declares it: the route of a declared one sends requests there."""
    values = state(
        "", "", service("orders", needs=[need("web")]), service("web"), service("payments"), PREFER,
        http_route(
            "- backendRefs: [{name: payments, port: 80}]", spec="parentRefs: [{kind: Service, name: web, port: 80}]"
        ),
    ).values  # fmt: skip
    pipeline = Pipeline(MeshState(KEYS), Compiler(workload(ORDERS), credentials=CREDENTIALS))
    for listing in listings(values):
        if listing.prefix != KEYS.endpoints():
            pipeline.take(listing)
    assert {OWN, PAYMENTS} <= pipeline.wanted()
