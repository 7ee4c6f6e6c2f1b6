"""Ports whose bytes are passed on: who gets past HTTP, who does not, and how soon a denial reaches who is in."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from schemas.objects.authorization import Operation, Rule
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import FedEnvoy, wait_until
from tests.dataplane.compile.shop import GREETING, HTTP, Shop, apps, ask, raw_get
from tests.states.build import Item, identity, instance, policy, port, rule, service, telemetry, who
from tests.states.routes import http_route
from tests.support.pki import Leaf

LET_WEB = policy("let-web", "ALLOW", rule(who("web")))
PASSING = service("orders", port("http", HTTP, identity_header=False), port("shy", 8081, identity_header=False))
ALPN = ["mesh-bytes"]
DRAIN_S = 6  # a sidecar's Envoy has ten; callers need four


@pytest.fixture(scope="module")
def shop(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Shop]:
    with apps() as ports:
        orders = envoys("orders")
        orders.stop()
        orders.drain_seconds = DRAIN_S
        orders.start()
        yield Shop(envoys("web"), orders, own_address(), own_address(), {**ports, "shy": ports["raw"]})


def give(shop: Shop, *items: Item) -> None:
    shop.set(PASSING, instance("orders", "o1", shop.orders_address, http=HTTP), *items)


@contextmanager
def asker(shop: Shop, leaf: Leaf, number: int = HTTP) -> Iterator[ssl.SSLSocket]:
    """A peer without a sidecar, that asks for bytes."""
    with shop.peer(leaf, number, alpn=ALPN) as sock:
        yield sock


def counted(envoy: FedEnvoy, names: str) -> int:
    """The sum of the counters whose names match."""
    lines = envoy.admin(f"/stats?type=Counters&filter={names}").splitlines()
    return sum(int(line.rpartition(":")[2]) for line in lines)


def connections_to_app(shop: Shop) -> int:
    return counted(shop.orders, "cluster.app.*upstream_cx_total")


def requests_read(shop: Shop) -> int:
    return counted(shop.orders, "http.inbound.*downstream_rq_total")


def test_what_web_asks_goes_past_http(shop: Shop) -> None:
    give(shop, LET_WEB)
    before = requests_read(shop)
    answer = shop.call("/orders/7?q=1")
    assert (answer.status, answer.seen["path"]) == (200, "/orders/7?q=1")
    assert answer.header("x-forwarded-client-cert") == []
    assert requests_read(shop) == before


def test_an_app_has_no_request_sent_again_by_a_header(shop: Shop) -> None:
    """Nobody reads its answers before they come to the caller's sidecar."""
    again = "cluster.outbound.orders.shop.8080.upstream_rq_retry$"
    rule = http_route(f"- retry: {{}}\n  backendRefs: [{{name: orders, port: {HTTP}}}]")
    for rules in ((), (rule,)):
        give(shop, LET_WEB, *rules)
        before = counted(shop.web, again)
        for word in ("unreached", "reset"):
            answer = shop.call(method="POST", **{"x-says": word})
            assert (answer.status, answer.header("x-says")) == (200, [word])
        assert counted(shop.web, again) == before


def test_who_does_not_ask_for_it_is_read_as_ever(shop: Shop) -> None:
    give(shop, LET_WEB)
    assert shop.ask_as(shop.leaves["web"]) == 200
    assert shop.ask_as(shop.leaves["mallory"]) == 403


def test_a_stranger_reaches_no_app(shop: Shop) -> None:
    give(shop, LET_WEB)
    before = connections_to_app(shop)
    with asker(shop, shop.leaves["mallory"]) as sock, pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        assert raw_get(sock, "/") is not None
    assert connections_to_app(shop) == before


@pytest.mark.spiffe(9)
def test_who_has_two_identities_reaches_no_app(shop: Shop) -> None:
    give(shop, LET_WEB)
    before = connections_to_app(shop)
    leaf = shop.authority.issue(uri=[identity("web"), identity("mallory")])
    with asker(shop, leaf) as sock, pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        assert raw_get(sock, "/") is not None
    assert connections_to_app(shop) == before


@pytest.mark.fault(21)
def test_an_app_that_speaks_first_speaks_to_nobody_who_was_not_judged(shop: Shop) -> None:
    give(shop, LET_WEB)
    with asker(shop, shop.leaves["mallory"], 8081) as sock:
        sock.settimeout(0.5)
        with pytest.raises((TimeoutError, ssl.SSLError, ConnectionError)):
            assert sock.recv(100) != b""
    with asker(shop, shop.leaves["web"], 8081) as sock:
        sock.sendall(b"x\n")
        assert sock.recv(100).startswith(GREETING[:1])


@pytest.mark.parametrize("more", [(), (policy("closed", "DENY", Rule()),)], ids=["nobody allowed", "denied"])
def test_without_an_allow_and_with_a_deny_nothing_passes(shop: Shop, more: tuple[Item, ...]) -> None:
    give(shop, *((LET_WEB, *more) if more else ()))
    with asker(shop, shop.leaves["web"]) as sock, pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        assert raw_get(sock, "/") is not None


def test_a_rule_of_http_brings_http_back(shop: Shop) -> None:
    give(shop, policy("reads", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",))])))
    with asker(shop, shop.leaves["web"]) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n")
        assert identity("web").encode() in b"".join(iter(lambda: sock.recv(4096), b""))
    with asker(shop, shop.leaves["web"]) as sock:
        sock.sendall(b"DELETE / HTTP/1.1\r\nHost: orders\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 403")


def test_telemetry_of_requests_brings_http_back(shop: Shop) -> None:
    collector: object = {"provider": {"address": "127.0.0.1:4317"}}
    sections: tuple[dict[str, object], ...] = (
        {"accessLogging": [{"match": {"mode": "SERVER"}}]},
        {"metrics": [{}]},
        {"tracing": collector},
        {},
    )
    for asks in sections:
        give(shop, LET_WEB, telemetry("t", asks, ["orders"]))
        before = requests_read(shop)
        with asker(shop, shop.leaves["web"]) as sock:
            assert raw_get(sock, "/asked-for") == 200
        assert requests_read(shop) - before == bool(asks), asks
    wait_until("the request is logged", lambda: '"/asked-for"' in shop.orders.access_log.read_text())


@pytest.mark.fault(24)
def test_a_denial_reaches_open_connections_and_cuts_no_answer(shop: Shop) -> None:
    """Within Envoy's drain time, six seconds here. Callers have changed connections before, and so lose nothing."""
    give(shop, LET_WEB)
    with asker(shop, shop.leaves["web"]) as sock, shop.keep_alive() as ours:
        assert raw_get(sock, "/") == 200
        before = connections_to_app(shop)
        assert ask(ours, "/", "GET", {"Host": "orders.shop"}).status == 200
        give(shop, LET_WEB, policy("closed", "DENY", rule(who("web"))))
        statuses = [200]
        begun = time.monotonic()
        while statuses[-1] == 200 and time.monotonic() < begun + 15:
            statuses.append(ask(ours, "/", "GET", {"Host": "orders.shop"}).status)  # raises for an answer that is cut
            time.sleep(0.02)
        assert statuses[-1] == 503
        sock.settimeout(15)
        with suppress(ssl.SSLError, ConnectionError):
            assert sock.recv(100) == b""
        assert time.monotonic() - begun < 12  # six, and patience with a busy machine
        assert connections_to_app(shop) <= before + 1


def test_a_change_of_policies_loses_nothing_of_whom_both_let_in(shop: Shop) -> None:
    give(shop, LET_WEB)
    with shop.keep_alive() as ours:
        assert ask(ours, "/", "GET", {"Host": "orders.shop"}).status == 200
        give(shop, LET_WEB, policy("more", "ALLOW", rule(who("mallory"))))
        end = time.monotonic() + 7  # more than callers' four and the drain time's six need
        while time.monotonic() < end:
            assert ask(ours, "/", "GET", {"Host": "orders.shop"}).status == 200
            time.sleep(0.01)
