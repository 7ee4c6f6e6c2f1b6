"""What two real Envoys log of real traffic, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from dataplane.compile.buckets import BURST
from dataplane.questions import write_buckets
from schemas.names import ObjectRef
from schemas.objects.authorization import Operation
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import lines, logged, wait_until
from tests.dataplane.compile.shop import HTTP, TCP, Shop, apps, ask, exchange
from tests.states.build import (
    KEYS,
    authentication,
    balance,
    identity,
    mesh_saying,
    policy,
    rate_limit,
    rule,
    telemetry,
    who,
)
from tests.support.tokens import Issuer

LET_WEB = policy("let-web", "ALLOW", rule(who("web")))
WEB, ORDERS = identity("web"), identity("orders")
ALL = telemetry("everything.mesh-system", {"accessLogging": [{}]})


@pytest.fixture(scope="module")
def shop(
    envoys: EnvoyFactory, own_address: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    buckets = tmp_path_factory.mktemp("buckets")
    write_buckets(buckets)
    with apps() as ports:
        yield Shop(envoys("web"), envoys("orders"), own_address(), own_address(), ports, samples=str(buckets))


def both(shop: Shop, **fields: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """What client and server have logged of the newest request with these fields, told apart by its id."""
    client = logged(shop.web, **fields)
    return client, logged(shop.orders, request_id=client["request_id"])


# -- content


def test_http_on_both_sides(shop: Shop) -> None:
    shop.set(LET_WEB, ALL, balance("spread", "RoundRobin", "orders"))
    assert shop.call("/content?card=4711").status == 200
    client, server = both(shop, path="/content")
    for line, side in ((client, "client"), (server, "server")):
        assert (line["side"], line["source"], line["destination"]) == (side, WEB, ORDERS)
        assert (line["method"], line["authority"], line["path"], line["status"]) == (
            "GET",
            "orders.shop",
            "/content",
            200,
        )
        assert (line["flags"], line["details"], line["attempts"]) == ("-", "via_upstream", 1)
        assert line["time"].endswith("Z")
        assert all(isinstance(line[name], int) for name in ("duration_ms", "request_ms", "response_ms", "bytes_sent"))
    assert (client["protocol"], server["protocol"]) == ("HTTP/1.1", "HTTP/2")
    assert client["upstream"] == f"{shop.orders_address}:{HTTP}"
    assert (client["upstream_cluster"], server["upstream_cluster"]) == (f"outbound|orders.shop|{HTTP}", "app|http")
    assert server["upstream"] == f"127.0.0.1:{shop.app_ports['http']}"
    assert client["traffic_policy"] == "BackendTrafficPolicy/shop/spread@1"
    assert server["authorization_policy"] == "shop/let-web[0]"
    assert "4711" not in shop.web.access_log.read_text() + shop.orders.access_log.read_text()


def test_grpc_on_both_sides(shop: Shop) -> None:
    shop.set(LET_WEB, ALL)
    assert isinstance(shop.pay(), bytes)
    for line in both(shop, path="/shop.Payments/Pay"):
        assert (line["protocol"], line["status"], line["grpc_status"]) == ("HTTP/2", 200, "OK")
        assert (line["source"], line["destination"]) == (WEB, ORDERS)
        assert line["bytes_received"] > 0


def test_tcp_by_bound_port_on_both_sides(shop: Shop) -> None:
    shop.set(LET_WEB, ALL)
    said = shop.bound_tcp()
    cluster = f"outbound|orders.shop|{TCP}"
    client = logged(shop.web, upstream_cluster=cluster, source=WEB, destination=ORDERS)
    server = logged(shop.orders, authority=f"orders.shop.mesh:{TCP}", source=WEB, destination=ORDERS)
    assert client["upstream"] == f"{shop.orders_address}:{TCP}"
    assert client["bytes_sent"] == server["bytes_sent"] == len(said)
    assert (server["method"], server["authorization_policy"]) == ("CONNECT", "shop/let-web[0]")


def test_tcp_by_connect_on_both_sides(shop: Shop) -> None:
    shop.set(LET_WEB, ALL)
    shop.tunnel(f"orders.shop:{TCP}")
    for line in both(shop, authority=f"orders.shop:{TCP}"):
        assert (line["method"], line["source"], line["destination"]) == ("CONNECT", WEB, ORDERS)


def test_who_was_refused_and_by_what(shop: Shop) -> None:
    shop.set(ALL, LET_WEB, policy("no-admin", "DENY", rule(who("web"), to=[Operation(paths=("/admin/*",))])))
    assert shop.call("/admin/1").status == 403
    client, server = both(shop, path="/admin/1", status=403)
    assert server["details"] == "rbac_access_denied_matched_policy[shop/no-admin[0]]"
    assert (server["source"], server["authorization_policy"]) == (WEB, "shop/no-admin[0]")
    assert client["details"] == "via_upstream"
    shop.set(ALL)
    assert shop.call("/nobody").status == 403
    _, server = both(shop, path="/nobody", status=403)
    assert server["details"] == "rbac_access_denied_matched_policy[none]"
    assert "nearest" not in server


def test_the_nearest_miss_of_what_nothing_allowed(shop: Shop) -> None:
    """As it was when it was denied; with header or without, and of nothing else."""
    reads = policy("reads", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",), paths=("/a/*",))]))
    no_deletes = policy("no-deletes", "DENY", rule(to=[Operation(methods=("DELETE",))]))
    for number, mesh in enumerate(([], [mesh_saying(denialHeader=True)])):
        shop.set(ALL, reads, no_deletes, *mesh)
        for method, path, nearest in (
            ("PUT", f"/a/{number}", "but for methods: shop/reads[0]"),
            ("GET", f"/{number}", "but for paths: shop/reads[0]"),
            ("PUT", f"/{number}/put", "only from: shop/reads[0]"),
        ):
            answer = shop.call(path, method)
            assert (answer.status, answer.nearest) == (403, nearest if mesh else None)
            assert logged(shop.orders, path=path)["nearest"] == nearest
        for method, path, status in (("GET", f"/a/got/{number}", 200), ("DELETE", f"/a/gone/{number}", 403)):
            assert shop.call(path, method).status == status
            assert "nearest" not in logged(shop.orders, path=path)


def test_the_one_nearest_miss_of_a_port_that_asks_who_calls_alone(shop: Shop) -> None:
    others = policy("others", "ALLOW", rule(who("api")))
    no_deletes = policy("no-deletes", "DENY", rule(to=[Operation(methods=("DELETE",))]))
    nearest = "but for identities: shop/others[0]"
    for number, mesh in enumerate(([], [mesh_saying(denialHeader=True)])):
        shop.set(ALL, others, no_deletes, *mesh)
        answer = shop.call(f"/who/{number}")
        assert (answer.status, answer.nearest) == (403, nearest if mesh else None)
        assert logged(shop.orders, path=f"/who/{number}")["nearest"] == nearest
        answer = shop.call(f"/gone/{number}", "DELETE")
        assert (answer.status, answer.nearest) == (403, None)
        assert "nearest" not in logged(shop.orders, path=f"/gone/{number}")


def test_no_nearest_miss_of_what_no_policy_has_judged(shop: Shop) -> None:
    issuer = Issuer("https://one.example")
    proved = authentication("tokens", {"issuer": issuer.name, "jwks": issuer.jwks()})
    reads = policy("reads", "ALLOW", rule(who("web"), to=[Operation(paths=("/a/*",))]))
    shop.set(ALL, reads, proved, mesh_saying(denialHeader=True))
    answer = shop.call("/malformed", authorization="Bearer nonsense")
    assert (answer.status, answer.nearest) == (401, None)
    assert "nearest" not in logged(shop.orders, path="/malformed")
    assert shop.call("/well-formed").nearest == "but for paths: shop/reads[0]"


def test_a_peer_of_its_own_is_logged_by_its_certificate(shop: Shop) -> None:
    shop.set(ALL, LET_WEB)
    lie = f"x-forwarded-client-cert: URI={WEB}"
    assert shop.ask_as(shop.leaves["mallory"], "/as-mallory", lie) == 403
    assert logged(shop.orders, path="/as-mallory")["source"] == identity("mallory")


# -- the revision that decided


def test_revision_of_what_decided(shop: Shop) -> None:
    """Each side names the newest object that its own configuration for the request was made of."""
    policy_key, service_key = KEYS.object(LET_WEB.ref), KEYS.object(ObjectRef("Service", "shop", "orders"))
    shop.set(ALL, LET_WEB, revisions={policy_key: 41, service_key: 17})
    assert shop.call("/first").status == 200
    client, server = both(shop, path="/first")
    assert (client["revision"], server["revision"]) == (17, 41)
    newer = 1_234_567_890
    with shop.open_tcp() as opened_before:
        assert exchange(opened_before)
        shop.set(ALL, LET_WEB, revisions={policy_key: 41, service_key: newer})
        assert shop.call("/second").status == 200
        assert [line["revision"] for line in both(shop, path="/second")] == [newer, newer]
        shop.bound_tcp()
        logged(shop.web, upstream_cluster=f"outbound|orders.shop|{TCP}", revision=newer)
        assert exchange(opened_before, b"still\n") == b"still\n"
    logged(shop.web, upstream_cluster=f"outbound|orders.shop|{TCP}", revision=17)


# -- levels


def test_failures_are_logged_where_nothing_is_said(shop: Shop) -> None:
    shop.set(LET_WEB)
    assert shop.call("/fine").status == 200
    assert shop.call("/gone", host="payments.shop").status == 503  # it has no instance
    line = logged(shop.web, path="/gone")
    assert line["status"] == 503
    assert not [line for envoy in (shop.web, shop.orders) for line in lines(envoy) if line.get("path") == "/fine"]


def test_denials_are_logged_where_nothing_is_said(shop: Shop) -> None:
    """By the sidecar that denied, with all that `meshadm why` goes by; sampled or not, unless logging is disabled."""
    never = telemetry("never", {"accessLogging": [{"randomSamplingPercentage": 0, "filter": {}}]}, ["orders"])
    for number, said in enumerate(([], [never])):
        shop.set(*said)
        assert shop.call(f"/denied/{number}", **{"x-request-id": f"denied-{number}"}).status == 403
        line = logged(shop.orders, request_id=f"denied-{number}")
        assert (line["path"], line["port"], line["source"]) == (f"/denied/{number}", HTTP, WEB)
        assert line["details"] == "rbac_access_denied_matched_policy[none]"
    assert shop.ask_as(shop.leaves["mallory"], "/a%252e") == 400  # before any policy is asked
    assert logged(shop.orders, status=400)["request_id"]  # of our own, where the caller has none
    shop.set(telemetry("nothing", {"accessLogging": [{"disabled": True}]}, ["orders"]))
    assert shop.call("/hidden").status == 403
    shop.set()
    assert shop.call("/seen").status == 403
    logged(shop.orders, path="/seen")
    assert "/hidden" not in shop.orders.access_log.read_text()
    assert "/denied" not in shop.web.access_log.read_text()


def test_a_refused_bound_connection_is_tried_thrice(shop: Shop) -> None:
    """By the caller's sidecar, at once: of a tunnel's answer it knows no more than that it is none."""
    shop.set()
    before = len(lines(shop.orders))
    assert not shop.bound_tcp()
    assert logged(shop.web, source=WEB, destination=ORDERS, upstream_failure="tunnel_response:403")
    wait_until("the server has logged as well", lambda: len(lines(shop.orders)) >= before + 3)
    assert [(one["method"], one["status"]) for one in lines(shop.orders)[before:]] == [("CONNECT", 403)] * 3


def test_what_a_limit_refused_is_logged_where_nothing_is_said(shop: Shop) -> None:
    """With its rule, and in a flood a part of it; all of it where it is asked for, each once."""
    one = {"limit": {"requests": 1, "unit": "Hour"}}
    shop.set(LET_WEB, rate_limit("one", {**one, "ports": [HTTP]}, one))
    with shop.keep_alive() as connection:
        flood = [ask(connection, "/flood", "GET", {"Host": "orders.shop"}).status for _ in range(2 * BURST)]
    assert flood == [200] + [429] * (2 * BURST - 1)
    line = logged(shop.orders, path="/flood")
    assert (line["flags"], line["details"], line["status"]) == ("RL", "local_rate_limited", 429)
    assert (line["source"], line["rate_limit"]) == (WEB, "shop/one[0] or shop/one[1]")
    few = [one, {"limit": {"requests": 9, "unit": "Hour"}}]
    shop.set(LET_WEB, rate_limit("few", *few), ALL)
    for _ in range(2):
        answers = [shop.pay() for _ in range(2)]
        assert answers[1] is grpc.StatusCode.RESOURCE_EXHAUSTED
        shop.set(LET_WEB, rate_limit("few", *few, few[1]), ALL)  # full again
    shop.set(LET_WEB, rate_limit("few", *few), telemetry("no", {"accessLogging": [{"disabled": True}]}, ["orders"]))
    assert [shop.call("/hidden").status for _ in range(2)] == [200, 429]
    shop.set(LET_WEB, ALL)
    assert shop.call("/seen").status == 200
    logged(shop.orders, path="/seen")
    limited = [line for line in lines(shop.orders) if "rate_limit" in line or line["flags"] == "RL"]
    assert BURST <= len([line for line in limited if line.get("path") == "/flood"]) < 1.5 * BURST
    assert [(line["path"], line["rate_limit"]) for line in limited if line["path"] != "/flood"] == [
        ("/shop.Payments/Pay", "shop/few[0]")
    ] * 2


def test_grpc_failures_are_logged_where_nothing_is_said(shop: Shop) -> None:
    shop.set(LET_WEB)
    assert shop.pay("/shop.Payments/Nothing") is grpc.StatusCode.UNIMPLEMENTED
    assert logged(shop.web, path="/shop.Payments/Nothing")["grpc_status"] == "UNIMPLEMENTED"


def test_a_level_changes_on_open_connections(shop: Shop) -> None:
    """Telemetry reaches the next request, and no listener is made anew for it."""
    shop.set(LET_WEB)
    with shop.keep_alive() as connection:
        assert ask(connection, "/before", "GET", {"Host": "orders.shop"}).status == 200
        shop.set(LET_WEB, ALL)
        assert ask(connection, "/during", "GET", {"Host": "orders.shop"}).status == 200
        both(shop, path="/during")
        shop.set(LET_WEB, telemetry("nothing.mesh-system", {"accessLogging": [{"disabled": True}]}))
        assert ask(connection, "/after", "GET", {"Host": "orders.shop"}).status == 200
        shop.set(LET_WEB, ALL)
        assert ask(connection, "/at-last", "GET", {"Host": "orders.shop"}).status == 200
        both(shop, path="/at-last")
    said = [line.get("path") for envoy in (shop.web, shop.orders) for line in lines(envoy)]
    assert not {"/before", "/after"} & set(said)


def test_each_side_has_its_level(shop: Shop) -> None:
    only_server = telemetry(
        "of-orders", {"accessLogging": [{"match": {"mode": "SERVER"}, "filter": {"minStatusCode": 400}}]}, ["orders"]
    )
    shop.set(only_server)
    assert shop.call("/refused").status == 403
    assert logged(shop.orders, path="/refused")["status"] == 403
    shop.set(only_server, LET_WEB)
    assert shop.call("/let-in").status == 200
    assert shop.call("/not-there", **{"x-status": "404"}).status == 404  # which by itself is not logged
    assert logged(shop.orders, path="/not-there")["status"] == 404
    shop.set(LET_WEB, telemetry("callers", {"accessLogging": [{"match": {"mode": "CLIENT"}}]}))
    assert shop.call("/by-callers").status == 200
    logged(shop.web, path="/by-callers")
    shop.set(only_server)
    assert shop.call("/refused-again").status == 403
    logged(shop.orders, path="/refused-again")
    assert not [line for line in lines(shop.web) if line.get("path", "").startswith("/refused")]
    assert not [line for line in lines(shop.orders) if line.get("path") in ("/let-in", "/by-callers")]


def test_slow_ones_alone(shop: Shop) -> None:
    shop.set(LET_WEB, telemetry("slow", {"accessLogging": [{"filter": {"minDuration": "100ms"}}]}))
    for _ in range(5):
        assert shop.call("/paced").status == 200
    assert shop.call("/paced", **{"x-takes": "0.15"}).status == 200
    both(shop, path="/paced")
    took = [
        line["duration_ms"] for one in (shop.web, shop.orders) for line in lines(one) if line.get("path") == "/paced"
    ]
    assert min(took) >= 100, "what is faster is left out"


def test_both_sides_sample_the_same_requests(shop: Shop) -> None:
    shop.set(LET_WEB, telemetry("some", {"accessLogging": [{"randomSamplingPercentage": 50}]}))
    with shop.keep_alive() as connection:
        for number in range(40):
            assert ask(connection, f"/sampled/{number}", "GET", {"Host": "orders.shop"}).status == 200
        shop.set(LET_WEB, ALL)
        assert ask(connection, "/sampled/end", "GET", {"Host": "orders.shop"}).status == 200
    both(shop, path="/sampled/end")
    client, server = (
        {line["path"] for line in lines(envoy) if line.get("path", "").startswith("/sampled/")}
        for envoy in (shop.web, shop.orders)
    )
    assert client == server
    assert 2 < len(client) < 40  # by chance wrong once in a billion
