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

import msgspec
import pytest
from envoy.config.listener.v3 import listener_pb2

from dataplane.compile.resources import LISTENER
from dataplane.compile.workload import GatewayHost, KeyPair
from schemas.objects import KINDS
from schemas.objects.authorization import HeaderMatch, Operation, Rule, Source
from schemas.objects.common import CertificateFiles
from schemas.objects.gateway import GatewaySpec, Listener, ListenerTls
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


def gateway(*listeners: str, name: str = "edge", of: str = "orders", more: str = "") -> Item:
    """listeners: in YAML, without braces."""
    listed = ", ".join(f"{{{one}}}" for one in listeners)
    spec = f"{{service: {of}, listeners: [{listed}], {more}}}"
    (made,) = written(f"kind: Gateway\nmetadata: {{name: {name}}}\nspec: {spec}")
    return made


def https(name: str, host: str = "", *files: str) -> str:
    """A listener; files: of its certificates."""
    refs = ", ".join(f"{{certificate: {one}.crt, key: {one}.key}}" for one in files or ("a",))
    named = f"hostname: '{host}', " if host else ""
    return f"name: {name}, port: 443, protocol: HTTPS, {named}tls: {{certificateRefs: [{refs}]}}"


HTTP, SHOP, ALL = "name: http, port: 80, protocol: HTTP", https("shop", "shop.example"), https("all")
EDGE = (HTTP, SHOP, ALL)


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
    "Gateway": (
        set(),
        tuple((gateway(f"name: http, port: {port}, protocol: HTTP", name="g"),) for port in (81, 82)),
    ),
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
    named = {getattr(one, "ref", one): one for one in (gateway(*EDGE), *items)}
    mesh = mesh_of(state("now", "", *named.values()).values)
    pairs = {CertificateFiles(certificate=f"{one}.crt", key=f"{one}.key"): KeyPair(b"chain", b"key") for one in "abcde"}
    own = replace(workload(ORDERS), ends_open=ends_open, gateway=GatewayHost("192.0.2.9"), certificates=pairs)
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


@pytest.mark.parametrize("change", CHANGES)
def test_at_a_gateway_no_chain_is_replaced(change: str) -> None:
    for before, after in pairwise(versions(change)):
        assert {"gateway|80", "gateway|443"} <= before.keys()
        assert {"gateway|80", "gateway|443"} <= after.keys()
        for name in before.keys() & after.keys():
            assert not name.startswith("gateway|") or before[name] == after[name], name


# What of `EDGE` ends with a change of the Gateway itself, by listener: all that is not named here stays.
GATEWAYS: dict[str, tuple[Item, set[str]]] = {
    "listeners, one more": (gateway(*EDGE, https("more", "*.example")), set()),
    "listeners, one less": (gateway(HTTP, ALL), {"shop"}),
    "listeners, another order": (gateway(ALL, SHOP, HTTP), set()),
    "listeners.name": (gateway("name: web, port: 80, protocol: HTTP", SHOP, https("any")), {"all"}),
    "listeners.hostname": (
        gateway(f"{HTTP}, hostname: shop.example", https("shop", "*.example"), https("all", "other.example")),
        set(),
    ),
    "listeners.hostname, in a circle": (gateway(HTTP, https("shop"), https("all", "shop.example")), set()),
    "listeners.port": (gateway("name: http, port: 81, protocol: HTTP", SHOP, ALL), {"http"}),
    "listeners.protocol": (
        gateway(https("http").replace("443", "80"), "name: all, port: 443, protocol: HTTP"),
        {"http", "shop", "all"},
    ),
    "listeners.tls.certificateRefs": (gateway(HTTP, https("shop", "shop.example", "b"), https("all", "", "c")), set()),
    "listeners.tls.certificateRefs, more": (gateway(HTTP, https("shop", "shop.example", *"abcd"), ALL), set()),
    "listeners.tls.certificateRefs, of no files": (gateway(HTTP, https("shop", "shop.example", "x"), ALL), {"shop"}),
    "listeners.tls.certificateRefs, one of no files": (
        gateway(HTTP, https("shop", "shop.example", "x", "a"), ALL),
        set(),
    ),
    "listeners.tls.httpsRedirect": (gateway(f"{HTTP}, tls: {{httpsRedirect: true}}", SHOP, ALL), set()),
    "listeners.tls.mode": (gateway(HTTP, SHOP.replace("tls: {", "tls: {mode: Terminate, "), ALL), set()),
    "listeners.allowedRoutes": (
        gateway(
            *(f"{one}, allowedRoutes: {{namespaces: {{from: All}}, kinds: [{{kind: GRPCRoute}}]}}" for one in EDGE)
        ),
        set(),
    ),
    "service": (gateway(*EDGE, of="cart"), {"http", "shop", "all"}),
    "xffTrustedHops": (gateway(*EDGE, more="xffTrustedHops: 1"), {"http", "shop", "all"}),
}
PLACES = {
    "http": ("gateway|80", ""),
    "shop": ("gateway|443", "gateway|443|edge|shop"),
    "all": ("gateway|443", "gateway|443|edge|all"),
}


@pytest.mark.parametrize("change", GATEWAYS)
def test_what_a_change_of_a_gateway_ends(change: str) -> None:
    changed, ends = GATEWAYS[change]
    before, after = unchanged(), made([*BASE, changed])

    def stays(listener: str, chain: str) -> bool:
        was, now = before[listener], after.get(listener)
        return now is not None and now.rest == was.rest and now.chains.get(chain) == was.chains[chain]

    assert {place for place, (listener, chain) in PLACES.items() if not stays(listener, chain)} == ends


def test_no_field_of_gateways_is_left_out() -> None:
    said = {name.partition(",")[0] for name in GATEWAYS} - {"listeners"}
    assert said == {
        *_fields(GatewaySpec) - {"listeners"},
        *(f"listeners.{one}" for one in _fields(Listener) - {"tls"}),
        *(f"listeners.tls.{one}" for one in _fields(ListenerTls)),
    }


def _fields(part: type[msgspec.Struct]) -> set[str]:
    return {one.encode_name for one in msgspec.structs.fields(part)}


def test_where_the_agent_cant_end_what_is_open_a_chain_that_goes_does() -> None:
    ways = [made([*BASE, mesh_saying(outboundTrafficPolicy=one)], ends_open=False) for one in (OPEN, {})]
    allowed, forbidden = (one["outbound|proxy"] for one in ways)
    assert allowed.chains.keys() == forbidden.chains.keys()
    assert all(allowed.chains[name] != forbidden.chains[name] for name in allowed.chains)


def test_no_kind_is_left_out() -> None:
    assert {name.partition(",")[0] for name in CHANGES} >= set(KINDS)
