"""Where requests come into the mesh and leave it: web-1 is a gateway, and calls servers outside.

client ──▶ gateway of web-1: HTTP, HTTPS ──▶ api          web-1 ──▶ partner, plain: the app of reports-1
                               ▲                                ──▶ secure, by TLS ──┐
                               └─────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import grpc
import httpx
import msgspec
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from schemas.objects import AnyObject, ExternalService, Metadata
from schemas.objects.external import ExternalServiceSpec
from tests.e2e.app import GREETING, GRPC, HTTP, HTTP2, TCP
from tests.e2e.lasting import UPGRADE, Echo, over
from tests.e2e.load import KeptHttp2, Once, ask_grpc, ask_http, ask_tcp
from tests.e2e.mesh import NO_TLS, E2eMesh
from tests.states.build import need_external
from tests.states.routes import written
from tests.support.pki import Authority

ROOT = Authority.create("a public root")
HOST = "edge.example"
EDGE_HTTP, EDGE_HTTPS = 18085, 18445
PARTNER_HTTP, PARTNER_TCP, BOUND_PARTNER = 10080, 17000, 9210
FILES = ("one", "two")
"""Folders of certificates for `HOST`."""

NEEDS = (
    need_external("partner"),
    need_external("partner", port=PARTNER_TCP, bind=BOUND_PARTNER),
    need_external("secure"),
)
"""Of web."""


def put_files(mesh: E2eMesh) -> bytes:
    """New ones, each file in place of the one before; DER of what is shown at rest."""
    leaves = {name: ROOT.issue(dns=[HOST]) for name in FILES}
    for name, leaf in leaves.items():
        directory = mesh.certificates / "edge" / name
        directory.mkdir(parents=True, exist_ok=True)
        for file, content in (("fullchain.pem", leaf.chain_pem), ("privkey.pem", leaf.key_pem)):
            new = directory / f"{file}.new"
            new.write_bytes(content)
            new.rename(directory / file)
    return leaves[FILES[0]].certificate.public_bytes(Encoding.DER)


async def presented(mesh: E2eMesh) -> bytes:
    """What a client gets, DER."""
    stream = await trio.open_tcp_stream(mesh.instances["web-1"].local, EDGE_HTTPS)
    async with trio.SSLStream(stream, _context(), server_hostname=HOST, https_compatible=True) as secure:
        await secure.do_handshake()
        return bytes(secure.getpeercert(binary_form=True))


def files(name: str) -> str:
    return f"{{certificate: edge/{name}/fullchain.pem, key: edge/{name}/privkey.pem}}"


def https(host: str | None = HOST, *names: str, listener: str = "https") -> str:
    refs = ", ".join(files(one) for one in names or FILES[:1])
    hostname = f"hostname: '{host}', " if host is not None else ""
    return f"name: {listener}, port: {EDGE_HTTPS}, protocol: HTTPS, {hostname}tls: {{certificateRefs: [{refs}]}}"


def http(more: str = "") -> str:
    return f"name: http, port: {EDGE_HTTP}, protocol: HTTP{more}"


def gateway(*listeners: str, hops: int = 0) -> AnyObject:
    listed = ", ".join(f"{{{one}}}" for one in listeners or (http(), https()))
    spec = f"{{service: web, listeners: [{listed}], xffTrustedHops: {hops}}}"
    return _one(f"kind: Gateway\nmetadata: {{name: edge}}\nspec: {spec}")


_PARENT = "parentRefs: [{kind: Gateway, name: edge}]"


def http_route(more: str = "", backends: str = f"{{name: api, port: {HTTP}}}") -> AnyObject:
    rule = f"{{backendRefs: [{backends}]{more}}}"
    return _one(f"kind: HTTPRoute\nmetadata: {{name: edge}}\nspec: {{{_PARENT}, rules: [{rule}]}}")


def grpc_route(more: str = "") -> AnyObject:
    rule = f"{{matches: [{{method: {{service: e2e.Echo}}}}], backendRefs: [{{name: api, port: {GRPC}}}]{more}}}"
    return _one(f"kind: GRPCRoute\nmetadata: {{name: edge}}\nspec: {{{_PARENT}, rules: [{rule}]}}")


def partner(
    mesh: E2eMesh, *, at: Sequence[str] = ("reports-1",), plain: Mapping[str, Any] | None = None, **spec: object
) -> ExternalService:
    """at: the instances whose apps it is. plain: fields of its HTTP port."""
    ports = [
        {"name": "http", "port": PARTNER_HTTP, "targetPort": HTTP, "protocol": "http", **(plain or {})},
        {"name": "tcp", "port": PARTNER_TCP, "targetPort": TCP, "protocol": "tcp"},
    ]
    endpoints = [{"address": mesh.instances[one].local} for one in at]
    return _external("partner", {"ports": ports, "endpoints": endpoints, "tls": {"mode": "DISABLE"}, **spec})


H2C = {"targetPort": HTTP2, "protocol": "http2"}


def secure(mesh: E2eMesh, *, target: int = EDGE_HTTPS, tls: Mapping[str, Any] | None = None) -> ExternalService:
    by = {"mode": "SIMPLE", "caCertificates": ROOT.pem.decode()} if tls is None else tls
    at = [{"address": mesh.instances["web-1"].local}]
    ports = [{"name": "http", "port": 80, "targetPort": target, "protocol": "http"}]
    return _external("secure", {"hosts": [HOST], "ports": ports, "endpoints": at, "tls": dict(by)})


def edges(mesh: E2eMesh) -> tuple[AnyObject, ...]:
    """Web needs `NEEDS` beside them."""
    return (gateway(), http_route(), grpc_route(), partner(mesh), secure(mesh))


def _external(name: str, spec: Mapping[str, object]) -> ExternalService:
    metadata = Metadata(name=name, namespace="shop")
    return ExternalService(api_version="mesh/v1", metadata=metadata, spec=msgspec.convert(spec, ExternalServiceSpec))


def _one(text: str) -> AnyObject:
    (made,) = written(text)
    return made


# -- requests


def _context() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ROOT.pem.decode())


@asynccontextmanager
async def ways(mesh: E2eMesh) -> AsyncIterator[dict[str, Once]]:
    """Connections to the gateway, and those through the proxy port of web-1, are kept."""
    at = mesh.instances["web-1"].local
    credentials = grpc.ssl_channel_credentials(ROOT.pem)
    options = [("grpc.ssl_target_name_override", HOST), ("grpc.enable_http_proxy", 0)]
    told: dict[str, Any] = {"headers": {"Host": HOST}, "trust_env": False, "timeout": 10}
    contexts = {http2: _context() for http2 in (False, True)}  # one each: making one takes 30 ms

    def https(*, http2: bool) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://{at}:{EDGE_HTTPS}", verify=contexts[http2], http1=not http2, http2=http2, **told
        )

    closing = itertools.cycle(({}, {}, {"Connection": "close"}))  # so that new connections come all the time
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{at}:{EDGE_HTTP}", verify=NO_TLS, **told)
        )
        secure = await stack.enter_async_context(https(http2=False))
        two = KeptHttp2(partial(https, http2=True), stack)
        proxied = await stack.enter_async_context(mesh.http("web-1"))
        channel = stack.enter_context(grpc.secure_channel(f"{at}:{EDGE_HTTPS}", credentials, options))
        named = {"sni_hostname": HOST}
        yield {
            "gateway, HTTP": lambda: ask_http(plain, "/"),
            "gateway, HTTPS, HTTP/1.1": lambda: ask_http(secure, "/", extensions=named, headers=next(closing)),
            "gateway, HTTPS, HTTP/2": lambda: two.ask(extensions=named),
            "gateway, gRPC": lambda: ask_grpc(channel),
            "outside, plain": lambda: ask_http(proxied, f"http://partner.shop:{PARTNER_HTTP}/"),
            "outside, TLS": lambda: ask_http(proxied, f"http://{HOST}/"),
            "outside, TCP": lambda: ask_tcp(at, BOUND_PARTNER),
        }


# -- what stays open


@asynccontextmanager
async def _web_socket(mesh: E2eMesh, port: int, host: str, context: ssl.SSLContext | None) -> AsyncIterator[Echo]:
    tcp = await trio.open_tcp_stream(mesh.instances["web-1"].local, port)
    stream: trio.abc.Stream = tcp
    if context is not None:
        stream = trio.SSLStream(tcp, context, server_hostname=host, https_compatible=True)
    async with stream:
        await stream.send_all(f"GET /socket HTTP/1.1\r\nHost: {host}\r\n{UPGRADE}".encode())
        with trio.fail_after(10):
            said = await stream.receive_some()
        assert said.startswith(b"HTTP/1.1 101 "), said
        yield partial(over, stream)


@asynccontextmanager
async def _partners_tcp(mesh: E2eMesh) -> AsyncIterator[Echo]:
    async with await trio.open_tcp_stream(mesh.instances["web-1"].local, BOUND_PARTNER) as stream:
        assert (await stream.receive_some()).startswith(GREETING.encode())
        yield partial(over, stream)


async def opened(mesh: E2eMesh, stack: AsyncExitStack) -> dict[str, Echo]:
    """By what it goes through, until the stack is left."""
    kinds: Sequence[tuple[str, Any]] = (
        ("a WebSocket by HTTP at the gateway", _web_socket(mesh, EDGE_HTTP, HOST, None)),
        ("a WebSocket by HTTPS at the gateway", _web_socket(mesh, EDGE_HTTPS, HOST, _context())),
        ("a WebSocket to the outside", _web_socket(mesh, 15001, f"partner.shop:{PARTNER_HTTP}", None)),
        ("a WebSocket to the outside by TLS", _web_socket(mesh, 15001, HOST, None)),
        ("a TCP connection to the outside", _partners_tcp(mesh)),
    )
    return {name: await stack.enter_async_context(kind) for name, kind in kinds}


# -- changes


def histories(mesh: E2eMesh) -> dict[str, tuple[AnyObject, ...]]:
    """Of what the load goes through. Nothing of them forbids any of it."""
    more = ", filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}]}}]"
    both = f"{{name: api, port: {HTTP}, weight: 1}}, {{name: api, port: {HTTP}, weight: 3}}"
    all_routes = ", allowedRoutes: {namespaces: {from: All}, kinds: [{kind: HTTPRoute}, {kind: GRPCRoute}]}"
    roots = ROOT.pem.decode() + Authority.create("another root").pem.decode()
    by_roots = {"mode": "SIMPLE", "caCertificates": roots, "sni": HOST, "subjectAltNames": ["else.example", HOST]}
    shown = {"certificate": "edge/one/fullchain.pem", "key": "edge/one/privkey.pem"}
    return {
        "Gateway, in use": (
            gateway(http(f", hostname: {HOST}"), https("*.example")),
            gateway(http(), https(None)),
            gateway(http(), https(None), https("other.example", listener="other")),
            gateway(http(), https(HOST, "two"), https("*.example", listener="other")),
            gateway(http(), https(HOST, "one", "two")),
            gateway(http(", tls: {httpsRedirect: true}" + all_routes), https() + all_routes),
        ),
        "HTTPRoute, of the gateway": (
            http_route(more),
            http_route(", timeouts: {request: 9s}, retry: {attempts: 2, codes: [503]}", both),
        ),
        "GRPCRoute, of the gateway": (grpc_route(more), grpc_route(", timeouts: {request: 9s}")),
        "ExternalService, plain": (
            partner(mesh, at=("reports-1", "api-1")),
            partner(mesh, plain=H2C),
            partner(mesh, at=("api-1",)),
            partner(mesh, hosts=["partner.example"], plain={"tls": {"mode": "DISABLE"}}),
        ),
        "ExternalService, with TLS": (
            secure(mesh, tls=by_roots),
            secure(mesh, tls=by_roots | {"mode": "MUTUAL"}),
            secure(mesh, tls=by_roots | {"mode": "MUTUAL", "clientCertificate": shown}),
            secure(mesh, tls={"mode": "DISABLE"}, target=EDGE_HTTP),
        ),
        "HTTPRoute, to the outside": tuple(
            _one(
                f"kind: HTTPRoute\nmetadata: {{name: outside}}\nspec: {{parentRefs: [{_PARTNER}], rules: "
                f"[{{backendRefs: [{_PARTNER[:-1]}, port: {PARTNER_HTTP}}}]{rest}}}]}}"
            )
            for rest in (more, ", timeouts: {request: 9s}")
        ),
        "TCPRoute, to the outside": (
            _one(
                f"kind: TCPRoute\nmetadata: {{name: outside}}\nspec: {{parentRefs: [{_PARTNER}], rules: "
                f"[{{backendRefs: [{_PARTNER[:-1]}, port: {PARTNER_TCP}}}]}}]}}"
            ),
        ),
    }


_PARTNER = "{kind: ExternalService, name: partner}"
