"""Any object may change while requests of every protocol are under way, between services, in by a gateway, and to
servers outside: none fails, and nothing that is open is cut.

At the caller no listener is replaced: what is open in such a one would be cut only some seconds later. What changes at
the called side is a table: tests/dataplane/compile/test_listeners_stay.py.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from urllib.parse import quote

import msgspec
import trio

from schemas.names import ObjectRef
from schemas.objects import KINDS, AnyObject, Mesh, Service
from schemas.objects.mesh import OutboundTrafficPolicy
from tests.e2e import edges
from tests.e2e.app import GREETING, TCP
from tests.e2e.lasting import API_PASSES, PASSED, bound_connection, by_proxy, grpc_chat, tunnel, web_socket
from tests.e2e.load import Load, open_loop
from tests.e2e.mesh import API_ID, WEB_ID, E2eMesh
from tests.e2e.test_cut import ended
from tests.states.build import authentication, federates, peers, rate_limit, telemetry, traffic
from tests.states.routes import written
from tests.support.tokens import NOBODYS

_PORTS = """
    ports:
    - {name: http, port: 8080, protocol: http}
    - {name: http2, port: 8081, protocol: http2}
    - {name: grpc, port: 9000, protocol: grpc}
    - {name: tcp, port: 7000, protocol: tcp}
    - {name: passed, port: 8082, targetPort: 8080, protocol: http, identityHeader: false}
    %(more)s
"""


def one(text: str) -> AnyObject:
    (made,) = written(text)
    return made


def api(**spec: str) -> AnyObject:
    more = {"more": "", "rest": ""} | spec
    return one(f"kind: Service\nmetadata: {{name: api}}\nspec:{_PORTS % more}    {more['rest']}")


def web(*bound: int) -> AnyObject:
    """Bound ports come and go beside those that are in use."""
    needs = {9201: 8081, 9202: 9000, 9203: 7000} | dict.fromkeys(bound, 8080)
    entries = ", ".join(f"{{name: api, port: {port}, bindPort: {bind}}}" for bind, port in needs.items())
    ports = "[{name: http, port: 8080, protocol: http}]"
    made = one(f"kind: Service\nmetadata: {{name: web}}\nspec: {{ports: {ports}, dependencies: [{entries}]}}")
    assert isinstance(made, Service)
    needs_all = (*(made.spec.dependencies or ()), *edges.NEEDS)
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, dependencies=needs_all))


def lasting(made: Mesh, ttl: int) -> Mesh:
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, svid_ttl_seconds=ttl))


def passing_on(made: Mesh) -> Mesh:
    policy = OutboundTrafficPolicy(mode="ALLOW_ANY")
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, outbound_traffic_policy=policy))


def gateway(port: int) -> AnyObject:
    listeners = f"[{{name: http, port: {port}, protocol: HTTP}}]"
    return one(f"kind: Gateway\nmetadata: {{name: changes}}\nspec: {{service: web, listeners: {listeners}}}")


def http_route(rule: str) -> AnyObject:
    parents = "parentRefs: [{kind: Service, name: api, port: 8080}, {kind: Service, name: api, port: 8081}]"
    return one(f"kind: HTTPRoute\nmetadata: {{name: changes}}\nspec:\n  {parents}\n  rules: [{rule}]")


def grpc_route(rule: str) -> AnyObject:
    parents = "parentRefs: [{kind: Service, name: api, port: 9000}]"
    return one(f"kind: GRPCRoute\nmetadata: {{name: changes}}\nspec:\n  {parents}\n  rules: [{rule}]")


def tcp_route(weights: str) -> AnyObject:
    parents = "parentRefs: [{kind: Service, name: api, port: 7000}]"
    return one(f"kind: TCPRoute\nmetadata: {{name: changes}}\nspec:\n  {parents}\n  rules: [{weights}]")


def authorization(spec: str) -> AnyObject:
    return one(f"kind: AuthorizationPolicy\nmetadata: {{name: changes}}\nspec: {{targetRefs: [{{name: api}}], {spec}}}")


def external(address: str) -> AnyObject:
    return one(
        "kind: ExternalService\nmetadata: {name: changes}\nspec: {ports: [{name: http, port: 80, protocol: http}], "
        f"endpoints: [{{address: {address}}}], tls: {{mode: MESH, spiffeId: 'spiffe://other.example/ns/a/svc/b'}}}}"
    )


_BACKENDS = "{name: api, port: %d}"
HTTP_BACKEND, GRPC_BACKEND, TCP_BACKEND = _BACKENDS % 8080, _BACKENDS % 9000, _BACKENDS % 7000
SPLIT = "{name: api, port: 8080, weight: 1}, {name: api, port: 8080, weight: 3}"

# The first ones are those whose objects had to do with the listeners of the called side: what is open would be cut some
# seconds later, while the others change.
HISTORIES: dict[str, tuple[AnyObject, ...]] = {
    "TrustBundle": tuple(
        federates("other", "other.example", bundle=f'{{"keys": [], "spiffe_sequence": {number}}}') for number in (1, 2)
    ),
    "AuthorizationPolicy": (
        authorization(f"rules: [{{from: [{{identities: ['{WEB_ID}']}}], to: [{{methods: [GET, POST]}}]}}]"),
        authorization(
            f"action: DENY, rules: [{{from: [{{identities: ['{API_ID}']}}], to: [{{headers: [{{name: a}}]}}]}}]"
        ),
        authorization("action: DENY, rules: [{to: [{paths: ['/nothing/*'], ports: [8080]}]}]"),
    ),
    "PeerAuthentication": (
        peers("changes", "PERMISSIVE", ["api"]),
        peers("changes", "STRICT", ["api"], p8080="PERMISSIVE"),
    ),
    "Gateway": (gateway(18083), gateway(18084)),
    "RequestAuthentication": tuple(
        authentication("changes", {"issuer": f"https://{name}.example", **keys}, on=["api"])
        for name, keys in (
            ("one", {"jwks": NOBODYS}),
            ("two", {"jwks": NOBODYS}),
            ("two", {"jwksUri": "https://127.0.0.1:1/keys"}),  # which nobody ever has
        )
    ),
    "Service, called": (
        api(more="- {name: extra, port: 8089, targetPort: 8080, protocol: http}"),
        api(rest="dependencies: [{name: '*'}]"),
    ),
    "Service, calling": (web(9204), web(9204, 9205)),
    "HTTPRoute": (
        http_route(f"{{backendRefs: [{HTTP_BACKEND}]}}"),
        http_route(f"{{backendRefs: [{SPLIT}], timeouts: {{request: 9s}}, retry: {{attempts: 2, codes: [503]}}}}"),
        http_route(
            "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}]}}], "
            f"backendRefs: [{HTTP_BACKEND}]}}"
        ),
    ),
    "GRPCRoute": (
        grpc_route(f"{{matches: [{{method: {{service: e2e.Echo}}}}], backendRefs: [{GRPC_BACKEND}]}}"),
        grpc_route(f"{{backendRefs: [{GRPC_BACKEND}], timeouts: {{request: 9s}}}}"),
    ),
    "TCPRoute": (
        tcp_route(f"{{backendRefs: [{TCP_BACKEND}]}}"),
        tcp_route("{backendRefs: [{name: api, port: 7000, weight: 1}, {name: api, port: 7000, weight: 2}]}"),
    ),
    "BackendTrafficPolicy": (
        traffic("changes", "api", loadBalancer={"type": "RoundRobin"}),
        traffic("changes", "api", circuitBreaker={"maxConnections": 500, "maxParallelRequests": 500}),
        traffic("changes", "api", healthCheck={"passive": {"consecutive5XxErrors": 9}}),
        traffic("changes", "api", loadBalancer={"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}),
    ),
    "RateLimitPolicy": (
        rate_limit("changes", {"limit": {"requests": 10_000, "unit": "Second"}}, on=["api"]),
        rate_limit(
            "changes",
            {"limit": {"requests": 20_000, "unit": "Second"}, "per": "All"},
            {"limit": {"requests": 1, "unit": "Day"}, "matches": [{"path": {"value": "/nothing"}}]},
            on=["api"],
        ),
    ),
    "Telemetry": (
        telemetry("changes", {"accessLogging": [{}]}),
        telemetry("changes", {"accessLogging": [{"disabled": True}]}, on=["api"]),
    ),
    "ExternalService": (external("192.0.2.1"), external("192.0.2.2")),
}


def at_rest(mesh: E2eMesh) -> tuple[AnyObject, ...]:
    """While the load goes on."""
    return (API_PASSES, web(), *edges.edges(mesh))


class Changes:
    """The load goes on while objects change."""

    def __init__(self, mesh: E2eMesh, load: Load) -> None:
        self._mesh, self._load = mesh, load
        self._at_rest = {one.ref: one for one in (mesh.ranges, *at_rest(mesh))}
        self._other: ObjectRef | None = None
        """What is not as it was at rest."""

    async def take(self, what: str, item: AnyObject | None = None) -> None:
        """`item` is in force, and whatever changed before is as at rest."""
        await self._apply(item)
        try:
            await self._load.more(2)
        finally:
            assert not self._load.failures, f"after {what}: {self._load.failures}"

    async def end(self) -> None:
        """Whatever has failed."""
        with trio.CancelScope(shield=True):
            await self._apply(None)

    async def _apply(self, item: AnyObject | None) -> None:
        now = [item] if item is not None else []
        before = [self._other] if self._other is not None and self._other not in [one.ref for one in now] else []
        rest = [self._at_rest[one] for one in before if one in self._at_rest]
        gone = [one for one in before if one not in self._at_rest]
        if now or before:
            # By force: ports turn STRICT sooner than anybody can know who sends.
            await self._mesh.apply(*now, *rest, without=gone, force=True)
        self._other = item.ref if item is not None else None


_REPLACED = "listener_manager."


async def ended_by_envoy(mesh: E2eMesh, name: str) -> Counter[str]:
    """What Envoy has counted, there: listeners that were replaced by others of the same name, whole or in a filter
    chain, and, of each, connections that were asked to end since their filter chain goes."""
    query = rf"(^{_REPLACED}listener_(modified|in_place_updated)|\.downstream_cx_drain_close)$"
    answer = await mesh.admin(name).get(f"/stats?filter={quote(query)}")
    lines = (line.rsplit(": ", 1) for line in answer.body.decode().splitlines())
    return Counter({of: int(count) for of, count in lines})


async def nothing_ended(mesh: E2eMesh, name: str, before: Counter[str]) -> bool:
    """By Envoy. What it no longer counts of listeners that are gone from before says nothing."""
    return await ended_by_envoy(mesh, name) <= before


async def test_any_object_changes_under_load(mesh: E2eMesh) -> None:
    edges.put_files(mesh)
    async with (
        mesh.applied(*at_rest(mesh)),
        edges.ways(mesh) as beside,
        AsyncExitStack() as stack,
        open_loop(mesh, passed=PASSED, beside=beside) as load,
    ):
        opened = {kind: await stack.enter_async_context(way(mesh, "web-1")) for kind, way in OPEN.items()}
        opened |= await edges.opened(mesh, stack)
        changes, before = Changes(mesh, load), await ended_by_envoy(mesh, "web-1")
        histories = {**HISTORIES, **edges.histories(mesh)}
        histories["Mesh"] = (lasting(mesh.ranges, 1800), passing_on(mesh.ranges))
        renewed = edges.put_files(mesh)
        try:
            for name, history in histories.items():
                for number, item in enumerate(history):
                    await changes.take(f"version {number} of {name}", item)
                    if name == "Gateway, in use":  # which of its listeners takes what is another
                        now = await ended_by_envoy(mesh, "web-1")
                        before |= Counter({of: now[of] for of in now if of.startswith(_REPLACED)})
                    assert await nothing_ended(mesh, "web-1", before), f"{name} has a listener drained"
                for kind, echo in opened.items():
                    assert await echo(b"x") == b"x", f"{kind} was cut by {name}"
            await changes.take("all of it")
        finally:
            await changes.end()
        assert await edges.presented(mesh) == renewed


async def test_what_leads_outside_ends_when_that_is_forbidden_and_nothing_else(mesh: E2eMesh) -> None:
    """To an app itself, past its sidecar: nobody that the mesh knows."""
    before = await ended_by_envoy(mesh, "web-1")
    async with AsyncExitStack() as stack:
        stays = await stack.enter_async_context(tunnel(mesh, "web-1"))
        try:
            await mesh.apply(passing_on(mesh.ranges))
            there = f"{mesh.instances['api-1'].local}:{TCP}"
            head = f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n\r\n"
            goes = await stack.enter_async_context(by_proxy(mesh, "web-1", head, GREETING))
            assert await goes(b"open") == b"open"
        finally:
            await mesh.apply(mesh.ranges)
        await ended(goes, "a tunnel to the outside")
        assert await stays(b"open") == b"open"
    assert await nothing_ended(mesh, "web-1", before)


OPEN = {
    "tunnel": tunnel,
    "bound connection": bound_connection,
    "WebSocket": web_socket,
    "gRPC stream": grpc_chat,
}


def test_no_kind_is_left_out() -> None:
    assert {"Mesh", *(name.partition(",")[0] for name in HISTORIES)} == set(KINDS)
