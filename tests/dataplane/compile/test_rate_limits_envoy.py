"""How often a real Envoy lets whom through, what it tells whom it refuses, and what a change does to the open."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest

from schemas.objects.authorization import Operation, Source
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.shop import GRPC, HTTP, TCP, Shop, apps
from tests.states.build import Item, identity, instance, peers, policy, port, rate_limit, rule, service, who
from tests.support.pki import Leaf

LET_ALL = policy("let-all", "ALLOW", rule(who("web", "mallory", "cart.back")))
RATE_HEADERS = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after")


@pytest.fixture(scope="module")
def shop(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Shop]:
    with apps() as ports:
        made = Shop(envoys("web"), envoys("orders"), own_address(), own_address(), ports)
        made.leaves["cart"] = made.authority.issue(uri=identity("cart.back"))
        yield made


def hourly(requests: int, **more: object) -> dict[str, object]:
    """A rule whose bucket is not refilled while a test runs."""
    return {"limit": {"requests": requests, "unit": "Hour"}, **more}


def give(shop: Shop, *rules: object, name: str) -> None:
    """`name`: of its own for each test, so that no bucket is another test's."""
    shop.set(LET_ALL, rate_limit(name, *rules))


class Peer:
    """Calls orders straight, over one connection."""

    def __init__(self, secured: socket.socket) -> None:
        self._connection = http.client.HTTPConnection("orders.shop")
        self._connection.sock = secured

    def get(self, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
        """Status, and the headers that tell of limits."""
        self._connection.request(method, path, headers={one.replace("_", "-"): value for one, value in headers.items()})
        answer = self._connection.getresponse()
        answer.read()
        told = {name: value for name, value in answer.getheaders() if name in RATE_HEADERS or "mesh" in name}
        return answer.status, told

    def statuses(self, number: int, path: str = "/", **headers: str) -> list[int]:
        return [self.get(path, **headers)[0] for _ in range(number)]


@contextmanager
def peer(shop: Shop, name: str, number: int = HTTP) -> Iterator[Peer]:
    with shop.peer(shop.leaves[name], number) as secured:
        yield Peer(secured)


def test_each_caller_has_a_bucket_and_is_told_what_is_left(shop: Shop) -> None:
    give(shop, hourly(2), name="each")
    with peer(shop, "web") as web, peer(shop, "mallory") as mallory:
        assert web.get() == (200, {"x-ratelimit-limit": "2", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "0"})
        status, told = web.get()
        assert (status, told["x-ratelimit-remaining"]) == (200, "0")
        status, told = web.get()
        assert (status, told["x-ratelimit-limit"], told["x-ratelimit-remaining"]) == (429, "2", "0")
        assert told["retry-after"] == told["x-ratelimit-reset"]
        assert 1700 < int(told["retry-after"]) <= 1800, "one token of two an hour"
        assert mallory.statuses(3) == [200, 200, 429]


@pytest.mark.fault(22)
def test_nobody_takes_anothers_bucket_by_a_header(shop: Shop) -> None:
    give(shop, hourly(1), name="spoofed")
    with peer(shop, "mallory") as mallory, peer(shop, "web") as web:
        said = f"URI={identity('web')}"
        assert mallory.get(x_forwarded_client_cert=said)[0] == 200
        for value in (said, f"URI={identity('cart.back')}"):
            assert mallory.get(x_forwarded_client_cert=value)[0] == 429
        assert web.statuses(2) == [200, 429]


def test_a_caller_has_one_bucket_on_all_its_connections(shop: Shop) -> None:
    give(shop, hourly(3), name="connections")
    taken = []
    for _ in range(4):
        with peer(shop, "web") as web:
            taken += web.statuses(1)
    assert taken == [200, 200, 200, 429]


def test_callers_in_plaintext_have_one_bucket_together(shop: Shop) -> None:
    shop.set(
        policy("let-addresses", "ALLOW", rule(Source(ip_blocks=("0.0.0.0/0",)))),
        peers("orders", "PERMISSIVE"),
        rate_limit("plaintext", hourly(2, matches=[{"path": {"value": "/each"}}])),
    )

    def plain(path: str) -> list[int]:
        with socket.create_connection((shop.orders_address, HTTP), timeout=10) as connection:
            return Peer(connection).statuses(2, path)

    assert plain("/each") == [200, 200]
    assert plain("/each") == [429, 429], "another connection, the same bucket"
    with peer(shop, "web") as web:
        assert web.statuses(3, "/each") == [200, 200, 429], "and none of theirs is taken from who has an identity"


def test_all_callers_together(shop: Shop) -> None:
    give(shop, hourly(3, per="All"), name="together")
    with peer(shop, "web") as web, peer(shop, "mallory") as mallory:
        assert [web.get()[0], mallory.get()[0], web.get()[0], mallory.get()[0]] == [200, 200, 200, 429]


def test_only_what_matches_is_limited_and_told_so(shop: Shop) -> None:
    odd = 'it\'s "odd" \\ || true'
    rules = (
        hourly(1, matches=[{"path": {"value": "/orders/"}, "method": "POST"}, {"path": {"value": "/both"}}]),
        hourly(2, matches=[{"path": {"value": "/both"}}]),
        hourly(1, matches=[{"path": {"type": "Exact", "value": "/exact"}}]),
        hourly(1, matches=[{"path": {"type": "Exact", "value": "/it's"}}]),
        hourly(1, matches=[{"headers": [{"name": "X-Batch", "value": odd}]}]),
    )
    give(shop, *rules, name="matches")
    with peer(shop, "web") as web:
        assert web.get("/other") == (200, {}), "what no rule is for is told nothing"
        assert web.get("/orders") == (200, {})
        assert [web.get(path, "POST")[0] for path in ("/orders", "/orders/7")] == [200, 429], "one bucket of a rule"
        assert web.get("/ordersx", "POST") == (200, {}), "whole segments"
        assert web.get("//orders/../orders?q=1", "POST")[0] == 429, "the path as the app sees it"
        assert web.get("/both")[0] == 429, "the bucket of another match of the same rule"
        assert web.statuses(2, "/exact") == [200, 429]
        assert web.get("/exact/")[0] == 200
        assert web.statuses(2, "/it's") == [200, 429]
        assert web.statuses(3, "/h", x_batch=odd) == [200, 429, 429]
        assert web.statuses(2, "/h", x_batch="it's") == [200, 200]


def test_the_strictest_of_the_rules_that_match_decides(shop: Shop) -> None:
    give(shop, hourly(2), hourly(100), hourly(50, per="All"), name="strictest")
    with peer(shop, "web") as web:
        assert [web.get()[1]["x-ratelimit-limit"] for _ in range(3)] == ["2"] * 3
        assert web.get()[0] == 429


def test_some_callers_only(shop: Shop) -> None:
    sources = [{"identities": [identity("mallory").replace("mesh.test", "MESH.test")]}, {"namespaces": ["back"]}]
    give(shop, hourly(1, **{"from": sources}), name="sources")
    with peer(shop, "web") as web, peer(shop, "mallory") as mallory, peer(shop, "cart") as cart:
        assert web.statuses(3) == [200] * 3
        assert mallory.statuses(2) == [200, 429]
        assert cart.statuses(2) == [200, 429]


def test_who_is_refused_takes_no_token(shop: Shop) -> None:
    shop.set(
        policy("reads", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",))])), rate_limit("refused", hourly(2))
    )
    with peer(shop, "web") as web:
        assert [web.get("/", "POST") for _ in range(5)] == [(403, {})] * 5
        assert web.statuses(3) == [200, 200, 429]


def test_through_both_sidecars_http_grpc_and_tcp(shop: Shop) -> None:
    give(shop, hourly(2), name="protocols")
    assert [shop.call().status for _ in range(3)] == [200, 200, 429], "each port has buckets of its own"
    answers = [shop.pay() for _ in range(3)]
    assert all(isinstance(one, bytes) for one in answers[:2])
    assert answers[2] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [shop.bound_tcp().endswith(b"ping\n") for _ in range(3)] == [True, True, False], "connections are counted"


def test_one_port_only(shop: Shop) -> None:
    give(shop, hourly(1, ports=[GRPC]), hourly(1, ports=[TCP], matches=[{"method": "GET"}]), name="ports")
    assert [shop.call().status for _ in range(2)] == [200, 200]
    assert isinstance(shop.pay(), bytes)
    assert shop.pay() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert shop.bound_tcp().endswith(b"ping\n")
    assert shop.bound_tcp().endswith(b"ping\n")


def test_limits_come_change_and_go_on_open_connections(shop: Shop) -> None:
    shop.set(LET_ALL)
    with peer(shop, "web") as web:
        assert web.get() == (200, {})
        for number in (1, 3):
            give(shop, hourly(number), name="changing")
            assert web.statuses(number + 1) == [*[200] * number, 429]
        shop.set(LET_ALL)
        assert web.get() == (200, {})


def passing(shop: Shop, *items: Item) -> None:
    orders = service("orders", port("http", HTTP, identity_header=False))
    shop.set(orders, instance("orders", "o1", shop.orders_address, http=HTTP), LET_ALL, *items)


def test_where_bytes_were_passed_on_http_is_read(shop: Shop) -> None:
    passing(shop, rate_limit("passed", hourly(1)))
    assert [shop.call().status for _ in range(2)] == [200, 429]

    def asked(leaf: Leaf) -> int:
        with shop.peer(leaf, alpn=["mesh-bytes"]) as secured:
            return Peer(secured).get()[0]

    assert [asked(shop.leaves["mallory"]) for _ in range(2)] == [200, 429]
