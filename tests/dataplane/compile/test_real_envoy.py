"""What compiled configuration does in two real Envoys: who is let in, who is refused, what the app sees."""

from __future__ import annotations

import datetime
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from schemas.objects.authorization import Operation, Rule, Source
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import wait_until
from tests.dataplane.compile.shop import GREETING, GRPC, HTTP, PROXY, TCP, Shop, apps, ask, exchange, raw_get
from tests.spiffe.certificates import CERT_SIGN, CRL_SIGN, DIGITAL_SIGNATURE, Shape, build, new_key
from tests.states.build import (
    bundle,
    federates,
    identity,
    instance,
    policy,
    port,
    revocation,
    rule,
    service,
    traffic,
    unreadable,
    who,
)
from tests.support.pki import Authority, Leaf

LET_WEB = policy("let-web", "ALLOW", rule(who("web")))
WEB_ID = identity("web")


@pytest.fixture(scope="module")
def shop(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Shop]:
    with apps() as ports:
        yield Shop(envoys("web"), envoys("orders"), own_address(), own_address(), ports)


# -- ways through


@pytest.mark.parametrize(
    "host", ["orders", "orders:8080", "orders.shop", "orders.shop:8080", "orders.shop.mesh", "ORDERS.shop"]
)
def test_http_by_host(shop: Shop, host: str) -> None:
    shop.set(LET_WEB)
    answer = shop.call("/orders/7?q=1", host=host)
    assert (answer.status, answer.seen["path"], answer.header("host")) == (200, "/orders/7?q=1", [host])


def test_http_by_absolute_url(shop: Shop) -> None:
    shop.set(LET_WEB)
    answer = shop.call("http://orders.shop:8080/orders/7", host="somewhere.else")
    assert (answer.status, answer.seen["path"]) == (200, "/orders/7")


def test_unknown_service_is_said_so(shop: Shop) -> None:
    shop.set(LET_WEB)
    answer = shop.call(host="nothing.shop")
    assert answer.status == 503
    assert b"no such service" in answer.body
    assert shop.tunnel("nothing.shop:80")[0].startswith(b"HTTP/1.1 503")


def test_connect_and_bound_port_to_a_tcp_service(shop: Shop) -> None:
    shop.set(LET_WEB)
    status, got = shop.tunnel(f"orders.shop:{TCP}")
    assert status == b"HTTP/1.1 200 OK"
    assert got == shop.bound_tcp() == GREETING + b"ping\n"


def test_plain_http_to_a_tcp_port_is_refused_with_a_reason(shop: Shop) -> None:
    shop.set(LET_WEB)
    answer = shop.call(host=f"orders.shop:{TCP}")
    assert answer.status == 400
    assert b"use CONNECT" in answer.body


def test_grpc_by_bound_port(shop: Shop) -> None:
    shop.set(LET_WEB)
    reply = shop.pay()
    assert isinstance(reply, bytes)
    assert reply.endswith(f";URI={WEB_ID} sent 7 coins".encode())


def test_http_through_a_tunnel(shop: Shop) -> None:
    """As clients do that use CONNECT for everything."""
    shop.set(LET_WEB)
    with socket.create_connection((shop.web_address, PROXY), timeout=10) as sock:
        sock.sendall(b"CONNECT orders.shop:8080 HTTP/1.1\r\nHost: orders.shop:8080\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        assert raw_get(sock, "/") == 200


# -- identity


def test_the_app_sees_the_caller_and_no_spoof(shop: Shop) -> None:
    shop.set(LET_WEB)
    spoof = f"URI={identity('admin')}"
    answer = shop.call("/", **{"X-Forwarded-Client-Cert": spoof})
    (said,) = answer.header("x-forwarded-client-cert")
    parts = dict(part.split("=", 1) for part in said.split(";"))
    assert (parts["By"], parts["URI"]) == (identity("orders"), WEB_ID)
    assert "," not in said  # one hop, not a list
    with shop.peer(shop.leaves["web"]) as sock:  # a peer that has no sidecar to strip it
        sock.sendall(
            f"GET / HTTP/1.1\r\nHost: orders\r\nX-Forwarded-Client-Cert: {spoof}\r\nConnection: close\r\n\r\n".encode()
        )
        text = b"".join(iter(lambda: sock.recv(4096), b""))
    assert WEB_ID.encode() in text
    assert b"svc/admin" not in text


def test_underscore_twin_of_the_identity_header_is_refused(shop: Shop) -> None:
    shop.set(LET_WEB)
    assert shop.call("/", X_Forwarded_Client_Cert="URI=x").status == 400
    assert shop.ask_as(shop.leaves["web"], "/", "X_Forwarded_Client_Cert: URI=x") == 400


def test_server_with_another_identity_is_refused(shop: Shop) -> None:
    """The instance that says it is payments shows the SVID of orders."""
    payments = service("payments", port("http", HTTP))
    shop.set(LET_WEB, payments, instance("payments", "p1", shop.orders_address, http=HTTP))
    assert shop.call(host="orders").status == 200
    assert shop.call(host="payments").status == 503
    failed = shop.web.admin("/stats?filter=payments.*ssl.fail_verify_san")
    assert int(failed.rpartition(":")[2]) > 0


def test_plaintext_to_an_inbound_port_is_refused(shop: Shop) -> None:
    shop.set(LET_WEB)
    for number in (HTTP, GRPC, TCP):
        with socket.create_connection((shop.orders_address, number), timeout=10) as sock:
            assert exchange(sock, b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n") == b""


def test_who_is_not_of_the_mesh_is_refused(shop: Shop) -> None:
    shop.set(policy("all", "ALLOW", Rule()))
    ours, theirs = shop.authority, Authority.create()
    assert shop.ask_as(ours.issue(uri=WEB_ID)) == 200
    refused = {
        "no certificate": None,
        "another trust domain, our authority": ours.issue(uri="spiffe://other.test/ns/shop/svc/web"),
        "our trust domain, another authority": theirs.issue(uri=WEB_ID),
        "another trust domain altogether": theirs.issue(uri="spiffe://other.test/ns/shop/svc/web"),
        "expired": ours.issue(uri=WEB_ID, lifetime=datetime.timedelta(minutes=-1)),
        "no identity": ours.issue("web"),
        "a DNS name for an identity": ours.issue(dns=["web.shop"]),
        "of the mesh, no workload": ours.issue(uri="spiffe://mesh.test/control-plane"),
        "self-signed": _self_signed(),
    }
    assert {why: shop.ask_as(leaf) for why, leaf in refused.items()} == dict.fromkeys(refused)
    assert shop.ask_as(ours.issue(uri=WEB_ID), maximum_version=ssl.TLSVersion.TLSv1_2) is None


@pytest.mark.spiffe(5)
@pytest.mark.spiffe(8)
@pytest.mark.spiffe(9)
def test_who_has_two_identities_has_none(shop: Shop) -> None:
    """The authority of a federated trust domain signs whatever it likes, also a name of ours behind one of its own."""
    ours, theirs = shop.authority, Authority.create("of mallory.test")
    root = theirs.certificate.public_bytes(Encoding.DER)
    mallory = "spiffe://mallory.test/ns/x/svc/y"
    trusts = federates("mallory", "mallory.test"), bundle(1, root, trust_domain="mallory.test")
    shop.set(LET_WEB, *trusts)
    wait_until("mallory.test is trusted", lambda: shop.ask_as(theirs.issue(uri=mallory)) == 403)
    assert shop.ask_as(ours.issue(uri=WEB_ID)) == 200
    for authority in (theirs, ours):
        for names in ([mallory, WEB_ID], [WEB_ID, mallory], [WEB_ID, identity("orders")], [mallory, f"{mallory}2"]):
            assert shop.ask_as(authority.issue(uri=names)) is None, names
    # Envoy's rules look at other names too, where the URI's does not match.
    assert shop.ask_as(theirs.issue(uri=mallory, dns=["web.mallory.test"])) == 403
    assert shop.ask_as(ours.issue(uri=WEB_ID, dns=["web.shop"])) == 200
    assert shop.ask_as(theirs.issue(WEB_ID, uri=mallory)) == 403
    for hosts in ([WEB_ID], ["web.mallory.test", WEB_ID], [WEB_ID, "web.mallory.test"], ["web\n", WEB_ID]):
        assert shop.ask_as(theirs.issue(uri=mallory, dns=hosts)) is None, hosts
    assert shop.ask_as(theirs.issue(uri=[f"{mallory}\n", WEB_ID])) is None
    shop.set(policy("all", "ALLOW", Rule(), rule(Source(identities=(mallory,)))), *trusts)
    assert shop.ask_as(theirs.issue(uri=mallory)) == 200
    assert shop.ask_as(theirs.issue(uri=[mallory, WEB_ID])) is None


@pytest.mark.spiffe(9)
def test_a_leaf_that_breaks_a_rule_lets_nobody_in(shop: Shop) -> None:
    """Signed by our own authority, with the name of who may call."""
    shop.set(LET_WEB)
    now = int(time.time())

    def status_of(**changed: Any) -> int | None:
        shape = Shape(uris=(WEB_ID,), start=now - 60, end=now + 600)
        key, authority = new_key(), shop.authority
        leaf = build(replace(shape, **changed), key.public_key(), authority.certificate.subject, authority.key)
        return shop.ask_as(Leaf(leaf, key, (), authority.certificate))

    assert status_of() == 200
    refused: dict[str, dict[str, Any]] = {
        "cA": {"ca": True},
        "signs certificates": {"usage": (DIGITAL_SIGNATURE, CERT_SIGN)},
        "signs lists": {"usage": (DIGITAL_SIGNATURE, CRL_SIGN)},
        "the same name twice": {"uris": (WEB_ID, WEB_ID)},
        "another scheme": {"uris": (WEB_ID.replace("spiffe", "https"),)},
        "a root path": {"uris": ("spiffe://mesh.test",)},
    }
    assert {why: status_of(**changed) for why, changed in refused.items()} == dict.fromkeys(refused)
    for name in (f"{WEB_ID}\n", f"{WEB_ID}\0x", f"{WEB_ID}/", WEB_ID.upper()):
        assert status_of(uris=(name,)) in (None, 403), name


@pytest.mark.spiffe(8)
def test_a_server_is_believed_by_the_authorities_of_its_own_trust_domain_alone(shop: Shop) -> None:
    """In whatever order the names of its certificate are."""
    theirs, before = Authority.create("of mallory.test"), shop.leaves["orders"]
    trusts = (
        federates("mallory", "mallory.test"),
        bundle(1, theirs.certificate.public_bytes(Encoding.DER), trust_domain="mallory.test"),
    )
    mallory, orders = "spiffe://mallory.test/ns/shop/svc/orders", identity("orders")
    try:
        for number, names in enumerate(([mallory, orders], [orders, mallory], [orders])):
            shop.leaves["orders"] = theirs.issue(uri=names)
            # With another limit it is another cluster, of new connections.
            shop.set(LET_WEB, *trusts, traffic("anew", "orders", circuitBreaker={"maxConnections": 500 + number}))
            wait_until("the caller refuses the server", lambda: shop.call().status == 503)
        shop.leaves["orders"] = before
        shop.set(LET_WEB, *trusts)
        wait_until("it takes the real one", lambda: shop.call().status == 200)
    finally:
        shop.leaves["orders"] = before


def _self_signed() -> Leaf:
    alone = Authority.create()
    return Leaf(alone.certificate, alone.key, (), alone.certificate)


def test_empty_bundle_trusts_nobody(shop: Shop) -> None:
    shop.set(LET_WEB)
    assert shop.ask_as(shop.leaves["web"]) == 200
    shop.set(LET_WEB, bundle(2))
    wait_until("web's SVID is refused", lambda: shop.ask_as(shop.leaves["web"]) is None)
    assert shop.ask_as(shop.leaves["orders"]) is None  # whose own chain stands in for "nobody"
    shop.set(LET_WEB)
    wait_until("it is taken again", lambda: shop.ask_as(shop.leaves["web"]) == 200)


# -- authorization


def test_nothing_is_allowed_without_a_policy(shop: Shop) -> None:
    shop.set()
    assert shop.call().status == 403
    assert shop.pay() == grpc.StatusCode.PERMISSION_DENIED
    assert shop.bound_tcp() == b""
    assert shop.tunnel(f"orders.shop:{TCP}") == (b"HTTP/1.1 403 Forbidden", b"RBAC: access denied")


def test_tcp_says_nothing_to_who_may_not_speak(shop: Shop) -> None:
    """Not even what a protocol sends first, to a peer that only listens."""
    shop.set(LET_WEB)
    connect = b"CONNECT orders:7000 HTTP/1.1\r\nHost: orders\r\n\r\n"
    with shop.peer(shop.leaves["web"], TCP) as sock:
        sock.sendall(connect)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        assert exchange(sock).endswith(b"ping\n")
    with shop.peer(shop.leaves["mallory"], TCP) as sock:
        sock.sendall(connect)
        assert sock.recv(4096).startswith(b"HTTP/1.1 403")
    with shop.peer(shop.leaves["mallory"], TCP) as sock:
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    assert shop.ask_as(shop.leaves["web"], number=TCP) in (403, 404)  # a request that is no CONNECT reaches nobody


def test_deny_wins(shop: Shop) -> None:
    shop.set(LET_WEB, policy("deny-web", "DENY", rule(who("web"))))
    assert shop.call().status == 403
    assert shop.pay() == grpc.StatusCode.PERMISSION_DENIED
    assert shop.bound_tcp() == b""


def test_unreadable_policy_closes(shop: Shop) -> None:
    shop.set(LET_WEB, unreadable(policy("broken", "ALLOW")))
    assert (shop.call().status, shop.pay(), shop.bound_tcp()) == (403, grpc.StatusCode.PERMISSION_DENIED, b"")


def test_ports(shop: Shop) -> None:
    shop.set(policy("grpc-only", "ALLOW", rule(who("web"), to=[Operation(ports=(GRPC,))])))
    assert shop.call().status == 403
    assert isinstance(shop.pay(), bytes)
    assert shop.bound_tcp() == b""


def test_methods(shop: Shop) -> None:
    shop.set(policy("reads", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",))])))
    assert [shop.call(method=method).status for method in ("GET", "POST", "DELETE")] == [200, 403, 403]
    assert shop.call(method="get").status == 400  # not a method that HTTP knows


def test_path_prefix_and_exact(shop: Shop) -> None:
    shop.set(policy("paths", "ALLOW", rule(who("web"), to=[Operation(paths=("/a/*", "/exact"))])))
    want = {
        "/a/": 200,
        "/a/b?x=/c": 200,
        "/a/../a/b": 200,
        "/exact": 200,
        "/exact?q": 200,
        "/": 403,
        "/a": 403,
        "/ab": 403,
        "/A/b": 403,
        "/exact/": 403,
        "/exact/more": 403,
        "/b?x=/a/": 403,
    }
    assert {path: shop.ask_as(shop.leaves["web"], path) for path in want} == want
    assert {path: shop.call(path).status for path in want} == want


@pytest.mark.parametrize(
    "path",
    [
        "/secret/x", "//secret/x", "/./secret/x", "/open/../secret/x", "/open/%2e%2e/secret/x", "/open/..%2fsecret/x",
        "/%73ecret/x", "/secret//x", "/secret/./x", "/secret/x?y", "/secret%2fx", "/open/%2E%2E/secret/x",
        "/open/..\\secret\\x", "/open/;a/../../secret/x", "/secret/x#y", "/secret/;x", "/open\\..\\secret/x",
    ],
)  # fmt: skip
def test_path_tricks_do_not_pass_a_deny(shop: Shop, path: str) -> None:
    """What the app would read as something under /secret/ is refused, as 403 or as a bad request."""
    shop.set(policy("all", "ALLOW", Rule()), policy("secret", "DENY", rule(to=[Operation(paths=("/secret/*",))])))
    assert shop.ask_as(shop.leaves["web"], "/open/x") == 200
    assert shop.ask_as(shop.leaves["web"], path) in (400, 403)


def test_policy_change_reaches_open_connections(shop: Shop) -> None:
    shop.set(LET_WEB)
    with shop.keep_alive() as proxied, shop.peer(shop.leaves["web"]) as direct:

        def both() -> tuple[int, int | None]:
            return ask(proxied, "/", "GET", {"Host": "orders"}).status, raw_get(direct, "/")

        assert both() == (200, 200)
        before = proxied.sock.getsockname()
        shop.set()
        wait_until("both are refused", lambda: both() == (403, 403))
        shop.set(LET_WEB)
        wait_until("both are let in", lambda: both() == (200, 200))
        assert proxied.sock.getsockname() == before


def test_tcp_policy_change_holds_for_new_connections(shop: Shop) -> None:
    shop.set(LET_WEB)
    assert shop.bound_tcp() == GREETING + b"ping\n"
    shop.set(policy("let-web", "ALLOW", rule(who("mallory"))))
    assert shop.bound_tcp() == b""
    shop.set(LET_WEB)
    assert shop.bound_tcp() == GREETING + b"ping\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restart(shop: Shop, number: signal.Signals) -> None:
    shop.set(LET_WEB)
    for envoy in (shop.orders, shop.web):
        envoy.stop(number)
        envoy.start()
    shop.set(LET_WEB)
    assert (shop.call().status, shop.ask_as(shop.leaves["mallory"])) == (200, 403)


# -- revocation


@pytest.mark.fault(24)
def test_a_revoked_identity_is_refused_on_its_open_connection_and_called_no_more(shop: Shop) -> None:
    shop.set(LET_WEB)
    with shop.peer(shop.leaves["web"]) as sock, shop.keep_alive() as through:
        assert raw_get(sock, "/") == 200
        assert ask(through, "/", "GET", {"Host": "orders"}).status == 200
        shop.set(LET_WEB, revocation("web"))
        assert raw_get(sock, "/") == 403
        assert ask(through, "/", "GET", {"Host": "orders"}).status == 403
        assert shop.pay() is grpc.StatusCode.PERMISSION_DENIED
        shop.set(LET_WEB, revocation("web", 2, revoked=False))
        assert raw_get(sock, "/") == 200
        shop.set(LET_WEB, revocation("orders"))
        assert ask(through, "/", "GET", {"Host": "orders"}).status == 503
        assert raw_get(sock, "/") == 200  # it was the server that is not to be called
    shop.set(LET_WEB)
