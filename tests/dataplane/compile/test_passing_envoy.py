"""Ports whose bytes are passed on: who gets past HTTP, who does not, and how soon a denial reaches who is in."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from dataplane.compile.open_streams import MAX_KEPT, address_of
from dataplane.compile.resources import ROUTES, ResourceKey
from dataplane.compile.verdict import Judge
from schemas.objects.authorization import HeaderMatch, Operation, Rule
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


def replaced(shop: Shop) -> int:
    """How many listeners have been replaced, whole or in a filter chain."""
    return counted(shop.orders, "^listener_manager.listener_(modified|in_place_updated)$")


def passed(shop: Shop, name: str) -> int | None:
    """The status of a request past HTTP; None: nothing passes."""
    try:
        with asker(shop, shop.leaves[name]) as sock:
            return raw_get(sock, "/")
    except (ssl.SSLError, ConnectionError):
        return None


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


def test_rules_that_change_judge_who_comes_and_cut_nobody(shop: Shop) -> None:
    """Whom they deny the agent cuts, and nobody else: tests/e2e/test_cut.py."""
    give(shop, LET_WEB)
    with asker(shop, shop.leaves["web"]) as sock:
        assert raw_get(sock, "/") == 200
        before = replaced(shop)
        more = policy("more", "ALLOW", rule(who("mallory")))
        histories: tuple[tuple[tuple[Item, ...], set[str]], ...] = (
            ((more,), {"web", "mallory"}),
            ((more, policy("others", "DENY", rule(who("orders")))), {"web", "mallory"}),
            ((more, policy("others", "DENY", rule(who("web")))), {"mallory"}),
            ((policy("closed", "DENY", Rule()),), set()),
            ((), {"web"}),
        )
        for rules, allowed in histories:
            give(shop, LET_WEB, *rules)
            assert {name for name in ("web", "mallory") if passed(shop, name) == 200} == allowed, rules
            assert raw_get(sock, "/") == 200
        assert replaced(shop) == before


@pytest.mark.fault(24)
def test_nobody_passes_while_the_rules_are_not_there(shop: Shop) -> None:
    give(shop, LET_WEB)
    everything = dict(shop.orders.feed.wanted)
    connected = connections_to_app(shop)
    for missing in ("deny", "allow"):
        shop.orders.give({key: one for key, one in everything.items() if key.name != f"inbound|http|{missing}"})
        assert passed(shop, "web") is None
    assert connections_to_app(shop) == connected
    shop.orders.give(everything)
    wait_until("the rules are back", lambda: passed(shop, "web") == 200)


@pytest.mark.fault(24)
def test_when_http_is_to_be_read_open_connections_come_to_that_and_lose_no_answer(shop: Shop) -> None:
    """Within Envoy's drain time, six seconds here. Callers have changed connections before, and so lose nothing."""
    give(shop, LET_WEB)
    with asker(shop, shop.leaves["web"]) as sock, shop.keep_alive() as ours:
        assert raw_get(sock, "/") == 200
        assert ask(ours, "/", "GET", {"Host": "orders.shop"}).status == 200
        give(shop, policy("reads", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",))])))
        begun = time.monotonic()
        sock.settimeout(0.05)
        while time.monotonic() < begun + 12:  # six, and patience with a busy machine
            assert ask(ours, "/", "GET", {"Host": "orders.shop"}).status == 200  # raises for an answer that is cut
            with suppress(TimeoutError):
                assert sock.recv(100) == b""
                break
        else:
            raise AssertionError("a connection from before is still open")
        assert ask(ours, "/", "POST", {"Host": "orders.shop"}).status == 403


@pytest.mark.fault(24)
def test_who_is_silent_is_reported(shop: Shop) -> None:
    """Before a first byte has been judged, by rules that may be others by then: for the agent to judge anew."""
    give(shop, LET_WEB)
    with asker(shop, shop.leaves["orders"]) as sock:
        here = address_of(*sock.getsockname()[:2])

        def told() -> bool:
            return any(one.connection.remote == here for one in shop.orders.reports)

        wait_until("a connection without a byte is reported", told)
        (one, *_) = (one for one in shop.orders.reports if one.connection.remote == here)
        assert (one.identities, one.method) == ((identity("orders"),), None)
        routes = shop.orders.feed.wanted[ResourceKey(ROUTES, "inbound|http")]
        assert Judge().denies(routes, one)


def test_of_what_stays_open_the_headers_are_told_that_rules_ask_for(shop: Shop) -> None:
    """From the next request on, of connections that are open too."""
    asking = [HeaderMatch(name="x-team", values=("red",)), HeaderMatch(name="X-None"), HeaderMatch(name="x-%'odd`")]
    teams = policy("teams", "ALLOW", *(rule(who("web"), to=[Operation(headers=(one,))]) for one in asking))
    give(shop, LET_WEB)
    with shop.peer(shop.leaves["web"]) as sock:
        assert raw_get(sock, "/") == 200
        give(shop, LET_WEB, teams)
        sent = ("x-takes: 1.2", "x-team: red", "X-Team: \\u00e9", "x-%'odd`: caf\u00e9 \\u00e9", "x-none:")
        lines = [one.encode("latin-1") for one in (*sent, "")]
        sock.sendall(b"\r\n".join([b"GET /told HTTP/1.1", b"Host: orders.shop", *lines, b""]))
        wait_until("it is reported", lambda: any(one.path == "/told" for one in shop.orders.reports))
        (one, *_) = (one for one in shop.orders.reports if one.path == "/told")
        assert one.known == ("x-%'odd`", "x-none", "x-team")
        assert dict(one.headers) == {"x-team": "red,\\u00e9", "x-none": "", "x-%'odd`": "caf\udce9 \\u00e9"}
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    with shop.peer(shop.leaves["web"]) as sock:
        too_long = b"x-team: " + b"\xff" * (MAX_KEPT + 1)
        lines = [b"x-takes: 1.2", b"x-none: 1", too_long, b""]
        sock.sendall(b"\r\n".join([b"GET /long HTTP/1.1", b"Host: orders.shop", *lines, b""]))
        wait_until("it is reported", lambda: any(one.path == "/long" for one in shop.orders.reports))
        (one, *_) = (one for one in shop.orders.reports if one.path == "/long")
        assert (one.known, one.headers) == ((), ())
