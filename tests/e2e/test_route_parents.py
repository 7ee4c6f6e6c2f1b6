"""Whose requests a route takes, and where it sends them: host names, namespaces, TCP connections, who is not there."""

from __future__ import annotations

import time
from functools import partial

import grpc
import httpx
import msgspec
import trio

from schemas import codec
from schemas.keys import EndpointRef
from schemas.names import ServiceRef
from schemas.objects import AnyObject, Metadata
from schemas.objects.tcp_route import TCPRoute, TCPRouteSpec
from schemas.records import Endpoint
from tests.e2e.app import GREETING, GRPC, HTTP, HTTP2, PLAN, TCP
from tests.e2e.asking import CALLS, PORTS, Answer, Ask, Way, call, seen
from tests.e2e.lasting import tunnel
from tests.e2e.mesh import API, BOUND_GRPC, BOUND_HTTP2, BOUND_TCP, KEYS, NO_TLS, WEB, WEB_ID, E2eMesh, caller
from tests.e2e.rows import API as ITSELF
from tests.e2e.rows import EVERY, ONE, REPORTS, TWO, Rule, Table, all_hold, route
from tests.e2e.test_route_fields import fault, mirror
from tests.states.build import need, policy, port, rule, service
from tests.support.net import eventually

_BOUND_HTTP = 9204
_PROXY = 15001


async def ask_at(mesh: E2eMesh, way: Way, number: int, host: str, by: str = "web-1", plan: str = ":") -> Answer:
    """At a port of that instance's sidecar, with that Host."""
    address = mesh.instances[by].local
    began = time.monotonic()
    if way in CALLS:
        options = [("grpc.enable_http_proxy", 0), ("grpc.default_authority", host)]
        with grpc.insecure_channel(f"{address}:{number}", options) as channel:
            return await trio.to_thread.run_sync(partial(call, channel, way, "any", ((PLAN, plan),), began))
    is_http2 = way == "http2"
    async with httpx.AsyncClient(http1=not is_http2, http2=is_http2, trust_env=False, verify=NO_TLS) as client:
        got = await client.get(f"http://{address}:{number}/", headers={"Host": host, PLAN: plan}, timeout=30)
    seen = got.json() if got.status_code == 200 else {}
    return Answer(str(got.status_code), (), seen, got.text, time.monotonic() - began)


def tcp_route(*backends: Rule, name: str = "fields", namespace: str = "shop", parent: Rule | None = None) -> AnyObject:
    """parent: what the reference to its parent says otherwise than that it is api."""
    parent = {"kind": "Service", "name": "api", "namespace": "shop", **(parent or {})}
    refs = [{"port": TCP, **one} for one in backends]
    spec = msgspec.convert({"parentRefs": [parent], "rules": [{"name": "all", "backendRefs": refs}]}, TCPRouteSpec)
    return TCPRoute(api_version="mesh/v1", metadata=Metadata(name=name, namespace=namespace), spec=spec)


async def connected(mesh: E2eMesh, bound: int = BOUND_TCP) -> str:
    """Who greets at that port of web-1's; empty where it is closed."""
    async with await trio.open_tcp_stream(mesh.instances["web-1"].local, bound) as stream:
        try:
            return bytes(await stream.receive_some(100)).decode().strip().removeprefix(GREETING)
        except trio.BrokenResourceError:
            return ""


_HOSTS_OF = {HTTP: ("http", _BOUND_HTTP), HTTP2: ("http2", BOUND_HTTP2), GRPC: ("grpc", BOUND_GRPC)}
HOSTS: tuple[AnyObject, ...] = (
    service("web", *WEB.spec.ports, needs=[*(WEB.spec.dependencies or ()), need("api", port=HTTP, bind=_BOUND_HTTP)]),
    *(
        route(
            f"{name}-{section}",
            number,
            [{"backendRefs": [to]}],
            parentRefs=[{"kind": "Service", "name": "api", "sectionName": section}],
            hostnames=hosts,
        )
        for number, (section, _) in _HOSTS_OF.items()
        for name, to, hosts in (("one", ONE, ["one.test"]), ("two", TWO, ["*.two.test", "two.test"]))
    ),
)


async def test_host_names(mesh: E2eMesh) -> None:
    async with mesh.applied(*HOSTS):
        for way in EVERY:
            bound = _HOSTS_OF[PORTS[way]][1]
            found = {
                host: (await ask_at(mesh, way, bound, host)).instance
                for host in ("one.test", "two.test", "a.two.test", "other.test")
            }
            nobody = "UNIMPLEMENTED" if way in CALLS else "404"
            assert found == {"one.test": "api-1", "two.test": "api-2", "a.two.test": "api-2", "other.test": nobody}


_REFUSE = {HTTP: {"httpStatus": 418}, HTTP2: {"httpStatus": 418}, GRPC: {"grpcStatus": 8}}
CONSUMERS: tuple[AnyObject, ...] = (
    *(
        route(
            f"consumer-{number}",
            number,
            [{**fault(abort=status), "backendRefs": [{"name": "api", "namespace": "shop"}]}],
            namespace="back-office",
        )
        for number, status in _REFUSE.items()
    ),
    tcp_route({"name": "api", "namespace": "shop", "weight": 0}, namespace="back-office"),
)


async def test_a_route_of_another_namespace_is_for_the_callers_of_that_one(mesh: E2eMesh) -> None:
    async with mesh.applied(*CONSUMERS):
        for way in EVERY:
            ask = partial(ask_at, mesh, way, _PROXY, f"api.shop:{PORTS[way]}")
            assert (await ask("reports-1")).code == ("RESOURCE_EXHAUSTED" if way in CALLS else "418")
            assert (await ask("web-1")).code == ("OK" if way in CALLS else "200")
        assert (await connected(mesh)).startswith("api-")


ELSEWHERE = Table()


@ELSEWHERE.row(EVERY, {"backendRefs": [REPORTS]})
async def elsewhere(ask: Ask) -> None:
    assert (await ask()).instance == "reports-1"


@ELSEWHERE.row(EVERY, {"filters": [mirror(REPORTS)], "backendRefs": [ONE]})
async def mirrored_elsewhere(ask: Ask) -> None:
    plan = f"{ask.where}-{ask.way}"
    assert (await ask(plan=f"{plan}:")).instance == "api-1"
    await ask.arrive(plan, {"api-1": 1, "reports-1": 1})


TO_ANOTHER_NAMESPACE: tuple[AnyObject, ...] = (
    service("reports.back-office", *API.spec.ports, needs=[need("*")]),
    policy("web-may.back-office", "ALLOW", rule(caller(WEB_ID)), on=["reports"]),
    tcp_route(REPORTS, parent={"sectionName": "tcp"}),
    *ELSEWHERE.routes(),
)


async def test_a_backend_of_another_namespace(mesh: E2eMesh) -> None:
    async with mesh.applied(*TO_ANOTHER_NAMESPACE):
        await all_hold(mesh, ELSEWHERE)
        assert await connected(mesh) == "reports-1"


TCP_ROUTES = (
    tcp_route({**ONE, "weight": 0}, {**TWO, "weight": 3}, parent={"port": TCP}),
    tcp_route({**ONE, "weight": 0}),
)


async def test_connections(mesh: E2eMesh) -> None:
    """Also those that are open: they go on."""
    some, none = TCP_ROUTES
    async with mesh.applied(some):
        assert {await connected(mesh) for _ in range(6)} == {"api-2"}
        async with tunnel(mesh, "web-1") as echo:
            await mesh.apply(none)
            assert await connected(mesh) == ""
            assert await echo(b"x") == b"x"


UNREACHABLE = Table()


@UNREACHABLE.row(EVERY, {"retry": {"attempts": 0}, "backendRefs": [ONE]})
async def given_up(ask: Ask) -> None:
    """Before it has failed so often that it is left out."""

    async def fails() -> bool:
        return (await ask()).code == ("UNAVAILABLE" if ask.is_grpc else "503")

    await eventually("a request has met the one where nobody listens", fails)


_TRIED = {"retry": {"triggers": ["connect-failure", "reset-before-request"], "attempts": 2, "backoff": "1ms"}}


@UNREACHABLE.row(EVERY, {**_TRIED, "backendRefs": [ONE]})
async def tried_elsewhere(ask: Ask) -> None:
    assert await ask.served(6) == {"api-1": 6}


async def test_who_can_not_be_reached(mesh: E2eMesh) -> None:
    """An instance where nobody listens, with the label of api-1."""
    ports = {one.name: one.port for one in API.spec.ports}
    nowhere = Endpoint(address=f"127.{mesh.local.block}.250.2", ports=ports, labels={"instance": "api-1"})
    key = KEYS.endpoint(EndpointRef(ServiceRef("shop", "api"), "nowhere"))
    async with mesh.applied(*UNREACHABLE.routes()), mesh.put_by_hand(key, codec.encode(nowhere)):
        await all_hold(mesh, UNREACHABLE)


_REFUSING = {"http": 8083, "grpc": 8084}
# The app's own answers to streams are the caller's sidecar's to judge where the app's passes bytes on.
REFUSING: tuple[AnyObject, ...] = (
    service(
        "api",
        *API.spec.ports,
        *(
            port(f"{name}-passed", number, "http2", target=HTTP2, identity_header=False)
            for name, number in _REFUSING.items()
        ),
    ),
    *(
        route(
            f"refusing-{name}",
            number,
            [{"retry": {"triggers": ["refused-stream"], "attempts": 3}, "backendRefs": [ITSELF]}],
            is_grpc=name == "grpc",
        )
        for name, number in _REFUSING.items()
    ),
)


async def test_a_stream_that_is_refused(mesh: E2eMesh) -> None:
    async with mesh.applied(*REFUSING):
        for way in EVERY:
            plan = f"refused-{way}"
            number = _REFUSING["grpc" if way in CALLS else "http"]
            await ask_at(mesh, way, _PROXY, f"api.shop:{number}", plan=f"{plan}:refuse,refuse")
            assert sum((await seen(mesh, plan)).values()) == 3
