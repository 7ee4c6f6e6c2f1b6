"""Calls to what is outside of the mesh, through a real Envoy to real servers."""

from __future__ import annotations

import datetime
import socket
import ssl
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import grpc
import pytest

from dataplane.compile.workload import KeyPair
from routing.headers import UNSERVED
from schemas.objects.common import CertificateFiles
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import logged, wait_until
from tests.dataplane.compile.outside import Outside, Outsider, grpc_outsider, outside
from tests.dataplane.compile.scrapes import counts
from tests.dataplane.compile.scrapes import number as counted
from tests.states.build import Item, identity, need, need_external, port, service, telemetry
from tests.states.routes import http_route, written
from tests.support.pki import Authority, Leaf

SYSTEM, PRIVATE = Authority.create("everybody's root"), Authority.create("a partner's root")
HOST = "api.example.com"
HTTP_BOUND, TCP_BOUND, GRPC_BOUND = 9201, 9202, 9203
REFUSED = "no ExternalService has this host, and the Mesh's outboundTrafficPolicy refuses all others\n"


@pytest.fixture(scope="module")
def web(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Outside]:
    envoy = envoys("web")
    envoy.stop()
    envoy.drain_seconds = 1
    envoy.start()
    with outside(envoy, own_address, SYSTEM.pem) as one:
        yield one


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def external(
    server: Outsider | int, tls: str, *, hosts: str = HOST, protocol: str = "http", more: str = "", name: str = "api"
) -> Item:
    """At ``localhost``, which is a name that Envoy resolves; port 80 is the server's HTTP port, 7 its other one."""
    if isinstance(server, Outsider):
        ports = f"""
        - {{name: web, port: 80, protocol: {protocol}, targetPort: {server.http}}}
        - {{name: raw, port: 7, protocol: tcp, targetPort: {server.tcp}}}"""
    else:
        ports = f"""
        - {{name: web, port: 80, protocol: {protocol}, targetPort: {server}}}"""
    text = f"""
        kind: ExternalService
        metadata: {{name: {name}}}
        spec:
          hosts: [{hosts}]
          ports: {textwrap.indent(textwrap.dedent(ports), "          ")}
          endpoints: [{{address: localhost}}]
          tls: {tls}
          {more}
        """
    return written(text)[0]


CALLER = service("web", port("http", 80), needs=[need_external("api")])


def pem(authority: Authority) -> str:
    return '"' + authority.pem.decode().replace("\n", "\\n") + '"'


def test_tls_begins_at_the_sidecar(web: Outside, stack: ExitStack) -> None:
    server = Outsider("api", stack, SYSTEM.issue(dns=[HOST]))
    web.put(CALLER, external(server, "{mode: SIMPLE}"))
    forged = {"x-forwarded-client-cert": "URI=spiffe://mesh.test/ns/shop/svc/admin"}
    assert web.get(HOST, forged) == (200, "api")
    assert web.get(f"{HOST}:80") == (200, "api")
    assert web.get("api.shop.mesh:80") == (200, "api")
    assert web.get("api") == (200, "api")
    assert set(server.asked_for) == {HOST}
    assert set(server.versions) == {"TLSv1.3"}
    hosts = [one["host"] for one in server.requests]
    assert hosts[:2] == [HOST, f"{HOST}:80"], "what the app has written"
    assert set(hosts[2:]) == {f"{HOST}:{server.http}"}, "a name of the mesh says nothing to a server outside"
    assert not [one for one in server.requests if "x-forwarded-client-cert" in one]


def _leaf(authority: Authority, name: str = HOST, **how: object) -> Leaf:
    return authority.issue(dns=[name], **how)  # type: ignore[arg-type]


BY_NAME = f"{{mode: SIMPLE, sni: {HOST}}}"
BY_PRIVATE = f"{{mode: SIMPLE, sni: {HOST}, caCertificates: {pem(PRIVATE)}}}"
SERVERS: dict[str, tuple[Leaf, str, bool]] = {
    "of everybody's authorities": (_leaf(SYSTEM), BY_NAME, True),
    "with a wildcard": (_leaf(SYSTEM, "*.example.com"), BY_NAME, True),
    "of an intermediate": (_leaf(SYSTEM.intermediate()), BY_NAME, True),
    "by the name that it is found by": (_leaf(SYSTEM, "localhost"), "{mode: SIMPLE}", True),
    "by other names": (_leaf(SYSTEM, "b.test"), "{mode: SIMPLE, subjectAltNames: [a.test, b.test]}", True),
    "by its address": (SYSTEM.issue(ip=["127.0.0.1"]), "{mode: SIMPLE, subjectAltNames: [127.0.0.1]}", True),
    "of the given authority": (_leaf(PRIVATE), BY_PRIVATE, True),
    "another name": (_leaf(SYSTEM, "other.example.com"), BY_NAME, False),
    "a wildcard for another depth": (_leaf(SYSTEM, "*.com"), BY_NAME, False),
    "a name only in the subject": (SYSTEM.issue(HOST), BY_NAME, False),
    "an unknown authority": (_leaf(PRIVATE), BY_NAME, False),
    "not of the given authority": (_leaf(SYSTEM), BY_PRIVATE, False),
    "expired": (_leaf(SYSTEM, lifetime=datetime.timedelta(minutes=-1)), BY_NAME, False),
    "for clients only": (_leaf(SYSTEM, server=False), BY_NAME, False),
}


def test_a_server_is_verified(web: Outside, stack: ExitStack) -> None:
    """All at once: each is a service of its own, by HTTP and by TCP."""
    servers = {what: Outsider(what, stack, leaf) for what, (leaf, _, _) in SERVERS.items()}
    items: list[Item] = []
    needs = []
    for number, (what, (_, tls, _)) in enumerate(SERVERS.items()):
        items.append(external(servers[what], tls, name=f"e{number}", hosts=""))
        needs += [need_external(f"e{number}"), need_external(f"e{number}", port=7, bind=9300 + number)]
    web.put(service("web", port("http", 80), needs=needs), *items)
    for number, (what, (_, tls, good)) in enumerate(SERVERS.items()):
        status, text = web.get(f"e{number}.shop")
        assert (status, text) == (200, what) if good else status == 503, (what, status, text)
        assert web.bound_line(9300 + number) == (what if good else ""), what
        assert bool(servers[what].requests) == good, f"{what}: nothing may be sent to it"
        assert bool(servers[what].failures) != good, f"{what}: it was not even tried"
        assert set(servers[what].asked_for) == {HOST if "sni" in tls else "localhost"}, what


def test_no_authorities_no_way(web: Outside, stack: ExitStack) -> None:
    server = Outsider("api", stack, SYSTEM.issue(dns=[HOST]))
    web.put(CALLER, external(server, "{mode: SIMPLE}"), system_ca="")
    status, text = web.get(HOST)
    assert status == 503
    assert "has no certification authorities" in text
    assert any("has no certification authorities" in one and "systemCa" in one for one in web.problems())
    assert not server.failures, "nobody has connected"


def test_the_own_identity_is_shown(web: Outside, stack: ExitStack) -> None:
    server = Outsider("api", stack, SYSTEM.issue(dns=[HOST]), clients=web.authority)
    web.put(CALLER, external(server, "{mode: SIMPLE}"))
    assert web.get(HOST)[0] == 503, "it asks for a certificate"
    web.put(CALLER, external(server, "{mode: MUTUAL}"))
    assert web.get(HOST) == (200, "api")
    assert server.peers[-1]["subjectAltName"] == (("URI", identity("web")),)


def test_a_certificate_from_files_is_shown(web: Outside, stack: ExitStack) -> None:
    partner = Authority.create("who knows us")
    server = Outsider("api", stack, SYSTEM.issue(dns=[HOST]), clients=partner)
    mutual = external(server, "{mode: MUTUAL, clientCertificate: {certificate: us.crt, key: us.key}}")
    web.put(CALLER, mutual)
    status, text = web.get(HOST)
    assert (status, "has no certificate us.crt with us.key" in text) == (503, True)
    leaf = partner.issue(dns=["us.test"])
    files = CertificateFiles(certificate="us.crt", key="us.key")
    web.certificates = {files: KeyPair(leaf.chain_pem, leaf.key_pem)}
    try:
        web.put(CALLER, mutual)
        assert web.get(HOST) == (200, "api")
        assert server.peers[-1]["subjectAltName"] == (("DNS", "us.test"),)
    finally:
        web.certificates = {}


def test_plain_and_opaque(web: Outside, stack: ExitStack) -> None:
    """One host, HTTP in the clear, and TLS that begins in the app."""
    plain, opaque = Outsider("plain", stack), Outsider("opaque", stack, PRIVATE.issue(dns=[HOST]))
    text = f"""
        kind: ExternalService
        metadata: {{name: api}}
        spec:
          hosts: [{HOST}]
          ports:
          - {{name: web, port: 80, protocol: http, targetPort: {plain.http}}}
          - {{name: tls, port: 443, protocol: tcp, targetPort: {opaque.http}}}
          - {{name: raw, port: 7, protocol: tcp, targetPort: {opaque.tcp}, tls: {{mode: SIMPLE,
             caCertificates: {pem(PRIVATE)}}}}}
          endpoints: [{{address: 127.0.0.1}}]
          tls: {{mode: DISABLE}}
        """
    web.put(service("web", port("http", 80), needs=[need_external("api", port=7, bind=TCP_BOUND)]), *written(text))
    assert web.get(HOST) == (200, "plain")
    context = ssl.create_default_context(cadata=PRIVATE.pem.decode())
    with web.tunnel(f"{HOST}:443") as sock, context.wrap_socket(sock, server_hostname=HOST) as inner:
        inner.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        assert inner.makefile("rb").read().endswith(b"opaque")
    with web.tunnel("api.shop:7") as sock:
        stream = sock.makefile("rwb")
        assert stream.readline() == b"opaque\n", "TLS began at the sidecar"
        stream.write(b"again\n")
        stream.flush()
        assert stream.readline() == b"again\n"
    assert web.bound_line(TCP_BOUND) == "opaque"
    assert web.get(f"{HOST}:443")[0] == 400, "a TCP port takes no requests"


def test_grpc(web: Outside, stack: ExitStack) -> None:
    at = stack.enter_context(grpc_outsider(SYSTEM.issue(dns=[HOST])))
    needs = [need_external("api", bind=GRPC_BOUND)]
    web.put(service("web", port("http", 80), needs=needs), external(at, "{mode: SIMPLE}", protocol="grpc"))
    options = [("grpc.enable_http_proxy", 0)]  # grpcio would else take its proxy from the environment of the machine
    with grpc.insecure_channel(f"{web.address}:{GRPC_BOUND}", options=options) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/shop.Orders/Get")
        assert call(b"x", timeout=10) == b'{"path": "/shop.Orders/Get", "said": "x"}'


def test_a_bound_port_and_routes(web: Outside, stack: ExitStack) -> None:
    """A route leads a part of the requests for a service of the mesh to the outside, under the outside's name.

    How a name is resolved is Envoy's own word: no name here has answers that change.
    """
    old, new = Outsider("old", stack, SYSTEM.issue(dns=[HOST])), Outsider("new", stack, SYSTEM.issue(dns=["n.test"]))
    items = (
        service("web", port("http", 80), needs=[need("orders"), need_external("api", port=80, bind=HTTP_BOUND)]),
        service("orders", port("http", 80)),
        external(old, "{mode: SIMPLE}"),
        external(new, "{mode: SIMPLE}", name="new", hosts="n.test", more="resolution: DNS_ROUND_ROBIN"),
        http_route("""
            - matches: [{path: {value: /}, headers: [{name: x-to, value: both}]}]
              backendRefs: [{kind: ExternalService, name: api, port: 80}, {kind: ExternalService, name: new, port: 80}]
            - matches: [{headers: [{name: x-to, value: rewritten}]}]
              filters: [{type: URLRewrite, urlRewrite: {hostname: asked.test}}]
              backendRefs: [{kind: ExternalService, name: api, port: 80}]
            - matches: [{headers: [{name: x-to, value: copied}]}]
              filters: [{type: RequestMirror, requestMirror: {
                backendRef: {kind: ExternalService, name: new, port: 80}}}]
              backendRefs: [{kind: ExternalService, name: api, port: 80}]
            - backendRefs: [{kind: ExternalService, name: new, port: 80}]
            """),
    )  # fmt: skip
    web.put(*items)
    assert web.get("whatever", port=HTTP_BOUND) == (200, "old")
    assert web.get("orders.shop") == (200, "new")
    assert web.get("orders.shop", {"x-to": "rewritten"}) == (200, "old")
    assert old.requests[-1]["host"] == "asked.test"
    new.requests.clear()
    assert web.get("orders.shop", {"x-to": "copied"}) == (200, "old")
    wait_until("the copy has arrived", lambda: new.requests)
    seen = {web.get("orders.shop", {"x-to": "both"}) for _ in range(40)}
    assert seen == {(200, "old"), (200, "new")}
    assert {one["host"] for one in new.requests} == {f"n.test:{new.http}"}
    assert {one["host"] for one in old.requests} == {f"{HOST}:{old.http}", "asked.test"}
    clusters = [one["cluster"] for one in web.envoy.dump("dynamic_active_clusters")]
    kinds = {one["name"]: one["type"] for one in clusters if one["name"].endswith(".shop|80")}
    assert kinds["outbound|api.shop|80"] == "STRICT_DNS"
    assert kinds["outbound|new.shop|80"] == "LOGICAL_DNS"


def test_nobody_outside_has_a_request_sent_again_by_a_header(web: Outside, stack: ExitStack) -> None:
    """It is for sidecars to say that no app was reached. A rule that may lead outside believes none of its backends."""
    server = Outsider("api", stack)
    items = (
        service("web", port("http", 80), needs=[need("orders"), need_external("api", port=80, bind=HTTP_BOUND)]),
        service("orders", port("http", 80)),
        external(server, "{mode: DISABLE}"),
        http_route("""
            - matches: [{headers: [{name: x-to, value: some}]}]
              retry: {}
              backendRefs: [{name: orders, port: 80}, {kind: ExternalService, name: api, port: 80, weight: 1000000}]
            - retry: {}
              backendRefs: [{kind: ExternalService, name: api, port: 80}]
            """),
    )  # fmt: skip
    web.put(*items)
    ways: tuple[Callable[[], tuple[int, str]], ...] = (
        lambda: web.get(HOST, method="POST"),
        lambda: web.get("api", method="POST"),
        lambda: web.get("whatever", port=HTTP_BOUND, method="POST"),
        lambda: web.get("orders.shop", method="POST"),
        lambda: web.get("orders.shop", {"x-to": "some"}, method="POST"),
    )
    for word in ("unreached", "reset"):
        server.says = {UNSERVED: word}
        for number, way in enumerate(ways):
            server.requests.clear()
            assert way() == (200, "api")
            assert len(server.requests) == 1, (word, number)


def _mesh(mode: str) -> Item:
    return written(
        "kind: Mesh\nmetadata: {name: mesh, namespace: mesh-system}\n"
        f"spec: {{trustDomain: mesh.test, outboundTrafficPolicy: {{mode: {mode}}}}}"
    )[0]


@pytest.mark.parametrize("needs", [None, []])
def test_everything_else_outside(web: Outside, stack: ExitStack, needs: list[object] | None) -> None:
    server = Outsider("stranger", stack)
    caller = service("web", port("http", 80), needs=needs)  # type: ignore[arg-type]
    there = f"127.0.0.1:{server.http}"
    for refusing in ((), (_mesh("REGISTRY_ONLY"),)):
        web.put(caller, *refusing)
        assert web.get(there) == (502, REFUSED)
        assert web.get("www.example.com") == (502, REFUSED)
        with pytest.raises(ConnectionRefusedError, match="502"), web.tunnel(f"127.0.0.1:{server.tcp}"):
            pass
    assert not server.requests
    web.put(caller, _mesh("ALLOW_ANY"))
    assert web.get(there, {"x-forwarded-client-cert": "URI=spiffe://mesh.test/ns/shop/svc/admin"}) == (200, "stranger")
    assert "x-forwarded-client-cert" not in server.requests[-1]
    assert server.requests[-1]["host"] == there
    with web.tunnel(f"127.0.0.1:{server.tcp}") as sock:
        assert sock.makefile().readline() == "stranger\n"
    assert web.get(f"{web.address}:15001")[0] == 502, "that would go round for ever"
    if needs is not None:  # learning takes an agent
        assert web.get("gone.shop.mesh")[0] == 503, "a service of the mesh that is gone is not looked for in DNS"
        assert web.get("gone")[0] == 503


def test_logs_and_metrics_say_where_outside(web: Outside, stack: ExitStack) -> None:
    """By the object's name: nothing that somebody sends makes a series. What nobody has declared is one destination."""
    server = Outsider("api", stack)
    caller = service("web", port("http", 80), needs=[need_external("api", port=7, bind=TCP_BOUND)])
    there = f"127.0.0.1:{server.tcp}"
    ways = [(f"{HOST}:7", f"{HOST}:80", "api.shop"), (there, f"127.0.0.1:{server.http}", "passthrough")]
    web.put(caller, external(server, "{mode: DISABLE}"), _mesh("ALLOW_ANY"), telemetry("all", {"accessLogging": [{}]}))
    unknown = counted(web.envoy, "requests_total", destination="unknown")
    for tunnel, host, name in ways:
        of = {"side": "client", "source": "web.shop", "destination": name}
        before = {one: counted(web.envoy, one, **of) for one in ("requests_total", "connections_total")}
        assert web.get(host) == (200, "api")
        with web.tunnel(tunnel) as sock:
            assert sock.makefile().readline() == "api\n"
        more = 1
        if name == "api.shop":
            assert web.bound_line(TCP_BOUND) == "api"
            logged(web.envoy, destination=name, upstream_cluster="outbound|api.shop|7", upstream=there)
            more = 2
        counts(web.envoy, "requests_total", before["requests_total"] + 1, **of)
        counts(web.envoy, "connections_total", before["connections_total"] + more, **of)
        for authority in (host, tunnel):
            assert logged(web.envoy, authority=authority)["destination"] == name
    assert web.get("gone")[0] == 503
    counts(web.envoy, "requests_total", unknown + 1, destination="unknown")


def test_tunnels_to_the_outside_end_when_it_is_closed(web: Outside, stack: ExitStack) -> None:
    server = Outsider("stranger", stack)
    caller = service("web", port("http", 80), needs=[])
    web.put(caller, _mesh("ALLOW_ANY"))
    with web.tunnel(f"127.0.0.1:{server.tcp}") as sock:
        assert sock.makefile().readline() == "stranger\n"
        web.put(caller, _mesh("REGISTRY_ONLY"))
        assert web.get(f"127.0.0.1:{server.http}") == (502, REFUSED)
        sock.sendall(b"open\n")
        assert sock.makefile().readline() == "open\n", "no chain is another one: it is for the agent to end"
        assert web.envoy.shut_outside() == 1
        assert sock.recv(1) == b""


@pytest.mark.parametrize("at", ["localhost", "127.0.0.1"])
def test_what_a_change_ends(web: Outside, stack: ExitStack, at: str) -> None:
    """What is open goes on while the server moves, is found or secured otherwise, or is another. Without the object it
    goes on through the proxy port alone."""
    first, second = (Outsider(name, stack, SYSTEM.issue(dns=[HOST])) for name in ("first", "second"))
    needs = [need_external("api"), need_external("api", port=7, bind=TCP_BOUND)]
    caller = service("web", port("http", 80), needs=needs)

    def api(server: Outsider = first, tls: str = BY_NAME, hosts: str = HOST, more: str = "", at: str = at) -> Item:
        (made,) = written(f"""
            kind: ExternalService
            metadata: {{name: api}}
            spec:
              hosts: [{hosts}]
              ports: [{{name: web, port: 80, protocol: http}}, {{name: raw, port: 7, protocol: tcp}}]
              endpoints: [{{address: {at}, ports: {{web: {server.http}, raw: {server.tcp}}}}}]
              tls: {tls}
              {more}
            """)
        return made

    shows = f"{{mode: MUTUAL, sni: {HOST}, clientCertificate: {{certificate: no.crt, key: no.key}}}}"
    changes = (
        api(second),
        api(at={"localhost": "127.0.0.1", "127.0.0.1": "localhost"}[at]),
        api(at="localhost", more="resolution: DNS_ROUND_ROBIN"),
        api(hosts="b.example.com"),
        api(tls=BY_PRIVATE),
        api(tls=shows),
        api(tls="{mode: DISABLE}"),
    )
    web.put(caller, api())
    wait_until("it is found", lambda: web.bound_line(TCP_BOUND) == "first")
    bound = stack.enter_context(socket.create_connection((web.address, TCP_BOUND), timeout=10))
    opened = {"proxy port": stack.enter_context(web.tunnel("api.shop:7")), "bound port": bound}
    lines = {name: sock.makefile() for name, sock in opened.items()}
    assert {lines[name].readline() for name in opened} == {"first\n"}
    for item in changes:
        web.put(caller, item)
    _drained(web)
    for name, sock in opened.items():
        sock.sendall(b"open\n")
        assert lines[name].readline() == "open\n", name
    web.put(service("web", port("http", 80), needs=[]))
    assert lines["bound port"].readline() == ""
    with pytest.raises(ConnectionRefusedError, match="503"), web.tunnel("api.shop:7"):
        pass
    opened["proxy port"].sendall(b"open\n")
    assert lines["proxy port"].readline() == "open\n"


def _drained(web: Outside) -> None:
    """Whatever is to end by the changes until now has ended."""

    def has_ended() -> bool:
        lines = web.envoy.admin("/stats?filter=^listener_manager.total_.*_draining$").splitlines()
        return bool(lines) and all(line.endswith(": 0") for line in lines)

    wait_until("nothing drains", has_ended)


def test_a_host_that_moves(web: Outside, stack: ExitStack) -> None:
    """By address: requests go on while it changes."""
    servers = [Outsider(f"s{number}", stack, SYSTEM.issue(dns=[HOST])) for number in range(2)]
    for server in servers:
        text = f"""
            kind: ExternalService
            metadata: {{name: api}}
            spec:
              hosts: [{HOST}]
              ports: [{{name: web, port: 80, protocol: http}}]
              endpoints: [{{address: 127.0.0.1, ports: {{web: {server.http}}}}}]
              tls: {{mode: SIMPLE}}
            """
        web.put(CALLER, *written(text))
        wait_until("it has moved", lambda server=server: web.get(HOST) == (200, server.name))  # type: ignore[misc]


def test_nobody_resolves_it(web: Outside) -> None:
    text = f"""
        kind: ExternalService
        metadata: {{name: api}}
        spec:
          hosts: [{HOST}]
          ports: [{{name: web, port: 80, protocol: http}}]
          endpoints: [{{address: nowhere.invalid}}]
          tls: {{mode: SIMPLE}}
        """
    web.put(CALLER, *written(text))
    status, text = web.get(HOST)
    assert status == 503
    assert "outbound|api.shop|80" in text
    assert socket.gethostbyname("localhost") == "127.0.0.1", "which these tests resolve"
