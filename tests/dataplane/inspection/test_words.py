"""What `proxy config` tells of a route, a cluster and where they come from: each field that an object may have."""

from __future__ import annotations

import pytest

from dataplane.compile.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, ResourceKey
from dataplane.inspection.origin import origins
from dataplane.inspection.running import modelled
from dataplane.inspection.words import Described, described
from schemas.objects.authorization import Operation
from tests.states.build import (
    ORDERS,
    WEB,
    Item,
    compiled,
    instance,
    mesh_of,
    need,
    policy,
    port,
    rule,
    service,
    state,
    telemetry,
    traffic,
    who,
    workload,
)
from tests.states.edges import EDGE_STATES
from tests.states.routes import http_route, written

MESH: tuple[Item, ...] = (
    service("web", port("http", 80), needs=[need("orders", port=80, bind=9101), need("orders", port=7, bind=9102)]),
    service("orders", port("http", 80), port("raw", 7, "tcp"), port("bytes", 81, identity_header=False)),
    instance("orders", "one", "10.0.0.1", labels={"version": "2"}, http=80, raw=7),
)
TO = "backendRefs: [{name: orders, port: 80}]"


def told(section: str, name: str, *items: Item) -> Described:
    mesh = mesh_of(state("now", "", *MESH, *items).values)
    messages = modelled(compiled(workload(WEB), mesh).resources())
    return next(one for one in described(messages, mesh, workload(WEB))[section] if one.name == name)


RULES = {
    TO: "→ outbound|orders.shop|80, up to 2 retries if no app was reached",
    f"timeouts: {{request: 10s, backendRequest: 250ms}}\n  {TO}": "within 10s, each try within 250ms",
    f"retry: {{attempts: 0}}\n  {TO}": "never tried again",
    f"retry: {{codes: [503, 500], attempts: 3, backoff: 10ms, maxBackoff: 1s}}\n  {TO}": (
        "up to 3 retries if no app was reached, or on reset, 500, 503, after 10ms to 1s"
    ),
    f"filters: [{{type: Fault, fault: {{delay: {{fixedDelay: 2s, percentage: 2.5}}}}}}]\n  {TO}": (
        "delays 2.5 % of them by 2s"
    ),
    f"filters: [{{type: Fault, fault: {{abort: {{httpStatus: 418}}, headers: [{{name: x-a, value: b}}]}}}}]\n  {TO}": (
        "aborts them with 418 where x-a"
    ),
    "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: orders, port: 80}, percent: 10}}]\n"
    f"  {TO}": ("copies 10 % of them to outbound|orders.shop|80"),
    f"filters: [{{type: URLRewrite, urlRewrite: {{hostname: a.test, path: {{type: ReplacePrefixMatch, "
    f"replacePrefixMatch: /new}}}}}}]\n  matches: [{{path: {{value: /old}}}}]\n  {TO}": (
        "as host a.test, with prefix /new instead"
    ),
    f"filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplaceFullPath, replaceFullPath: /a}}}}}}]\n  {TO}": (
        "with path by ^/.*$ ⇒ /a"
    ),
    "filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: a.test, port: 8443, "
    "statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /a}}}]": (
        "redirects (moved permanently) to scheme https, host a.test, port 8443, path /a"
    ),
    f"filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-a, value: b}}], "
    f"remove: [x-c]}}}}]\n  {TO}": "request headers +x-a -x-c",
    f"filters: [{{type: CORS, cors: {{allowOrigins: ['https://a.test']}}}}]\n  {TO}": "CORS for https://a.test",
    f"sessionPersistence: {{sessionName: s}}\n  {TO}": "keeps sessions",
    "backendRefs: [{name: orders, port: 80, weight: 9}, {name: ghost, port: 80}]": (
        "one of outbound|orders.shop|80 (9), missing|ghost.shop|80 (1)"
    ),
}


@pytest.mark.parametrize(("rule_text", "expected"), RULES.items(), ids=list(RULES.values()))
def test_a_route(rule_text: str, expected: str) -> None:
    (route,) = told("routes", "outbound|bound|9101", http_route(f"- {rule_text}")).does[:1]
    assert expected in route


POLICIES: tuple[tuple[dict[str, object], str], ...] = (
    ({}, "retries at most 20 % of what is under way, and 10 in any case"),
    ({}, "left out for 5s to 30s: 5 times no connection in a row; at most 100 % of them"),
    (
        {"circuitBreaker": {"maxConnections": 3, "maxPendingRequests": 4, "maxParallelRequests": 5}},
        "at most 3 connections, at most 4 requests that wait, at most 5 requests at once",
    ),
    ({"circuitBreaker": {"maxParallelRetries": 6}}, "at most 6 retries at once"),
    ({"circuitBreaker": {"perEndpoint": {"maxConnections": 7}}}, "at most 7 connections to each instance"),
    ({"healthCheck": {"panicThreshold": 30}}, "all are called with fewer than 30 % of them well"),
    (
        {"healthCheck": {"passive": {"consecutive5XxErrors": 2, "consecutiveGatewayErrors": 3}}},
        "left out for 30s to 300s: 2 times 5xx in a row or 3 times 502, 503 or 504 in a row; at most 10 % of them",
    ),
    (
        {"healthCheck": {"passive": {"successRateStdevFactor": 1900, "failurePercentageThreshold": 40}}},
        "success rate 1.9 deviations below the mean or 40 % failures",
    ),
    (
        {"tcpKeepalive": {"probes": 3, "idleTime": "60s", "interval": "5s"}},
        "TCP keep-alive (after 60 s, each 5 s, 3 probes)",
    ),
    ({"tcpKeepalive": {}}, "TCP keep-alive (as the kernel has it)"),
    ({"timeout": {"tcp": {"connectTimeout": "500ms"}}}, "connected within 500ms"),
    (
        {"timeout": {"http": {"connectionIdleTimeout": "90s", "maxConnectionDuration": "1h"}}},
        "connections closed after 90s without a request, replaced after 3600s",
    ),
    ({"circuitBreaker": {"maxRequestsPerConnection": 8}}, "replaced after 8 requests"),
)


@pytest.mark.parametrize(("spec", "expected"), POLICIES, ids=[text for _, text in POLICIES])
def test_a_cluster(spec: dict[str, object], expected: str) -> None:
    found = told("clusters", "outbound|orders.shop|80", traffic("p", "orders", **spec))
    assert expected in "; ".join(found.does)
    assert found.origin == ("Service shop/orders", "BackendTrafficPolicy shop/p")


def test_a_cluster_without_an_instance_says_why() -> None:
    found = told("clusters", "missing|ghost.shop|80", http_route("- backendRefs: [{name: ghost, port: 80}]"))
    assert "service ghost.shop does not exist" in found.does[0]
    assert found.origin == ("HTTPRoute shop/orders",)


def test_the_listener_of_a_gateway() -> None:
    """Each of its chains says for which name, and as whom."""
    one = next(one for one in EDGE_STATES if one.name == "gateway")
    mesh = mesh_of(one.values)
    found = described(modelled(compiled(one.workload, mesh).resources()), mesh, one.workload)
    does = "; ".join(next(one for one in found["listeners"] if one.name == "gateway|443").does)
    for host, chain in (("shop.example", "gateway|443|edge|shop"), ("*.example", "gateway|443|edge|others")):
        assert f"for {host}, takes TLS, as {chain}|0 to 3, reads HTTP, by routes {chain}" in does
    secret = next(one for one in found["secrets"] if one.name == "gateway|443|edge|shop|0")
    assert secret.does == ("own certificate and key",)
    assert secret.origin == ("Gateway shop/edge", "Gateway shop/rival", "files of this host")


HASHED = traffic("p", "orders", loadBalancer={"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}})


def tcp_route(to: str) -> Item:
    head = "kind: TCPRoute\nmetadata: {name: t}\nspec:\n  parentRefs: [{kind: Service, name: orders, port: 7}]\n"
    return written(f"{head}  rules: [{{backendRefs: [{{name: {to}, port: 7}}]}}]")[0]


TCP_ROUTE, TCP_ROUTE_AWAY = tcp_route("orders"), tcp_route("stock")
STOCK = service("stock", port("http", 80), port("raw", 7, "tcp"))
AWAY = http_route("- backendRefs: [{name: stock, port: 80}]")
TIMED, TIMED_AWAY = (traffic("p", to, timeout={"tcp": {"idleTimeout": "60s"}}) for to in ("orders", "stock"))
HASHED_AWAY = traffic("p", "stock", loadBalancer={"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}})
TWO = http_route("- backendRefs: [{name: orders, port: 80, matchLabels: {version: '2'}}]", name="two")
SPANS = telemetry("spans", {"tracing": {"provider": {"address": "127.0.0.1:4317"}}})
OWN, SUBSET = "Service shop/web, dependencies", "outbound|orders.shop|80|version=2"

OF_WEB = {
    "a bound port": (LISTENER, "outbound|bound|9101", (TWO,), [OWN, "Service shop/orders"]),
    "its routes": (ROUTES, "outbound|bound|9101", (TWO,), [OWN, "Service shop/orders", "HTTPRoute shop/two"]),
    "routes that hash": (
        ROUTES, "outbound|bound|9101", (HASHED,), [OWN, "Service shop/orders", "BackendTrafficPolicy shop/p"],
    ),
    "of TCP": (LISTENER, "outbound|bound|9102", (TCP_ROUTE,), [OWN, "Service shop/orders"]),
    "its connections": (
        EXTENSION, "outbound|bound|9102", (TCP_ROUTE, HASHED),
        [OWN, "Service shop/orders", "TCPRoute shop/t", "BackendTrafficPolicy shop/p"],
    ),
    "connections with times": (
        EXTENSION, "outbound|bound|9102", (TCP_ROUTE, TIMED),
        [OWN, "Service shop/orders", "TCPRoute shop/t", "BackendTrafficPolicy shop/p"],
    ),
    "connections that go elsewhere": (
        EXTENSION, "outbound|bound|9102", (TCP_ROUTE_AWAY, STOCK, TIMED_AWAY),
        [OWN, "Service shop/orders", "TCPRoute shop/t", "BackendTrafficPolicy shop/p"],
    ),
    "times of who gets none of them": (
        EXTENSION, "outbound|bound|9102", (TCP_ROUTE_AWAY, STOCK, TIMED),
        [OWN, "Service shop/orders", "TCPRoute shop/t"],
    ),
    "routes that hash elsewhere": (
        ROUTES, "outbound|bound|9101", (AWAY, STOCK, HASHED_AWAY),
        [OWN, "Service shop/orders", "HTTPRoute shop/orders", "BackendTrafficPolicy shop/p"],
    ),
    "routes without times": (ROUTES, "outbound|bound|9101", (TIMED,), [OWN, "Service shop/orders"]),
    "spans": (LISTENER, "outbound|bound|9101", (SPANS,), [OWN, "Service shop/orders", "Telemetry shop/spans"]),
    "a virtual address": (LISTENER, "outbound|virtual|orders.shop|80", (TWO,), ["Service shop/orders"]),
    "its own routes": (
        ROUTES, "outbound|virtual|orders.shop|80", (TWO,), ["Service shop/orders", "HTTPRoute shop/two"],
    ),
    "a subset": (CLUSTER, SUBSET, (TWO,), ["Service shop/orders", "HTTPRoute shop/two"]),
    "its instances": (ENDPOINTS, SUBSET, (TWO,), ["Service shop/orders", "HTTPRoute shop/two"]),
    "not a subset": (CLUSTER, "outbound|orders.shop|80", (TWO,), ["Service shop/orders"]),
}  # fmt: skip

READS = policy("reads", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",))]))
OF_ORDERS = {
    "a port": (LISTENER, "inbound|http", (READS,), ["Service shop/orders"]),
    "its rules": (ROUTES, "inbound|http", (READS,), ["Service shop/orders", "AuthorizationPolicy shop/reads"]),
    "a port that holds its rules": (
        LISTENER, "inbound|bytes", (READS,), ["Service shop/orders", "AuthorizationPolicy shop/reads"],
    ),
    "what it reads HTTP for": (LISTENER, "inbound|bytes", (SPANS,), ["Service shop/orders", "Telemetry shop/spans"]),
}  # fmt: skip
CASES = [
    *((f"web: {name}", WEB, *case) for name, case in OF_WEB.items()),
    *((f"orders: {name}", ORDERS, *case) for name, case in OF_ORDERS.items()),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_origins(case: tuple[object, ...]) -> None:
    _, of, type_url, name, items, expected = case
    mesh = mesh_of(state("now", "", *MESH, *items).values)  # type: ignore[misc]  # a table of mixed columns
    assert origins(mesh, workload(of), ResourceKey(type_url, name)) == expected  # type: ignore[arg-type]  # the same
