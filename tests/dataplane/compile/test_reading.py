"""For what a port is read as HTTP that could do without."""

from __future__ import annotations

import pytest
from envoy.config.listener.v3 import listener_pb2

from dataplane.compile.compiler import Compiler
from dataplane.compile.reading import UNABLE, read_for
from dataplane.compile.resources import LISTENER, Resource
from dataplane.inspection.running import modelled
from dataplane.inspection.words import described
from dataplane.pipeline import Pipeline
from dataplane.snapshot.state import MeshState
from schemas.objects.authorization import Operation
from tests.states.build import (
    CREDENTIALS,
    KEYS,
    ORDERS,
    Item,
    authentication,
    compiled,
    listings,
    mesh_of,
    policy,
    port,
    rate_limit,
    rule,
    service,
    state,
    telemetry,
    who,
    workload,
)
from tests.support.tokens import NOBODYS

PORT = port("http", 80, identity_header=False)
GET = Operation(methods=("GET",))
COLLECTOR = {"provider": {"address": "127.0.0.1:4317"}}
LIMIT = {"limit": {"requests": 5, "unit": "Second"}}
SERVER, CLIENT = {"mode": "SERVER"}, {"mode": "CLIENT"}


def said(spec: object, name: str = "t", on: str | None = "orders") -> Item:
    return telemetry(name, spec, [on] if on else None)


CASES: dict[str, tuple[tuple[Item, ...], tuple[str, ...]]] = {
    "nothing": ((), ()),
    "identities alone": ((policy("a", "ALLOW", rule(who("web"))),), ()),
    "a method": ((policy("a", "ALLOW", rule(who("web"), to=[GET])),), ("AuthorizationPolicy shop/a[0]",)),
    "an audit": ((policy("a", "AUDIT", rule(who("web"))),), ("AuthorizationPolicy shop/a[0]",)),
    "a limit": ((rate_limit("l", LIMIT),), ("RateLimitPolicy shop/l[0]",)),
    "a limit of another port": ((rate_limit("l", {**LIMIT, "ports": [81]}),), ()),
    "tokens": (
        (authentication("j", {"issuer": "https://one.example", "jwks": NOBODYS}),),
        ("RequestAuthentication shop/j",),
    ),
    "a log of both sides": ((said({"accessLogging": [{}]}),), ("Telemetry shop/t",)),
    "a log of the called side": ((said({"accessLogging": [{"match": SERVER}]}),), ("Telemetry shop/t",)),
    "a log of callers": ((said({"accessLogging": [{"match": CLIENT}]}),), ()),
    "no log": ((said({"accessLogging": [{"disabled": True}]}),), ()),
    "the first entry counts": (
        (said({"accessLogging": [{"match": SERVER, "disabled": True}, {"match": SERVER}]}),),
        (),
    ),
    "of the mesh": ((said({"accessLogging": [{}]}, "t.mesh-system", None),), ("Telemetry mesh-system/t",)),
    "the narrower is silent": (
        (said({"accessLogging": [{}]}, "t.mesh-system", None), said({"accessLogging": []})),
        (),
    ),
    "of another service": ((said({"accessLogging": [{}]}, on="web"),), ()),
    "counts": ((said({"metrics": [{}]}),), ("Telemetry shop/t",)),
    "counts of callers": ((said({"metrics": [{"match": CLIENT}, {"match": SERVER, "disabled": True}]}),), ()),
    "spans": ((said({"tracing": COLLECTOR}),), ("Telemetry shop/t",)),
    "no spans": ((said({"tracing": {**COLLECTOR, "disabled": True}}),), ()),
    "two sections of two objects": (
        (said({"tracing": COLLECTOR}), said({"metrics": [{}]}, "m.mesh-system", None)),
        ("Telemetry mesh-system/m", "Telemetry shop/t"),
    ),
}


@pytest.mark.fault(24)
def test_where_the_agent_can_not_end_connections_rules_are_asked_of_requests() -> None:
    """Else a denial would reach no connection that is open. And it is a change like any other."""
    values = state("now", "", service("orders", PORT), policy("a", "ALLOW", rule(who("web")))).values
    pipeline = Pipeline(MeshState(KEYS), Compiler(workload(ORDERS), credentials=CREDENTIALS))
    assert pipeline.set_ends_open(False) is None
    for listing in listings(values):
        pipeline.take(listing)
    first = pipeline.build()
    assert first is not None
    chains = [name for one in first.changed for name in chains_of(one)]
    assert chains == ["http", "http traced"]
    assert read_for(pipeline.state, pipeline.compiler.workload, PORT) == (UNABLE,)
    for ends_open in (True, False):
        update = pipeline.set_ends_open(ends_open)
        assert update is not None
        assert [name for one in update.changed for name in chains_of(one)] == chains + ["bytes"] * ends_open
        assert len(update.removed) == (0 if ends_open else 2)
        assert pipeline.set_ends_open(ends_open) is None


def chains_of(resource: Resource) -> list[str]:
    """Of an inbound listener."""
    if resource.key.type_url != LISTENER or not resource.key.name.startswith("inbound|"):
        return []
    return [one.name for one in listener_pb2.Listener.FromString(resource.body).filter_chains]


@pytest.mark.parametrize(("items", "expected"), CASES.values(), ids=CASES)
def test_what_asks_for_http_is_named(items: tuple[Item, ...], expected: tuple[str, ...]) -> None:
    """And the listener is as that says, and people are told."""
    mesh = mesh_of(state("now", "", service("orders", PORT), *items).values)
    of = workload(ORDERS)
    assert read_for(mesh, of, PORT) == expected
    messages = modelled(compiled(of, mesh).resources())
    (listener,) = (one for key, one in messages.items() if key.name == "inbound|http" and hasattr(one, "filter_chains"))
    assert ("bytes" in [chain.name for chain in listener.filter_chains]) == (not expected)
    (told,) = (one for one in described(messages, mesh, of)["listeners"] if one.name == "inbound|http")
    assert told.does[-1] == (
        f"reads HTTP of all callers for {', '.join(expected)}" if expected else "passes bytes on: nothing asks for HTTP"
    )
