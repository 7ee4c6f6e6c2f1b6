"""Which objects may take a listener from those who have something open in it, as a table of all kinds.

Envoy closes what is open in a filter chain when it is gone, or another one by a single byte; it changes only chains in
place, and which of them takes what (https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/listeners).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest
from envoy.config.listener.v3 import listener_pb2

from dataplane.compile.resources import LISTENER
from schemas.objects import KINDS
from schemas.objects.authorization import HeaderMatch, Operation, Rule, Source
from tests.states.build import (
    ORDERS,
    ROOT_DER,
    Item,
    authentication,
    bundle,
    compiled,
    external,
    federates,
    instance,
    key_set,
    mesh_of,
    mesh_saying,
    need,
    peers,
    policy,
    port,
    rate_limit,
    revocation,
    rule,
    service,
    state,
    telemetry,
    traffic,
    who,
    workload,
)
from tests.states.routes import written
from tests.support.tokens import NOBODYS

PORTS = (
    port("http", 8080),
    port("h2", 8081, "http2"),
    port("grpc", 9000, "grpc"),
    port("tcp", 7000, "tcp"),
    port("passed", 8082, identity_header=False),
)
NEEDS = (need("cart", bind=9101), need("db", bind=9102))
BASE: tuple[Item, ...] = (
    service("orders", *PORTS, needs=NEEDS),
    service("cart"),
    service("db", port("sql", 5432, "tcp")),
    policy("web", "ALLOW", rule(who("web"))),
    bundle(1, ROOT_DER),
    peers("p", "PERMISSIVE"),
)
TRUSTED: tuple[Item, ...] = (federates("other", "other.test"), bundle(1, ROOT_DER, trust_domain="other.test"))
BYTES = {"bytes"}
"""What is about requests has HTTP read at `passed`, as long as it is there."""
PLAINTEXT = {"plaintext", "plaintext traced"}
OPEN = {"mode": "ALLOW_ANY"}
HASHED = {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}
KEYS_AT = "https://issuer.test/keys"
TOKENS = authentication("tokens", {"issuer": "https://issuer.test", "jwksUri": KEYS_AT})
ASKING = Operation(headers=(HeaderMatch(name="x-role", values=("admin",)), HeaderMatch(name="X-%'Odd")))


def route(kind: str, number: int, more: str = "", to: str = "orders") -> Item:
    parent, backend = f"{{kind: Service, name: {to}, port: {number}}}", f"{{name: cart, port: 80{more}}}"
    (made,) = written(
        f"kind: {kind}\nmetadata: {{name: r}}\nspec: {{parentRefs: [{parent}], rules: [{{backendRefs: [{backend}]}}]}}"
    )
    return made


def gateway(number: int) -> Item:
    listeners = f"[{{name: http, port: {number}, protocol: HTTP}}]"
    (made,) = written(f"kind: Gateway\nmetadata: {{name: g}}\nspec: {{service: orders, listeners: {listeners}}}")
    return made


CHANGES: dict[str, tuple[set[str], tuple[tuple[Item, ...], ...]]] = {
    # Nothing at all is another: the chains that may come and go are none.
    "AuthorizationPolicy, who": (
        set(),
        (
            (policy("web", "ALLOW", rule(who("web", "back"))),),
            (policy("web", "ALLOW", rule(who("web")), rule(Source(ip_blocks=("192.0.2.0/24",)))),),
            (policy("not-back", "DENY", rule(who("back"))),),
            (policy("nobody", "DENY", Rule()),),
        ),
    ),
    "TrustBundle": (
        set(),
        (
            TRUSTED,
            (*TRUSTED, bundle(2, ROOT_DER, ROOT_DER, trust_domain="other.test")),
            (*TRUSTED, federates("third", "third.test")),
            (*TRUSTED, policy("theirs", "ALLOW", rule(Source(trust_domains=("other.test",))))),
        ),
    ),
    "the own bundle": (set(), ((bundle(2, ROOT_DER, ROOT_DER),), (bundle(3),))),
    "a revocation": (set(), ((revocation("web"),), (revocation("web", 2, revoked=False),))),
    "instances": (set(), ((instance("orders", "o1", "192.0.2.1", http=80),), (instance("cart", "c", "192.0.2.2"),))),
    "Mesh": (
        set(),
        (
            (mesh_saying(authorization={"defaultAction": "ALLOW"}),),
            (mesh_saying(authorization={"denialHeader": True}, outboundTrafficPolicy=OPEN),),
        ),
    ),
    "HTTPRoute": (set(), ((route("HTTPRoute", 8080),), (route("HTTPRoute", 8080, ", weight: 3"),))),
    "GRPCRoute": (set(), ((route("GRPCRoute", 9000),), (route("GRPCRoute", 9000, ", weight: 3"),))),
    "TCPRoute": (set(), ((route("TCPRoute", 7000),), (route("TCPRoute", 7000, ", weight: 3"),))),
    "BackendTrafficPolicy": (
        set(),
        (
            (traffic("t", "orders", circuitBreaker={"maxConnections": 1}),),
            (traffic("t", "orders", loadBalancer={"type": "RoundRobin"}),),
        ),
    ),
    "ExternalService": (
        set(),
        tuple(
            (external("fax", f"spiffe://{of}/ns/x/svc/fax", at=["192.0.2.7"]),) for of in ("other.test", "mesh.test")
        ),
    ),
    "HTTPRoute, called": (
        set(),
        ((route("HTTPRoute", 80, to="cart"),), (route("HTTPRoute", 80, ", weight: 3", "cart"),)),
    ),
    "TCPRoute, called": (set(), ((route("TCPRoute", 5432, to="db"),),)),
    "BackendTrafficPolicy, called": (
        set(),
        (
            (traffic("t", "db", "cart", loadBalancer=HASHED, circuitBreaker={"maxConnections": 1}),),
            (traffic("t", "db", "cart", timeout={"tcp": {"idleTimeout": "9s"}}),),
        ),
    ),
    "Gateway": (set(), ((gateway(18080),), (gateway(18081),))),
    "Service, of others": (set(), ((service("cart", port("http", 81)),), (service("new"),))),
    "Service, on whom it depends": (
        set(),
        ((service("orders", *PORTS, needs=[need("*")]),), (service("orders", *PORTS, needs=None),)),
    ),
    "Service, another port": (set(), ((service("orders", *PORTS, port("more", 8089), needs=NEEDS),),)),
    # Who comes in plaintext goes when nobody may any more.
    "PeerAuthentication": (
        PLAINTEXT,
        (
            (peers("p", "STRICT"),),
            (peers("p", "STRICT", ["orders"], p7000="PERMISSIVE"),),
        ),
    ),
    "AuthorizationPolicy, what": (
        BYTES,
        (
            (policy("reads", "ALLOW", rule(who("back"), to=[Operation(methods=("GET",))])),),
            (policy("headers", "ALLOW", rule(who("back"), to=[ASKING])),),
            (policy("headers", "DENY", rule(who("back"), to=[Operation(not_headers=(HeaderMatch(name="x-a"),))])),),
            (policy("audits", "AUDIT", rule(who("back"))),),
        ),
    ),
    "RateLimitPolicy": (
        BYTES,
        (
            (rate_limit("l", {"limit": {"requests": 5, "unit": "Second"}}),),
            (rate_limit("l", {"limit": {"requests": 6, "unit": "Hour"}, "per": "All"}),),
        ),
    ),
    "RequestAuthentication": (
        BYTES,
        (
            (authentication("tokens", {"issuer": "https://issuer.test", "jwks": NOBODYS}),),
            (TOKENS,),
            (TOKENS, key_set(KEYS_AT, NOBODYS)),
        ),
    ),
    "Telemetry": (
        BYTES,
        (
            (telemetry("t", {"accessLogging": [{}]}),),
            (telemetry("t", {"metrics": [{"match": {"mode": "SERVER"}}]}),),
            (telemetry("t", {"tracing": {"provider": {"address": "127.0.0.1:4317"}}}),),
            (telemetry("t", {"tracing": {"provider": {"address": "127.0.0.1:4318"}, "randomSamplingPercentage": 5}}),),
        ),
    ),
}


class Made(NamedTuple):
    """Of one listener: its chains by name, and what Envoy changes in no other way than by a new listener."""

    chains: dict[str, bytes]
    rest: bytes
    whole: bytes


@cache
def versions(change: str) -> tuple[dict[str, Made], ...]:
    """The listeners of each, by name; first and last as if nothing had changed."""
    base = unchanged()
    return (base, *(made([*BASE, *items]) for items in CHANGES[change][1]), base)


@cache
def unchanged() -> dict[str, Made]:
    return made(BASE)


def made(items: Iterable[Item], *, ends_open: bool = True) -> dict[str, Made]:
    mesh = mesh_of(state("now", "", *items).values)
    own = replace(workload(ORDERS), ends_open=ends_open)
    bodies = {one.key: one.body for one in compiled(own, mesh).resources().values()}
    return {key.name: parts(body) for key, body in bodies.items() if key.type_url == LISTENER}


def parts(body: bytes) -> Made:
    listener = listener_pb2.Listener.FromString(body)
    chains = {one.name: one.SerializeToString(deterministic=True) for one in listener.filter_chains}
    listener.ClearField("filter_chains")
    listener.ClearField("filter_chain_matcher")
    return Made(chains, listener.SerializeToString(deterministic=True), body)


@pytest.mark.parametrize("change", CHANGES)
def test_a_chain_stays_as_it_is_or_goes(change: str) -> None:
    may_go, gone = CHANGES[change][0], set()
    for before, after in pairwise(versions(change)):
        both = [name for name in before.keys() & after.keys() if name.startswith("inbound|")]
        assert {f"inbound|{one.name}" for one in PORTS} <= set(both)
        for name in both:
            was, now = before[name], after[name]
            assert was.rest == now.rest, f"{name} is another listener"
            others = {one for one in was.chains.keys() & now.chains.keys() if was.chains[one] != now.chains[one]}
            assert not others, f"{name}: {sorted(others)} replaced"
            gone |= was.chains.keys() ^ now.chains.keys()
            assert may_go or was == now, name
    assert gone == may_go  # else the table says less than it could


@pytest.mark.parametrize("change", CHANGES)
def test_at_the_caller_no_chain_is_replaced(change: str) -> None:
    for before, after in pairwise(versions(change)):
        both = [name for name in before.keys() & after.keys() if name.startswith("outbound|")]
        assert "outbound|proxy" in both
        assert all(before[name].rest == after[name].rest for name in both)
        assert not {name for name in both if before[name].chains != after[name].chains}


def test_where_the_agent_cant_end_what_is_open_a_chain_that_goes_does() -> None:
    ways = [made([*BASE, mesh_saying(outboundTrafficPolicy=one)], ends_open=False) for one in (OPEN, {})]
    allowed, forbidden = (one["outbound|proxy"] for one in ways)
    assert allowed.chains.keys() == forbidden.chains.keys()
    assert all(allowed.chains[name] != forbidden.chains[name] for name in allowed.chains)


def test_no_kind_is_left_out() -> None:
    assert {name.partition(",")[0] for name in CHANGES} >= set(KINDS)
