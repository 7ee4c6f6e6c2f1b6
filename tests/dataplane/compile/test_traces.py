"""Spans of real traffic through two real Envoys, as a collector gets them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from dataplane.compile.tracing import TRACES
from schemas.objects.telemetry import Telemetry
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import FedEnvoy, wait_until
from tests.dataplane.compile.shop import GRPC, PROXY, TCP, Shop, apps, ask, exchange
from tests.states.build import Item, identity, need_external, policy, port, rule, service, telemetry, who
from tests.states.routes import written
from tests.support.collector import Collector, Span, collector
from tests.support.net import free_port

LET_WEB = policy("let-web", "ALLOW", rule(who("web")))
WEB, ORDERS = identity("web"), identity("orders")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def shop(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Shop]:
    with apps() as ports:
        yield Shop(envoys("web"), envoys("orders"), own_address(), own_address(), ports)


@pytest.fixture(scope="module")
def otlp() -> Iterator[Collector]:
    with collector() as one:
        yield one


def sampled(provider: object) -> dict[str, object]:
    return {"tracing": {"provider": provider, "randomSamplingPercentage": 100}}


def traced(otlp: Collector, percentage: float = 100, **more: Any) -> Telemetry:
    provider = {"address": f"127.0.0.1:{otlp.grpc_port}"}
    said = {"provider": provider, "randomSamplingPercentage": percentage, **more}
    return telemetry("traces.mesh-system", {"tracing": said})


def use(shop: Shop, *items: Item) -> None:
    """As `Shop.set`; returns when spans go the new way, too."""
    shop.set(*items)
    wait_until("spans go their way", lambda: all(_way(one) == _ways(one) for one in (shop.web, shop.orders)))


def _way(envoy: FedEnvoy) -> list[str]:
    """The internal listeners that spans are sent to."""
    clusters = [one["cluster"] for one in envoy.dump("dynamic_active_clusters")]
    endpoints = [one["load_assignment"]["endpoints"] for one in clusters if one["name"] == TRACES]
    hosts = [host["endpoint"]["address"] for [group] in endpoints for host in group["lb_endpoints"]]
    return [one["envoy_internal_address"]["server_listener_name"] for one in hosts]


def _ways(envoy: FedEnvoy) -> list[str]:
    active = [one["name"] for one in envoy.dump("dynamic_listeners") if "active_state" in one]
    return [name for name in active if name.startswith(TRACES)]


def spans(otlp: Collector, path: str, number: int = 2) -> list[Span]:
    """Of the request to `path`, as soon as there are so many: the client's, then the server's."""
    wait_until(f"{number} spans of {path}", lambda: len(otlp.of_path(path)) >= number)
    return otlp.of_path(path)


def parent(sampled: bool) -> str:
    return f"00-{TRACE}-{PARENT}-0{int(sampled)}"


def test_both_sidecars_tell_of_a_request(shop: Shop, otlp: Collector) -> None:
    tags = [{"name": "shop.region", "literal": "north"}, {"name": "shop.tenant", "requestHeader": "x-tenant"}]
    use(shop, LET_WEB, traced(otlp, customTags=tags))
    answer = shop.call("/both?card=4711", **{"x-tenant": "acme"})
    client, server = spans(otlp, "/both")
    assert (client.service, server.service) == ("web.shop", "orders.shop")
    assert (client.kind, server.kind, client.name) == (3, 2, "GET")
    assert (client.parent, server.parent, server.trace_id) == ("", client.span_id, client.trace_id)
    assert answer.header("traceparent") == [f"00-{server.trace_id}-{server.span_id}-01"]
    for one in (client, server):
        assert (one.tags["mesh.source"], one.tags["mesh.destination"]) == (WEB, ORDERS)
        assert (one.tags["shop.region"], one.tags["shop.tenant"]) == ("north", "acme")
        assert (one.tags["http.status_code"], one.tags["mesh.revision"]) == ("200", "1")
        assert "4711" not in str(one.tags)
    assert server.tags["guid:x-request-id"] == client.tags["guid:x-request-id"] == answer.header("x-request-id")[0]


def test_the_callers_alone_tells_of_a_request_to_the_outside(shop: Shop, otlp: Collector) -> None:
    outside = f"""
        kind: ExternalService
        metadata: {{name: api}}
        spec:
          ports: [{{name: http, port: 80, protocol: http}}]
          endpoints: [{{address: 127.0.0.1, ports: {{http: {shop.app_ports["http"]}}}}}]
          tls: {{mode: DISABLE}}
        """
    caller = service("web", port("http", 80), needs=[need_external("api")])
    use(shop, traced(otlp), caller, *written(outside))
    assert shop.call("/outside", host="api.shop").status == 200
    [span] = spans(otlp, "/outside", 1)
    assert (span.tags["mesh.source"], span.tags["mesh.destination"]) == (WEB, "api.shop")


def test_a_trace_that_the_app_began_goes_on(shop: Shop, otlp: Collector) -> None:
    """Also where nobody is sampled who has not begun one."""
    use(shop, LET_WEB, traced(otlp, 0))
    shop.call("/child", traceparent=parent(True), tracestate="a=b", **{"x-request-id": "0123456789"})
    client, server = spans(otlp, "/child")
    assert (client.trace_id, client.parent, server.parent) == (TRACE, PARENT, client.span_id)
    answer = shop.call("/not-child", traceparent=parent(False))
    [said] = answer.header("traceparent")
    assert (said[:36], said[-3:]) == (f"00-{TRACE}-", "-00")
    seen = shop.call("/state", traceparent=parent(True), tracestate="a=b")
    assert seen.header("tracestate") == ["a=b"]
    spans(otlp, "/state")
    assert not otlp.of_path("/not-child")


def test_nobody_is_sampled_at_0_and_everybody_at_100(shop: Shop, otlp: Collector) -> None:
    """It changes on open connections, and what has no trace context gets one in either case."""
    use(shop, LET_WEB, traced(otlp, 0))
    with shop.keep_alive() as connection:
        for number in range(10):
            answer = ask(connection, f"/none/{number}", "GET", {"Host": "orders.shop", "x-client-trace-id": "1"})
            assert answer.header("traceparent")[0].endswith("-00")
        use(shop, LET_WEB, traced(otlp, 100))
        for number in range(10):
            ask(connection, f"/all/{number}", "GET", {"Host": "orders.shop"})
    for number in range(10):
        spans(otlp, f"/all/{number}")
    assert not [one for one in otlp.received if one.tags.get("url.path", "").startswith("/none/")]


def test_a_part_is_sampled(shop: Shop, otlp: Collector) -> None:
    use(shop, LET_WEB, traced(otlp, 50))
    with shop.keep_alive() as connection:
        flags = [
            ask(connection, f"/half/{number}", "GET", {"Host": "orders.shop"}).header("traceparent")[0][-2:]
            for number in range(40)
        ]
    assert 2 < flags.count("01") < 38  # by chance wrong once in a billion
    wait_until("spans of those that were sampled", lambda: _count(otlp, "/half/") >= 2 * flags.count("01"))
    assert _count(otlp, "/half/") == 2 * flags.count("01")


def _count(otlp: Collector, prefix: str) -> int:
    return sum(one.tags.get("url.path", "").startswith(prefix) for one in list(otlp.received))


def test_by_http(shop: Shop, otlp: Collector) -> None:
    provider = {"protocol": "http", "address": f"localhost:{otlp.http_port}", "path": "/otel/v1/traces"}
    use(shop, LET_WEB, telemetry("t", sampled(provider)))
    shop.call("/by-http")
    client, server = spans(otlp, "/by-http")
    assert server.parent == client.span_id
    assert set(otlp.requests) == {(f"localhost:{otlp.http_port}", "/otel/v1/traces", "application/x-protobuf")}


def test_to_a_collector_outside_of_the_mesh(shop: Shop, otlp: Collector) -> None:
    """Under the name that its server goes by."""
    outside = written(
        f"""
        kind: ExternalService
        metadata: {{name: spans, namespace: watch}}
        spec:
          hosts: [spans.example]
          endpoints: [{{address: 127.0.0.1, ports: {{otlp: {otlp.http_port}}}}}]
          ports: [{{name: otlp, port: 4318, protocol: http}}]
          tls: {{mode: DISABLE}}
        """
    )
    there = {"kind": "ExternalService", "name": "spans", "namespace": "watch", "port": 4318}
    otlp.requests.clear()
    use(shop, LET_WEB, *outside, telemetry("t", sampled({"protocol": "http", "path": "/there", "backendRef": there})))
    shop.call("/outside")
    spans(otlp, "/outside")
    assert set(otlp.requests) == {(f"spans.example:{otlp.http_port}", "/there", "application/x-protobuf")}


def test_to_a_collector_by_the_ways_of_the_mesh(shop: Shop, otlp: Collector) -> None:
    """Its sidecar takes spans of those that its policies let in. Here it is at a port of orders."""
    theirs = shop.app_ports["grpc"]
    shop.app_ports["grpc"] = otlp.grpc_port
    try:
        provider = {"backendRef": {"name": "orders", "port": GRPC}}
        use(shop, LET_WEB, telemetry("t", sampled(provider), ["web"]))
        shop.call("/by-mesh")
        [client] = spans(otlp, "/by-mesh", 1)
        assert client.service == "web.shop"
    finally:
        shop.app_ports["grpc"] = theirs


def test_nothing_is_exported_where_nothing_is_said(shop: Shop, otlp: Collector) -> None:
    """A trace context goes through all the same."""
    off = {"disabled": True, "provider": {"address": f"127.0.0.1:{otlp.grpc_port}"}}
    for said in ((), (telemetry("off", {"tracing": off}), traced(otlp))):
        use(shop, LET_WEB, *said)
        answer = shop.call("/silent", traceparent=parent(True))
        assert answer.header("traceparent")[0].startswith(f"00-{TRACE}-")
        # The connection to orders may be one that spans are made of still: they go nowhere.
        wait_until("spans are let go", partial(_let_go, shop.orders, _times_let_go(shop.orders)))
    use(shop, LET_WEB, traced(otlp))
    shop.call("/loud")
    spans(otlp, "/loud")
    assert not otlp.of_path("/silent")


def _let_go(envoy: FedEnvoy, before: int) -> bool:
    return _times_let_go(envoy) >= before + 2


def _times_let_go(envoy: FedEnvoy) -> int:
    """How often the tracer has given away what it had."""
    return int(envoy.admin("/stats?filter=opentelemetry.timer_flushed").rpartition(" ")[2])


def test_a_collector_that_is_not_there_hurts_nobody(shop: Shop, otlp: Collector) -> None:
    provider = {"address": f"127.0.0.1:{free_port()}"}
    use(shop, LET_WEB, telemetry("lost", {"tracing": {"provider": provider, "randomSamplingPercentage": 100}}))
    with shop.keep_alive() as connection:
        for number in range(20):
            assert ask(connection, f"/lost/{number}", "GET", {"Host": "orders.shop"}).status == 200
    use(shop, LET_WEB, traced(otlp))
    shop.call("/found")
    spans(otlp, "/found")


def test_a_change_touches_nothing_that_is_open(shop: Shop, otlp: Collector) -> None:
    """A tunnel and a connection go on through every change of a Telemetry, in Envoys that drain at once."""
    use(shop, LET_WEB)
    before = [made(envoy) for envoy in (shop.web, shop.orders)]
    with shop.keep_alive() as connection, socket.create_connection((shop.web_address, PROXY)) as tunnel:
        tunnel.sendall(f"CONNECT orders.shop:{TCP} HTTP/1.1\r\nHost: orders.shop:{TCP}\r\n\r\n".encode())
        head = b""
        while b"hello from orders\n" not in head:
            head += tunnel.recv(4096)
        ask(connection, "/open/0", "GET", {"Host": "orders.shop"})
        port = connection.sock.getsockname()
        http_provider = {"protocol": "http", "address": f"127.0.0.1:{otlp.http_port}"}
        for number, said in enumerate(
            (
                {"tracing": {"provider": http_provider, "randomSamplingPercentage": 100}},
                {"tracing": {"provider": {"address": f"127.0.0.1:{otlp.grpc_port}"}}, "metrics": [{"disabled": True}]},
                {"accessLogging": [{}], "tracing": {"customTags": [{"name": "a", "literal": "b"}]}},
                {},
            ),
            1,
        ):
            use(shop, LET_WEB, telemetry("change", said))
            assert exchange(tunnel, f"line {number}\n".encode()) == f"line {number}\n".encode()
            answer = ask(connection, f"/open/{number}", "GET", {"Host": "orders.shop"})
            assert (answer.status, connection.sock.getsockname()) == (200, port)
    assert [made(envoy) for envoy in (shop.web, shop.orders)] == before
    assert shop.web.admin("/stats?filter=total_filter_chains_draining").endswith(": 0\n")


def made(envoy: FedEnvoy) -> int:
    """Listeners for traffic that were made anew, which is more than another chain for what comes."""
    said = envoy.admin("/stats?filter=listener_manager.listener_(modified|in_place_updated)")
    counted = dict(line.split(": ") for line in said.splitlines())
    return int(counted["listener_manager.listener_modified"]) - int(
        counted["listener_manager.listener_in_place_updated"]
    )
