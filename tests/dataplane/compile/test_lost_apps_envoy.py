"""What callers have of an app that is down behind its sidecar, or cuts connections: real Envoys, every protocol."""

from __future__ import annotations

import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes

from routing.headers import UNSERVED
from schemas.objects import AnyObject
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.routed import GRPC, HTTP, Routed, routed
from tests.states.build import traffic
from tests.states.routes import http_route, written
from tests.support.net import free_port

V1, V2 = "orders", "orders-v2"


@pytest.fixture(scope="module")
def mesh(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Routed]:
    with routed(envoys, own_address) as one:
        yield one


def http_rule(retry: str) -> AnyObject:
    spec = f"parentRefs: [{{kind: Service, name: orders, port: {HTTP}}}]"
    return http_route(f"- retry: {retry}\n  backendRefs: [{{name: orders, port: {HTTP}}}]", name="r", spec=spec)


def grpc_rule(retry: str) -> AnyObject:
    rules = f"rules: [{{retry: {retry}, backendRefs: [{{name: orders, port: {GRPC}}}]}}]"
    parents = f"parentRefs: [{{kind: Service, name: orders, port: {GRPC}}}]"
    return written(f"kind: GRPCRoute\nmetadata: {{name: g}}\nspec:\n  {parents}\n  {rules}")[0]


Asked = list[h2.events.RequestReceived]


@contextmanager
def breaking(how: ErrorCodes | None) -> Iterator[tuple[int, Asked]]:
    """A port at which every HTTP/2 request is reset so; None: its connection is cut. And the requests."""
    asked: Asked = []

    class Breaks(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            server.initiate_connection()
            self.request.sendall(server.data_to_send())
            while data := self.request.recv(65536):
                for event in server.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        asked.append(event)
                        if how is None:
                            return
                        server.reset_stream(event.stream_id, how)
                self.request.sendall(server.data_to_send())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Breaks) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()


def down() -> dict[str, int]:
    """Ports at which nobody listens."""
    return {name: free_port() for name in ("http", "grpc", "raw")}


def test_an_app_that_is_down_costs_no_request(mesh: Routed) -> None:
    """At one of two instances nobody listens behind the sidecar. No route asks for retries."""
    with mesh.second(down()):
        mesh.put()
        ways: dict[str, Callable[[], str]] = {
            "http": lambda: mesh.ask(method="POST").who,
            "grpc": mesh.call,
            "raw": mesh.connect_tcp,
        }
        for name, way in ways.items():
            assert [way() for _ in range(12)] == [V1] * 12, name
            assert mesh.counted(V2, f"cluster.app|{name}.upstream_cx_connect_fail"), "it was asked, too"
        assert {mesh.http2().who for _ in range(6)} == {V1}


def test_where_all_are_down_the_caller_is_told_that_and_no_more(mesh: Routed) -> None:
    with mesh.second(down()):
        mesh.put(mesh.at(V2, "one"))
        before = mesh.counted(V2, "cluster.app|http.upstream_cx_connect_fail")
        answer = mesh.ask()
        assert (answer.status, answer.header(UNSERVED)) == (503, [])
        assert mesh.counted(V2, "cluster.app|http.upstream_cx_connect_fail") - before == 3
        assert mesh.call() == "UNAVAILABLE"
        mesh.put(mesh.at(V2, "one"), http_rule("{attempts: 0}"))
        assert mesh.ask().status == 503
        assert mesh.counted(V2, "cluster.app|http.upstream_cx_connect_fail") - before == 4


def test_a_lost_connection_is_tried_again_where_a_rule_asks_for_retries(mesh: Routed) -> None:
    for ask in (mesh.ask, mesh.http2):
        mesh.put(http_rule("{attempts: 1, backoff: 1ms}"))
        mesh.apps[V1].plan = ["reset"]
        assert ask().status == 200
        mesh.apps[V1].plan = ["reset", "reset"]
        answer = ask()
        assert (answer.status, answer.header(UNSERVED)) == (503, [])


@pytest.mark.parametrize("asked", [None, "{triggers: [connect-failure]}"])
def test_else_not_for_the_app_may_have_done_what_it_was_asked_for(mesh: Routed, asked: str | None) -> None:
    mesh.put(*([http_rule(asked)] if asked else []))
    mesh.apps[V1].plan = ["reset"]
    assert mesh.ask().status == 503
    assert len(mesh.apps[V1].requests) == 1


@pytest.mark.parametrize(
    ("how", "asks"),
    [(None, ""), (ErrorCodes.INTERNAL_ERROR, ""), (None, ", triggers: [gateway-error]"), (None, ", triggers: [5xx]")],
    ids=["connection", "stream", "gateway-error", "5xx"],
)
def test_a_lost_call_is_tried_again_where_a_rule_asks_for_retries(
    mesh: Routed, how: ErrorCodes | None, asks: str
) -> None:
    with breaking(how) as (number, asked), mesh.second({**down(), "grpc": number}):
        mesh.put(grpc_rule(f"{{backoff: 1ms{asks}}}"))
        assert [mesh.call() for _ in range(12)] == [V1] * 12
        before = len(asked)
        assert before > 0
        mesh.put()
        found = Counter(mesh.call() for _ in range(20))
        lost = len(asked) - before
        assert lost > 0
        assert found == {V1: 20 - lost, "UNAVAILABLE": lost}


def test_a_call_that_an_app_refuses_is_tried_again(mesh: Routed) -> None:
    """As one does that is about to end, or has more streams than it takes. No route asks for retries."""
    with breaking(ErrorCodes.REFUSED_STREAM) as (number, asked), mesh.second({**down(), "grpc": number}):
        mesh.put()
        assert [mesh.call() for _ in range(12)] == [V1] * 12
        assert asked


def test_nobody_but_the_sidecar_says_that_a_request_was_not_served(mesh: Routed) -> None:
    """What an app says under the header's name is no reason to ask it again, and reaches nobody."""
    mesh.put(http_rule("{}"))
    for word in ("unreached", "reset"):
        mesh.apps[V1].says, mesh.apps[V1].plan = {UNSERVED: word}, [503]
        answer = mesh.ask()
        assert (answer.status, answer.header(UNSERVED)) == (503, [])
    assert len(mesh.apps[V1].requests) == 2


def test_an_app_that_is_down_is_left_out_by_gateway_errors(mesh: Routed) -> None:
    """Those of requests that were tried again count, too."""
    passive = {"consecutive5XxErrors": 0, "consecutiveGatewayErrors": 3, "maxEjectionPercent": 100}
    with mesh.second(down()):
        mesh.put(traffic("p", "orders", healthCheck={"passive": passive}))
        assert {mesh.ask().who for _ in range(30)} == {V1}
        assert mesh.counted("web", f"cluster.outbound|orders.shop|{HTTP}.outlier_detection.ejections_enforced_total")
