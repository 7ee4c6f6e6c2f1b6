"""A gateway as strangers see it: a real Envoy with compiled configuration, and real clients with TLS."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest

from dataplane.certificates.check import check
from dataplane.compile.workload import GatewayHost, KeyPair
from schemas.objects.common import CertificateFiles
from tests.dataplane.compile import gateway_corpus
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import logged
from tests.dataplane.compile.routed import GRPC, HTTP, Answer, Routed, routed
from tests.dataplane.compile.scrapes import counts, number
from tests.states.build import Item, identity, telemetry
from tests.states.routes import http_route, written
from tests.support.pki import Authority

HTTP_PORT, HTTPS_PORT = 18080, 18443  # where 80 and 443 are on this host
PUBLIC = Authority.create("a public root")
FILES = CertificateFiles(certificate="shop.crt", key="shop.key")
OTHER = CertificateFiles(certificate="other.crt", key="other.key")
_TIMEOUT = 10.0  # seconds; answers take milliseconds
TO_ORDERS = f"- backendRefs: [{{name: orders, port: {HTTP}}}]"
TO_V2 = f"- backendRefs: [{{name: orders-v2, port: {HTTP}}}]"


def pair(*names: str) -> KeyPair:
    leaf = PUBLIC.issue(dns=names)
    return check(leaf.chain_pem, leaf.key_pem, datetime.datetime.now(datetime.UTC)).pair


@pytest.fixture(scope="module")
def mesh(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Routed]:
    with routed(envoys, own_address) as one:
        web = one.envoys["web"]
        web.stop()
        web.drain_seconds = 1
        web.start()
        one.gateway = GatewayHost(one.addresses["web"], {80: HTTP_PORT, 443: HTTPS_PORT})
        one.certificates = {FILES: pair("shop.example.com", "*.example.com"), OTHER: pair("other.test")}
        yield one


def gateway(listeners: str, *, name: str = "edge", more: str = "") -> Item:
    lines = "\n".join(f"  - {line.strip()}" for line in listeners.strip().splitlines())
    text = f"kind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  service: web\n  listeners:\n{lines}\n"
    return written(text + (f"  {more}\n" if more else ""))[0]


TLS = "tls: {certificateRefs: [{certificate: shop.crt, key: shop.key}]}"
HTTPS = f"{{name: https, port: 443, protocol: HTTPS, {TLS}}}"


def route(rules: str, *, name: str = "r", section: str = "https", hosts: str = "") -> Item:
    spec = f"parentRefs: [{{kind: Gateway, name: edge, sectionName: {section}}}]"
    return http_route(rules, name=name, spec=spec + (f"\n  hostnames: [{hosts}]" if hosts else ""))


class Client:
    """One connection to the gateway, over TLS where a name is given for the handshake."""

    def __init__(self, mesh: Routed, sni: str | None, *, alpn: str = "http/1.1", **versions: ssl.TLSVersion) -> None:
        port = HTTP_PORT if sni is None else HTTPS_PORT
        self.sock = socket.create_connection((mesh.addresses["web"], port), timeout=_TIMEOUT)
        if sni is not None:
            context = ssl.create_default_context(cadata=PUBLIC.pem.decode())
            context.set_alpn_protocols([alpn])
            for which, version in versions.items():
                setattr(context, which, version)
            try:
                self.sock = context.wrap_socket(self.sock, server_hostname=sni)
            except OSError:
                self.sock.close()
                raise

    def ask(self, host: str, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        """In a header's name `_` stands for `-`."""
        connection = http.client.HTTPConnection(host)
        connection.sock = self.sock
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers={"Host": host, **named})
        answer = connection.getresponse()
        return Answer(answer.status, answer.getheaders(), answer.read())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def ask(mesh: Routed, host: str, path: str = "/", *, sni: str | None = "", **headers: str) -> Answer:
    """sni: None is plain HTTP, "" the host."""
    with Client(mesh, (sni or host.partition(":")[0]) if sni is not None else None) as client:
        return client.ask(host, path, **headers)


FORGED = {
    "x_forwarded_client_cert": f"URI={identity('admin')}",
    "x_forwarded_for": "203.0.113.9",
    "x_forwarded_proto": "ftp",
    "x_forwarded_host": "forged.test",
    "x_forwarded_port": "1",
    "x_real_ip": "203.0.113.9",
    "forwarded": "for=203.0.113.9",
    "true_client_ip": "203.0.113.9",
    "x_envoy_retry_on": "5xx",
    "x_envoy_internal": "true",
    "x_envoy_decorator_operation": "x",
    "x_mesh_second_pass": "1",
    "x_request_id": "forged",
    "x_client_trace_id": "forged",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "forged=1",
}


def test_envoy_and_the_model_agree_on_every_request(mesh: Routed) -> None:
    """Which gateway, of two in one service, and which rule of which route, for each request of the corpus."""
    objects = gateway_corpus.objects()
    mesh.put(*objects)
    reached = set()
    with Client(mesh, None) as client:
        for one in gateway_corpus.requests():
            answer = client.ask(one.host, one.path, one.method, **one.headers)
            # UNIMPLEMENTED is 404 to a gRPC call (gRPC: http-grpc-status-mapping).
            status = "404" if answer.header("grpc-status") == ["12"] else str(answer.status)
            found = answer.header("x-rule") or [status]
            assert found == [gateway_corpus.by_model(objects, one)], one
            reached |= set(found)
    assert reached == gateway_corpus.REACHED, "a rule that no request reaches shows nothing"


def test_a_request_comes_in_by_the_gateways_own_identity(mesh: Routed) -> None:
    mesh.put(gateway(HTTPS), route(TO_ORDERS))
    answer = ask(mesh, "shop.example.com", "/a?b=c", **FORGED)
    assert answer.who == "orders"
    assert answer.seen["path"] == "/a?b=c"
    assert [one.partition("URI=")[2] for one in answer.sent("x-forwarded-client-cert")] == [identity("web")]
    assert answer.sent("host") == ["shop.example.com"]
    [client] = answer.sent("x-forwarded-for")
    assert ipaddress.ip_address(client), "one address, the client's, and nothing that it says"
    assert client != "203.0.113.9"
    assert answer.sent("x-forwarded-proto") == ["https"]
    assert answer.sent("x-forwarded-scheme") == ["https"]
    assert answer.sent("x-forwarded-host") == ["shop.example.com"]
    assert answer.sent("x-forwarded-port") == ["443"]
    for name in (
        "x-real-ip",
        "forwarded",
        "true-client-ip",
        "x-envoy-retry-on",
        "x-envoy-decorator-operation",
        "x-client-trace-id",
        "traceparent",
        "tracestate",
    ):
        assert not answer.sent(name), name
    assert answer.sent("x-request-id") not in ([], ["forged"])


def test_what_it_logs_and_counts(mesh: Routed) -> None:
    """As a caller does, by the gateway's own identity."""
    mesh.put(gateway(HTTPS), route(TO_ORDERS), telemetry("all", {"accessLogging": [{}]}))
    of = {"side": "client", "source": "web.shop", "route": "HTTPRoute shop/r rule 0 match 0", "code": "2xx"}
    before = number(mesh.envoys["web"], "requests_total", destination="orders.shop", **of)
    answer = ask(mesh, "shop.example.com", "/logged?card=4711", **FORGED)
    line = logged(mesh.envoys["web"], path="/logged")
    assert (line["side"], line["source"], line["destination"]) == ("client", identity("web"), identity("orders"))
    assert (line["authority"], line["status"], line["route"]) == ("shop.example.com", 200, of["route"])
    assert [line["request_id"]] == answer.sent("x-request-id")
    counts(mesh.envoys["web"], "requests_total", before + 1, destination="orders.shop", **of)


def test_proxies_in_front_are_believed_as_far_as_they_are_said_to_be(mesh: Routed) -> None:
    mesh.put(gateway(HTTPS, more="xffTrustedHops: 1"), route(TO_ORDERS))
    answer = ask(mesh, "shop.example.com", x_forwarded_for="198.51.100.1, 203.0.113.9", x_forwarded_proto="https")
    assert answer.sent("x-forwarded-for")[0].startswith("198.51.100.1, 203.0.113.9,")
    assert answer.sent("x-forwarded-scheme") == ["https"]
    assert [one.partition("URI=")[2] for one in answer.sent("x-forwarded-client-cert")] == [identity("web")]


def test_who_shares_a_port_for_http_believes_no_more_than_the_others(mesh: Routed) -> None:
    shared = "{name: http, port: 80, protocol: HTTP, hostname: %s}"
    mesh.put(
        gateway(shared % "a.test", name="believes", more="xffTrustedHops: 1"),
        gateway(shared % "b.test"),
        http_route(TO_ORDERS, spec="parentRefs: [{kind: Gateway, name: believes}, {kind: Gateway, name: edge}]"),
    )
    for host in ("a.test", "b.test"):
        answer = ask(mesh, host, sni=None, **FORGED)
        assert "203.0.113.9" not in answer.sent("x-forwarded-for")[0]
        assert answer.sent("x-forwarded-host") == [host]


def test_the_path_is_made_plain_and_odd_requests_are_refused(mesh: Routed) -> None:
    mesh.put(gateway(HTTPS), route(f"- matches: [{{path: {{value: /public}}}}]\n  {TO_ORDERS[2:]}"))
    assert ask(mesh, "shop.example.com", "/public/x").who == "orders"
    assert ask(mesh, "shop.example.com", "//public//./x").seen["path"] == "/public/x"
    answer = ask(mesh, "shop.example.com", "/public/../admin")
    assert (answer.status, answer.body) == (404, b"not found\n")
    assert ask(mesh, "shop.example.com", "/public/%2e%2e/admin").status == 404
    assert ask(mesh, "shop.example.com", "/public%2f..%2fadmin").status == 400
    assert ask(mesh, "shop.example.com", "/public", x__y="1").sent("x--y") == ["1"]
    with Client(mesh, "shop.example.com") as client:
        client.sock.sendall(b"GET /public HTTP/1.1\r\nHost: shop.example.com\r\nX_Forwarded_Client_Cert: x\r\n\r\n")
        assert b" 400 " in client.sock.recv(4096).partition(b"\r\n")[0]
    with Client(mesh, "shop.example.com") as client:
        client.sock.sendall(b"CONNECT orders.shop:8080 HTTP/1.1\r\nHost: orders.shop:8080\r\n\r\n")
        assert b" 200 " not in client.sock.recv(4096).partition(b"\r\n")[0]


def test_plain_http_is_sent_to_https(mesh: Routed) -> None:
    listeners = f"{{name: http, port: 80, protocol: HTTP, tls: {{httpsRedirect: true}}}}\n{HTTPS}"
    challenge = f"- matches: [{{path: {{value: /.well-known/acme-challenge}}}}]\n  {TO_V2[2:]}"
    mesh.put(gateway(listeners), route(TO_ORDERS), route(challenge, name="acme", section="http"))
    answer = ask(mesh, "shop.example.com", "/a?b=c", sni=None)
    assert (answer.status, answer.header("location")) == (301, ["https://shop.example.com/a?b=c"])
    answer = ask(mesh, "shop.example.com:80", "/", sni=None)
    assert answer.header("location") == ["https://shop.example.com/"]
    answer = ask(mesh, "shop.example.com", "/.well-known/acme-challenge/token", sni=None)
    assert answer.who == "orders-v2", "who proves the name must be reached without TLS"
    assert answer.sent("x-forwarded-scheme") == ["http"]
    assert ask(mesh, "shop.example.com").who == "orders"


# What a redirect says ▸ where it leads from http://shop.example.com/, and from https://.
REDIRECTS = {
    "scheme: https, statusCode: 308": ("https://shop.example.com", "https://shop.example.com"),
    "scheme: http": ("http://shop.example.com", "http://shop.example.com"),
    "scheme: https, port: 443": ("https://shop.example.com", "https://shop.example.com"),
    "scheme: https, port: 8443": ("https://shop.example.com:8443", "https://shop.example.com:8443"),
    "port: 80": ("http://shop.example.com", "https://shop.example.com:80"),
    "port: 443": ("http://shop.example.com:443", "https://shop.example.com"),
    "hostname: a.test": ("http://a.test", "https://a.test"),
    "hostname: a.test, port: 80": ("http://a.test", "https://a.test:80"),
    "hostname: a.test, port: 443": ("http://a.test:443", "https://a.test"),
    "hostname: a.test, scheme: https": ("https://a.test", "https://a.test"),
    "hostname: a.test, scheme: http, port: 8080": ("http://a.test:8080", "http://a.test:8080"),
}


def test_redirects_by_a_route(mesh: Routed) -> None:
    """Gateway API, HTTPRequestRedirectFilter.port: a port that the scheme means anyhow stands in no Location."""
    rules = "\n".join(
        f"- matches: [{{path: {{value: /{index}}}}}]\n"
        f"  filters: [{{type: RequestRedirect, requestRedirect: {{{one}}}}}]"
        for index, one in enumerate(REDIRECTS)
    )
    both = "parentRefs: [{kind: Gateway, name: edge}]"
    mesh.put(gateway(f"{{name: http, port: 80, protocol: HTTP}}\n{HTTPS}"), http_route(rules, spec=both))
    with Client(mesh, None) as plain, Client(mesh, "shop.example.com") as secure:
        for index, (fields, locations) in enumerate(REDIRECTS.items()):
            for client, scheme, location in zip((plain, secure), ("http", "https"), locations, strict=True):
                answer = client.ask("shop.example.com", f"/{index}/a")
                assert answer.status == (308 if "308" in fields else 302)
                assert answer.header("location") == [f"{location}/{index}/a"], (scheme, fields)
        answer = plain.ask("shop.example.com:80", "/0/a")
        assert answer.header("location") == ["https://shop.example.com/0/a"]
        answer = secure.ask("shop.example.com:443", "/1/a")
        assert answer.header("location") == ["http://shop.example.com/1/a"]


def test_host_names_of_listeners_and_routes(mesh: Routed) -> None:
    """Gateway API, Listener.hostname and HTTPRouteSpec.hostnames: what both say, the narrowest listener first."""
    certificate = TLS.replace("shop.", "other.")
    mesh.put(
        gateway(
            f"{{name: exact, port: 443, protocol: HTTPS, hostname: shop.example.com, {TLS}}}\n"
            f"{{name: wild, port: 443, protocol: HTTPS, hostname: '*.example.com', {TLS}}}\n"
            f"{{name: other, port: 443, protocol: HTTPS, hostname: other.test, {certificate}}}\n"
            "{name: plain-exact, port: 80, protocol: HTTP, hostname: abc.example.com}\n"
            "{name: plain-wild, port: 80, protocol: HTTP, hostname: '*.example.com'}\n"
            "{name: plain, port: 80, protocol: HTTP}"
        ),
        route(TO_ORDERS, name="a", section="exact", hosts="'*.example.com'"),
        route(TO_V2, name="b", section="wild", hosts="a.example.com, other.test"),
        route(TO_V2, name="c", section="other"),
        route(TO_V2, name="d", section="plain-wild", hosts="'*.a.example.com'"),
        route(TO_ORDERS, name="e", section="plain"),
        http_route(TO_V2, name="f", spec="parentRefs: [{kind: Gateway, name: edge, port: 80}]\n  hostnames: [b.test]"),
        # At their listener the three are for the same host: the nearer a route's own name is, the more it counts.
        route(f"- matches: [{{path: {{value: /any/longer}}}}]\n  {TO_ORDERS[2:]}", name="g", section="plain-exact"),
        route(TO_ORDERS, name="h", section="plain-exact", hosts="'*.example.com'"),
        route(
            f"- matches: [{{path: {{value: /any}}}}]\n  {TO_V2[2:]}",
            name="i",
            section="plain-exact",
            hosts="'*.com', abc.example.com",
        ),
    )
    secure = {
        "shop.example.com": "orders",
        "a.example.com": "orders-v2",
        "b.example.com": "404",
        "other.test": "orders-v2",
    }
    assert {host: ask(mesh, host).who for host in secure} == secure
    for name in ("nobody.test", "example.com", "192.0.2.1"):  # which is no name, so that the handshake has none
        with pytest.raises(OSError, match=r".") as cut:
            Client(mesh, name)
        assert not isinstance(cut.value, ssl.SSLCertVerificationError), "nobody's certificate is shown"
    plain = {
        "x.a.example.com": "orders-v2",
        "shop.example.com": "404",
        "abc.example.com": "orders",
        "b.test": "orders-v2",
        "anybody.test": "orders",
        "ANYBODY.test:80": "orders",
    }
    assert {host: ask(mesh, host, sni=None).who for host in plain} == plain
    assert ask(mesh, "abc.example.com", "/any/longer", sni=None).who == "orders-v2"
    with Client(mesh, "a.example.com") as client:  # a connection that a browser uses for what its certificate is for
        assert client.ask("a.example.com").who == "orders-v2"
        assert client.ask("shop.example.com").status == 421, "another listener's host"
        assert client.ask("other.test").status == 421
    assert any("b" in str(one) and "other.test" in str(one) for one in mesh.problems()) is False


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # what nobody uses any more is the point
def test_versions_and_protocols(mesh: Routed) -> None:
    mesh.put(gateway(HTTPS), route(TO_ORDERS))
    with Client(mesh, "shop.example.com", maximum_version=ssl.TLSVersion.TLSv1_2) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() == "TLSv1.2"
        assert client.ask("shop.example.com").who == "orders"
    with pytest.raises(OSError, match=r"."):
        Client(
            mesh,
            "shop.example.com",
            minimum_version=ssl.TLSVersion.TLSv1,
            maximum_version=ssl.TLSVersion.TLSv1_1,
        )
    with Client(mesh, "shop.example.com", alpn="h2") as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.selected_alpn_protocol() == "h2"
        assert _http2(client.sock, "shop.example.com")["who"] == "orders"


def _http2(sock: socket.socket, host: str) -> dict[str, Any]:
    session = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    session.initiate_connection()
    names = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", "/")]
    session.send_headers(1, names, end_stream=True)
    sock.sendall(session.data_to_send())
    body = b""
    while True:
        for event in session.receive_data(sock.recv(65536)):
            if isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.StreamEnded):
                return dict(json.loads(body))
        sock.sendall(session.data_to_send())


BOTH_HTTPS = (
    f"{HTTPS}\n{{name: other, port: 443, protocol: HTTPS, hostname: other.test, {TLS.replace('shop.', 'other.')}}}"
)


def test_listeners_come_and_go(mesh: Routed) -> None:
    for listeners, answers in ((HTTPS, False), (BOTH_HTTPS, True), (HTTPS, False)):
        mesh.put(gateway(listeners), route(TO_ORDERS), route(TO_V2, name="o", section="other"))
        assert ask(mesh, "shop.example.com").who == "orders"
        if answers:
            assert ask(mesh, "other.test").who == "orders-v2"
        else:
            with pytest.raises(OSError, match=r"."):
                ask(mesh, "other.test")


def test_what_is_open_ends_with_its_listener_and_with_no_other(mesh: Routed) -> None:
    mesh.put(gateway(BOTH_HTTPS), route(TO_ORDERS), route(TO_ORDERS, name="o", section="other"))
    with Client(mesh, "shop.example.com") as stays, Client(mesh, "other.test") as goes:
        assert (stays.ask("shop.example.com").who, goes.ask("other.test").who) == ("orders", "orders")
        mesh.put(gateway(HTTPS), route(TO_ORDERS))
        assert goes.sock.recv(1) == b""
        answer = stays.ask("shop.example.com")
        assert (answer.who, answer.header("connection")) == ("orders", [])


def test_grpc(mesh: Routed) -> None:
    text = f"""
        kind: GRPCRoute
        metadata: {{name: calls}}
        spec:
          parentRefs: [{{kind: Gateway, name: edge, sectionName: https}}]
          rules:
          - matches: [{{method: {{service: shop.Orders}}}}]
            backendRefs: [{{name: orders-v2, port: {GRPC}}}]
        ---
        kind: GRPCRoute
        metadata: {{name: others}}
        spec:
          parentRefs: [{{kind: Gateway, name: edge, sectionName: other}}]
          hostnames: [other.test]
          rules: [{{backendRefs: [{{name: orders, port: {GRPC}}}]}}]
        ---
        kind: GRPCRoute
        metadata: {{name: names-no-host}}
        spec:
          parentRefs: [{{kind: Gateway, name: edge, sectionName: other}}]
          rules: [{{backendRefs: [{{name: orders-v2, port: {GRPC}}}]}}]
        """
    mesh.put(gateway(BOTH_HTTPS), route(TO_ORDERS), *written(text))
    credentials = grpc.ssl_channel_credentials(PUBLIC.pem)
    at = f"{mesh.addresses['web']}:{HTTPS_PORT}"
    for host, who in (("shop.example.com", "orders-v2"), ("other.test", "orders")):
        options = [("grpc.enable_http_proxy", 0), ("grpc.ssl_target_name_override", host)]
        with grpc.secure_channel(at, credentials, options=options) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/shop.Orders/Get")
            assert call(b"x", timeout=_TIMEOUT) == who.encode()
            chat: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream("/shop.Orders/Stream")
            assert list(chat(iter([b"a", b"b"]), timeout=_TIMEOUT)) == [f"{who}:a".encode(), f"{who}:b".encode()]
    assert ask(mesh, "shop.example.com").who == "orders", "a route for gRPC takes no other request"


def test_a_certificate_is_replaced_and_nothing_is_dropped(mesh: Routed) -> None:
    mesh.put(gateway(HTTPS), route(TO_ORDERS))
    before = mesh.certificates
    with Client(mesh, "shop.example.com") as kept:
        assert isinstance(kept.sock, ssl.SSLSocket)
        old = kept.sock.getpeercert(binary_form=True)
        assert kept.ask("shop.example.com").who == "orders"
        try:
            mesh.certificates = {**before, FILES: pair("shop.example.com")}
            mesh.put(gateway(HTTPS), route(TO_ORDERS))
            with Client(mesh, "shop.example.com") as fresh:
                assert isinstance(fresh.sock, ssl.SSLSocket)
                assert fresh.sock.getpeercert(binary_form=True) != old
            assert kept.ask("shop.example.com").who == "orders", "the connection from before"
        finally:
            mesh.certificates = before


def test_without_its_certificate_nobody_answers(mesh: Routed) -> None:
    before = mesh.certificates
    try:
        mesh.certificates = {OTHER: before[OTHER]}
        certificate = TLS.replace("shop.", "other.")
        both = f"{HTTPS}\n{{name: other, port: 443, protocol: HTTPS, hostname: other.test, {certificate}}}"
        mesh.put(gateway(both), route(TO_ORDERS), route(TO_V2, name="o", section="other"))
        assert ask(mesh, "other.test").who == "orders-v2"
        with pytest.raises(OSError, match=r"."):
            ask(mesh, "shop.example.com")
    finally:
        mesh.certificates = before


def test_who_may_attach(mesh: Routed) -> None:
    listeners = (
        f"{{name: same, port: 443, protocol: HTTPS, {TLS}}}\n"
        "{name: named, port: 80, protocol: HTTP, hostname: named.test,"
        " allowedRoutes: {namespaces: {from: Names, names: [back]}}}\n"
        "{name: all, port: 80, protocol: HTTP, hostname: all.test,"
        " allowedRoutes: {namespaces: {from: All}, kinds: [{kind: HTTPRoute}]}}\n"
        "{name: calls, port: 80, protocol: HTTP, hostname: calls.test, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}"
    )
    text = f"""
        kind: HTTPRoute
        metadata: {{name: theirs, namespace: back}}
        spec:
          parentRefs: [{{kind: Gateway, name: edge, namespace: shop}}]
          rules: [{{backendRefs: [{{name: orders-v2, namespace: shop, port: {HTTP}}}]}}]
        """
    mesh.put(gateway(listeners), *written(text), route(TO_ORDERS, name="ours", section="calls"))
    assert ask(mesh, "shop.example.com").status == 404
    assert ask(mesh, "named.test", sni=None).who == "orders-v2"
    assert ask(mesh, "all.test", sni=None).who == "orders-v2"
    assert ask(mesh, "calls.test", sni=None).status == 404


def test_a_host_that_is_no_gateway_opens_no_port(mesh: Routed) -> None:
    host, mesh.gateway = mesh.gateway, None
    try:
        mesh.put(gateway(HTTPS), route(TO_ORDERS))
        assert any("is no gateway" in str(one) for one in mesh.problems())
        with pytest.raises(ConnectionRefusedError):
            ask(mesh, "shop.example.com")
    finally:
        mesh.gateway = host


def test_a_service_that_is_gone(mesh: Routed) -> None:
    mesh.put(gateway(HTTPS), route("- backendRefs: [{name: ghost, port: 80}]"))
    answer = ask(mesh, "shop.example.com")
    assert answer.status == 503
    assert b"ghost" not in answer.body, "what is inside is nobody's business outside"
    assert any("ghost.shop does not exist" in str(one) for one in mesh.problems())
