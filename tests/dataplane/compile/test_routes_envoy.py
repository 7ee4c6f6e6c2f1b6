"""What each field of a route does to real traffic through real Envoys: HTTP/1.1, HTTP/2, gRPC with streams, TCP."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from schemas.objects import AnyObject
from tests.dataplane.compile import route_corpus
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.envoys import logged, wait_until
from tests.dataplane.compile.routed import GRPC, HTTP, TCP, Routed, routed
from tests.states.build import instance
from tests.states.routes import http_route, written

V1, V2 = "orders", "orders-v2"
TO_V1 = f"backendRefs: [{{name: orders, port: {HTTP}}}]"
TO_V2 = f"backendRefs: [{{name: orders-v2, port: {HTTP}}}]"


@pytest.fixture(scope="module")
def mesh(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Routed]:
    with routed(envoys, own_address) as one:
        yield one


def route(rules: str, *, name: str = "r", hosts: str = "") -> AnyObject:
    spec = f"parentRefs: [{{kind: Service, name: orders, port: {HTTP}}}]"
    return http_route(rules, name=name, spec=spec + (f"\n  hostnames: [{hosts}]" if hosts else ""))


def filtered(filters: str, *, match: str = "", to: str = TO_V1) -> AnyObject:
    matches = f"  matches: [{match}]\n" if match else ""
    return route(f"- filters: [{filters}]\n{matches}  {to}")


def within_binomial(found: int, of: int, share: float) -> bool:
    """Less than one sound run in a million is further off than five standard deviations."""
    return abs(found - of * share) <= 5 * math.sqrt(of * share * (1 - share))


# -- matches and precedence


def test_every_way_in_follows_the_route(mesh: Routed) -> None:
    mesh.put(route(f"- {TO_V2}"))
    assert mesh.ask().who == V2
    assert mesh.ask(host=f"orders.shop.mesh:{HTTP}").who == V2
    assert mesh.ask(bound=True).who == V2
    assert mesh.http2().who == V2
    assert mesh.tunnelled().who == V2
    mesh.put()
    assert {mesh.ask().who, mesh.ask(bound=True).who, mesh.http2().who, mesh.tunnelled().who} == {V1}


def test_envoy_and_the_model_agree_on_every_request(mesh: Routed) -> None:
    """Which rule of which route serves it, which app, and with what status, for each request of the corpus."""
    mesh.put(*route_corpus.routes())
    objects = (*mesh.services(), *route_corpus.routes())
    said = {}
    for one in route_corpus.requests():
        served = route_corpus.by_envoy(mesh, one)
        assert served == route_corpus.by_model(objects, one), one
        said[served.rule] = served.app
    assert said.keys() >= route_corpus.REACHED, "a rule that no request reaches shows nothing"
    assert set(said.values()) == {V1, V2, ""}


def test_envoy_and_the_model_agree_on_connect(mesh: Routed) -> None:
    """To ports with routes and without, of HTTP and TCP; at the bound port there is nothing to be CONNECTed to."""
    for routes in ((), (*route_corpus.routes(), tcp_route(f"{{name: orders-v2, port: {TCP}}}"))):
        mesh.put(*routes)
        objects = (*mesh.services(), *routes)
        for host in (f"orders.shop:{HTTP}", f"orders.shop:{GRPC}", f"orders.shop:{TCP}", "orders.shop"):
            model = route_corpus.by_model(objects, route_corpus.Asked(host, "", {}, "CONNECT"))
            assert mesh.connected(host) == model.status, (host, routes)
        assert (
            mesh.connect_tcp()
            == route_corpus.by_model(objects, route_corpus.Asked(f"orders.shop:{TCP}", "", {}, "CONNECT")).app
        )


def test_no_rule_matches(mesh: Routed) -> None:
    mesh.put(route(f"- matches: [{{path: {{value: /a}}}}]\n  {TO_V1}"))
    answer = mesh.ask("/b")
    assert (answer.status, answer.body) == (404, b"no rule of HTTPRoute shop/r matches\n")


def test_host_names(mesh: Routed) -> None:
    mesh.put(
        route(f"- {TO_V2}", name="a", hosts="'*.example.com', api.test"),
        route(f"- matches: [{{path: {{type: Exact, value: /}}}}]\n  {TO_V1}", name="b", hosts="api.example.com"),
    )
    want = {
        "x.example.com": V2,
        "X.y.Example.com:80": V2,
        "api.test:8080": V2,
        "api.example.com": V1,
        "example.com": "404",
    }
    assert {host: mesh.ask(host=host, bound=True).who for host in want} == want


def test_large_expressions(mesh: Routed) -> None:
    """More than the 100 instructions that Envoy takes by default."""
    words = "|".join(f"word{number}" for number in range(60))
    mesh.put(route(f"- matches: [{{path: {{type: RegularExpression, value: '/(?:{words})'}}}}]\n  {TO_V2}"))
    assert (mesh.ask("/word59").who, mesh.ask("/word60").who) == (V2, "404")


# -- backends


@pytest.mark.parametrize("share", [0, 10, 50, 90, 100])
def test_a_canary_gets_its_share(mesh: Routed, share: int) -> None:
    first = f"{{name: orders, port: {HTTP}, weight: {100 - share}}}"
    rule = f"- backendRefs: [{first}, {{name: orders-v2, port: {HTTP}, weight: {share}}}]"
    mesh.put(route(rule))
    found = mesh.served(300)
    assert set(found) <= {V1, V2}
    assert within_binomial(found[V2], 300, share / 100)


def test_all_weights_zero(mesh: Routed) -> None:
    mesh.put(route(f"- backendRefs: [{{name: orders, port: {HTTP}, weight: 0}}]"))
    answer = mesh.ask()
    assert (answer.status, b"all weights are 0" in answer.body) == (500, True)


def test_subsets(mesh: Routed) -> None:
    other = instance("orders", "two", mesh.nowhere, labels={"version": "none-listens"}, http=HTTP)

    def to(labels: str) -> str:
        return f"backendRefs: [{{name: orders, port: {HTTP}, matchLabels: {{{labels}}}}}]"

    rules = (("/one", "version: orders"), ("/two", "version: none-listens"), ("/none", "version: v9"))
    mesh.put(
        other, route("\n".join(f"- matches: [{{path: {{value: {path}}}}}]\n  {to(labels)}" for path, labels in rules))
    )
    assert mesh.served(30, "/one") == {V1: 30}
    assert mesh.ask("/two").status == 503
    answer = mesh.ask("/none")
    assert (answer.status, b"|version=v9" in answer.body) == (503, True)


def test_filters_of_one_backend(mesh: Routed) -> None:
    modifiers = (
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-version, value: two}]}}, "
        "{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answer, value: two}]}}, "
        "{type: URLRewrite, urlRewrite: {hostname: v2.example.com}}"
    )
    mesh.put(
        route(
            f"- backendRefs: [{{name: orders, port: {HTTP}}}, "
            f"{{name: orders-v2, port: {HTTP}, filters: [{modifiers}]}}]"
        )
    )
    answers = [mesh.ask() for _ in range(40)]
    for answer in answers:
        is_two = answer.who == V2
        assert answer.sent("x-version") == answer.header("x-answer") == (["two"] if is_two else [])
        assert answer.sent("host") == (["v2.example.com"] if is_two else ["orders.shop"])
    assert {answer.who for answer in answers} == {V1, V2}


def test_a_service_that_is_gone(mesh: Routed) -> None:
    mesh.put(
        route(
            f"- matches: [{{path: {{value: /gone}}}}]\n  backendRefs: [{{name: ghost, port: 80}}]\n"
            f"- backendRefs: [{{name: orders, port: {HTTP}}}, {{name: ghost, port: 80}}]"
        )
    )
    answer = mesh.ask("/gone")
    assert answer.status == 503
    assert b"service ghost.shop does not exist" in answer.body
    line = logged(mesh.envoys["web"], path="/gone")
    assert (line["upstream_cluster"], line["flags"]) == ("missing|ghost.shop|80", "UH")
    assert (line["details"], line["route"]) == ("no_healthy_upstream", "HTTPRoute shop/r rule 0 match 0")
    found = mesh.served(200)
    assert set(found) == {V1, "503"}
    assert within_binomial(found["503"], 200, 0.5)
    (first, second) = mesh.problems()
    assert first.subject == second.subject == "HTTPRoute shop/r"
    assert (first.path, second.path) == ("$.spec.rules[0].backendRefs[0]", "$.spec.rules[1].backendRefs[1]")
    assert "ghost.shop does not exist" in first.message


# -- filters


def test_request_headers(mesh: Routed) -> None:
    mesh.put(
        filtered(
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: '100%'}], "
            "add: [{name: x-add, value: b}, {name: x-empty, value: ''}], remove: [X-Gone]}}"
        )
    )
    seen = mesh.ask(x_set="before", x_add="a", x_gone="1", x_kept="1")
    assert [seen.sent(name) for name in ("x-set", "x-gone", "x-kept", "x-empty")] == [["100%"], [], ["1"], [""]]
    assert ",".join(seen.sent("x-add")).replace(" ", "") == "a,b"


def test_response_headers(mesh: Routed) -> None:
    mesh.put(
        filtered(
            "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-from, value: z}], "
            "add: [{name: x-add, value: '%'}], remove: [server]}}"
        )
    )
    answer = mesh.ask()
    assert [answer.header(name) for name in ("x-from", "x-add", "server")] == [["z"], ["%"], []]


@pytest.mark.parametrize(
    ("prefix", "replacement", "paths"),
    [
        ("/a", "/x", {"/a": "/x", "/a/": "/x/", "/a/b?q=1": "/x/b?q=1"}),
        ("/a/", "/x/", {"/a/b": "/x/b"}),
        ("/a", "/", {"/a": "/", "/a/": "/", "/a/b": "/b"}),
        ("/a.c", "''", {"/a.c": "/", "/a.c/b/c": "/b/c"}),
        ("/", "/x", {"/": "/x/", "/b": "/x/b"}),
    ],
)
def test_prefixes_are_replaced(mesh: Routed, prefix: str, replacement: str, paths: dict[str, str]) -> None:
    path = f"path: {{type: ReplacePrefixMatch, replacePrefixMatch: {replacement}}}"
    mesh.put(filtered(f"{{type: URLRewrite, urlRewrite: {{{path}}}}}", match=f"{{path: {{value: {prefix}}}}}"))
    assert {one: mesh.ask(one).seen["path"] for one in paths} == paths


def test_host_and_whole_path_are_replaced(mesh: Routed) -> None:
    mesh.put(
        filtered(
            "{type: URLRewrite, urlRewrite: {hostname: in.example.com, "
            "path: {type: ReplaceFullPath, replaceFullPath: '/one\\1'}}}"
        )
    )
    answer = mesh.ask("/a/b?q=1")
    assert answer.seen["path"] == "/one/1?q=1"  # a backslash, which the receiver normalises; not a group
    assert answer.sent("host") == ["in.example.com"]


@pytest.mark.parametrize(
    ("fields", "asked", "status", "location"),
    [
        ("hostname: other.example.com", "/a?q=1", 302, f"http://other.example.com:{HTTP}/a?q=1"),
        ("hostname: other.example.com, port: 8443, statusCode: 301", "/", 301, "http://other.example.com:8443/"),
        ("scheme: https, hostname: other.example.com, statusCode: 303", "/", 303, "https://other.example.com/"),
        ("port: 8083, statusCode: 307", "/", 307, "http://orders.shop:8083/"),
        (
            "statusCode: 308, path: {type: ReplaceFullPath, replaceFullPath: /x}",
            "/a?q=1",
            308,
            "http://orders.shop/x?q=1",
        ),
        ("path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}", "/a/b", 302, "http://orders.shop/x/b"),
        ("path: {type: ReplacePrefixMatch, replacePrefixMatch: /}", "/a/b", 302, "http://orders.shop/b"),
    ],
)
def test_redirects(mesh: Routed, fields: str, asked: str, status: int, location: str) -> None:
    match = "{path: {value: /a}}" if asked.startswith("/a") else "{}"
    mesh.put(route(f"- matches: [{match}]\n  filters: [{{type: RequestRedirect, requestRedirect: {{{fields}}}}}]"))
    answer = mesh.ask(asked)
    assert (answer.status, answer.header("location")) == (status, [location])


@pytest.mark.parametrize(
    ("share", "says"), [(1.0, ""), (0.5, ", percent: 50"), (1 / 3, ", fraction: {numerator: 1, denominator: 3}")]
)
def test_mirrors(mesh: Routed, share: float, says: str) -> None:
    mesh.put(
        filtered(f"{{type: RequestMirror, requestMirror: {{backendRef: {{name: orders-v2, port: {HTTP}}}{says}}}}}")
    )
    count = 1 if share == 1 else 200
    assert mesh.served(count, "/mirrored") == {V1: count}
    copies = mesh.apps[V2].requests
    low = max(1, round(count * share - 5 * math.sqrt(count * share * (1 - share))))
    wait_until("the copies have arrived", lambda: len(copies) >= low)
    assert within_binomial(len(copies), count, share)
    assert {one["path"] for one in copies} == {"/mirrored"}
    assert {dict(one["headers"])["host"] for one in copies} == {"orders.shop"}, "policies by host judge a copy alike"


def test_several_mirrors(mesh: Routed) -> None:
    one = f"{{type: RequestMirror, requestMirror: {{backendRef: {{name: orders-v2, port: {HTTP}}}}}}}"
    mesh.put(filtered(f"{one}, {one}"))
    assert mesh.ask().who == V1
    wait_until("both copies have arrived", lambda: len(mesh.apps[V2].requests) == 2)


def test_cors(mesh: Routed) -> None:
    mesh.put(
        filtered(
            "{type: CORS, cors: {allowOrigins: ['https://shop.test', 'https://*.shop.test'], allowCredentials: true, "
            "allowMethods: [GET, POST], allowHeaders: [x-one], exposeHeaders: [x-two], maxAge: 60}}",
            match="{method: POST}, {path: {value: /tenant}, headers: [{name: x-tenant, value: a}]}",
        )
    )
    ask: dict[str, Any] = {"Access_Control_Request_Method": "POST"}
    for origin in ("https://shop.test", "https://a.b.shop.test"):
        answer = mesh.ask("/", "OPTIONS", Origin=origin, **ask)
        assert answer.status == 200
        said = {
            name: answer.header(f"access-control-{name}")
            for name in ("allow-origin", "allow-methods", "allow-headers", "max-age", "allow-credentials")
        }
        assert said == {
            "allow-origin": [origin], "allow-methods": ["GET,POST"], "allow-headers": ["x-one"], "max-age": ["60"],
            "allow-credentials": ["true"],
        }  # fmt: skip
        assert not mesh.apps[V1].requests, "a preflight is answered without the app"
    for origin in ("https://evil.test", "http://shop.test", "https://shop.test.evil"):
        for path in ("/", "/tenant"):
            assert not mesh.ask(path, "OPTIONS", Origin=origin, **ask).header("access-control-allow-origin")
    said_of_headers: tuple[dict[str, str], ...] = ({"Access_Control_Request_Headers": "x-tenant"}, {})
    for named in said_of_headers:
        asked: dict[str, Any] = {"Origin": "https://shop.test", "Access_Control_Request_Method": "GET", **named}
        assert mesh.ask("/tenant", "OPTIONS", **asked).header("access-control-allow-origin") == ["https://shop.test"]
    assert not mesh.apps[V1].requests, "neither reaches the app past the header"
    assert mesh.ask("/tenant", "OPTIONS", Origin="https://shop.test").status == 404
    assert mesh.ask("/tenant", "OPTIONS", Access_Control_Request_Method="GET").status == 404
    answer = mesh.ask("/", "POST", Origin="https://shop.test")
    assert (answer.header("access-control-allow-origin"), answer.header("access-control-expose-headers")) == (
        ["https://shop.test"],
        ["x-two"],
    )


def test_delay(mesh: Routed) -> None:
    mesh.put(filtered("{type: Fault, fault: {delay: {fixedDelay: 200ms}, headers: [{name: x-slow, value: 'yes'}]}}"))
    begin = time.monotonic()
    assert mesh.ask(x_slow="yes").status == 200
    assert time.monotonic() - begin >= 0.19  # Envoy counts from when its loop last looked at the clock
    begin = time.monotonic()
    assert mesh.served(20) == {V1: 20}
    assert time.monotonic() - begin < 20 * 0.2
    mesh.put(filtered("{type: Fault, fault: {delay: {fixedDelay: 5s, percentage: 0}}}"))
    begin = time.monotonic()
    assert mesh.ask().status == 200
    assert time.monotonic() - begin < 5


def test_abort(mesh: Routed) -> None:
    mesh.put(filtered("{type: Fault, fault: {abort: {httpStatus: 418, percentage: 25}}}"))
    found = mesh.served(200)
    assert set(found) == {V1, "418"}
    assert within_binomial(found["418"], 200, 0.25)


# -- times and retries


def test_request_timeout(mesh: Routed) -> None:
    mesh.put(route(f"- timeouts: {{request: 100ms}}\n  {TO_V1}"))
    assert mesh.ask().status == 200
    mesh.apps[V1].delay = 0.5
    assert mesh.ask().status == 504


def test_no_timeout_unless_asked_for(mesh: Routed) -> None:
    mesh.put(route(f"- timeouts: {{request: 0s, backendRequest: 0s}}\n  {TO_V1}"))
    mesh.apps[V1].delay = 0.3
    assert mesh.ask().status == 200


def test_timeout_of_a_try(mesh: Routed) -> None:
    mesh.put(route(f"- timeouts: {{request: 5s, backendRequest: 100ms}}\n  retry: {{attempts: 2}}\n  {TO_V1}"))
    mesh.apps[V1].delay = 0.5
    assert mesh.ask().status == 504
    assert len(mesh.apps[V1].requests) == 3
    mesh.put(route(f"- timeouts: {{request: 250ms, backendRequest: 200ms}}\n  retry: {{attempts: 9}}\n  {TO_V1}"))
    mesh.apps[V1].delay = 0.5
    assert mesh.ask().status == 504
    assert len(mesh.apps[V1].requests) <= 2, "the whole time goes before the number of tries"


def test_retries_by_code(mesh: Routed) -> None:
    mesh.put(route(f"- retry: {{codes: [500, 503], attempts: 2, backoff: 1ms}}\n  {TO_V1}"))
    for plan, status in (([500, 503], 200), ([503, 503, 503], 503), ([502], 502)):
        mesh.apps[V1].plan = list(plan)
        assert mesh.ask().status == status
        assert not mesh.apps[V1].plan


def test_retries_by_trigger(mesh: Routed) -> None:
    mesh.put(route(f"- retry: {{triggers: [gateway-error], attempts: 1, backoff: 1ms, maxBackoff: 5ms}}\n  {TO_V1}"))
    mesh.apps[V1].plan = [502]
    assert mesh.ask().status == 200
    for plan in ([500], [502, 502]):
        mesh.apps[V1].plan = list(plan)
        assert mesh.ask().status == plan[-1]
        assert not mesh.apps[V1].plan


def test_back_off(mesh: Routed) -> None:
    mesh.put(route(f"- retry: {{codes: [503], attempts: 5, backoff: 100ms, maxBackoff: 100ms}}\n  {TO_V1}"))
    mesh.apps[V1].plan = [503] * 5
    begin = time.monotonic()
    assert mesh.ask().status == 200
    assert time.monotonic() - begin > 0.05  # five waits of up to 100 ms each, at random


# -- sessions


@pytest.mark.parametrize("kind", ["Cookie", "Header"])
def test_a_session_keeps_its_instance(mesh: Routed, kind: str) -> None:
    """One instance answers, at the other nobody listens: a session of the first never meets the second."""
    other = instance("orders", "two", mesh.nowhere, http=HTTP)
    mesh.put(
        other,
        route(f"- sessionPersistence: {{sessionName: x-where, type: {kind}}}\n  retry: {{attempts: 0}}\n  {TO_V1}"),
    )
    first = next(answer for _ in range(50) if (answer := mesh.ask()).status == 200)
    if kind == "Cookie":
        name, _, value = first.header("set-cookie")[0].partition(";")[0].partition("=")
        assert name == "x-where"
        assert "Max-Age" not in first.header("set-cookie")[0]
        bound = {"Cookie": f"{name}={value}"}
    else:
        bound = {"x-where": first.header("x-where")[0]}
    assert mesh.served(30, **bound) == {V1: 30}


def test_a_session_keeps_its_backend(mesh: Routed) -> None:
    both = f"[{{name: orders, port: {HTTP}}}, {{name: orders-v2, port: {HTTP}}}]"
    mesh.put(route(f"- sessionPersistence: {{sessionName: s}}\n  backendRefs: {both}"))
    first = [mesh.ask() for _ in range(60)]
    share = sum(answer.who == V2 for answer in first)
    assert within_binomial(share, 60, 0.5)
    for answer in first[:10]:
        cookies = [one.partition(";")[0] for one in answer.header("set-cookie")]
        assert sorted(one.partition("=")[0] for one in cookies) == ["s", "s-backend"]
        assert mesh.served(10, Cookie="; ".join(cookies)) == {answer.who: 10}


def test_a_permanent_cookie(mesh: Routed) -> None:
    mesh.put(
        route(f"- sessionPersistence: {{absoluteTimeout: 1h, cookieConfig: {{lifetimeType: Permanent}}}}\n  {TO_V1}")
    )
    (cookie,) = mesh.ask().header("set-cookie")
    assert cookie.startswith("mesh-session=")
    assert "Max-Age=3600" in cookie


# -- upgrades


@pytest.mark.parametrize("with_route", [False, True])
@pytest.mark.parametrize("protocol", ["websocket", "tcp"])
def test_upgrades(mesh: Routed, with_route: bool, protocol: str) -> None:
    mesh.put(*([route(f"- timeouts: {{request: 200ms}}\n  {TO_V2}")] if with_route else []))
    status, echoed = mesh.upgraded(protocol)
    assert status == "HTTP/1.1 101 Switching Protocols"
    assert echoed == b"\x81\x05hello"
    assert mesh.apps[V2 if with_route else V1].requests


def test_other_upgrades(mesh: Routed) -> None:
    """What HTTP clients offer and need not be taken up on is no reason to refuse the request; all else is."""
    mesh.put()
    for protocol, status in (("h2c", 200), ("TLS/1.2", 200), ("tls/1.0", 200), ("made-up", 403)):
        assert f" {status} " in mesh.upgraded(protocol)[0], protocol
    assert all("upgrade" not in dict(one["headers"]) for one in mesh.apps[V1].requests)


# -- gRPC


def grpc_route(rules: str) -> AnyObject:
    parents = f"parentRefs: [{{kind: Service, name: orders, port: {GRPC}}}]"
    return written(f"kind: GRPCRoute\nmetadata: {{name: g}}\nspec:\n  {parents}\n  rules:\n{rules}")[0]


def _g(match: str, to: str, more: str = "") -> str:
    return f"  - matches: [{match}]\n    backendRefs: [{{name: {to}, port: {GRPC}}}]\n{more}"


def test_grpc_methods_and_headers(mesh: Routed) -> None:
    mesh.put(
        grpc_route(
            _g("{method: {service: shop.Orders}}", V1)
            + _g("{method: {service: shop.Orders, method: Put}}", V2)
            + _g("{method: {method: Watch}}", V2)
            + _g("{method: {type: RegularExpression, service: 'back\\..*', method: 'G.*'}}", V2)
            + _g("{headers: [{name: x-to, value: v2}]}", V2)
        )
    )
    want = {
        "/shop.Orders/Get": V1, "/shop.Orders/Put": V2, "/any.Thing/Watch": V2, "/back.Stock/Get": V2,
        "/back.Stock/Put": "UNIMPLEMENTED",
    }  # fmt: skip
    assert {method: mesh.call(method) for method in want} == want
    assert mesh.call("/back.Stock/Put", **{"x-to": "v2"}) == V2


def test_grpc_streams_follow_the_route(mesh: Routed) -> None:
    mesh.put(grpc_route(_g("{method: {service: shop.Orders}}", V2)))
    with mesh.channel() as channel:
        call = channel.stream_stream("/shop.Orders/Stream", bytes, bytes)
        answers = call(iter([b"one", b"two", b"three"]), timeout=10)
        assert [bytes(one) for one in answers] == [b"orders-v2:one", b"orders-v2:two", b"orders-v2:three"]


def test_grpc_weights_filters_mirrors(mesh: Routed) -> None:
    filters = (
        "    filters:\n"
        "    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: a}]}}\n"
        f"    - {{type: RequestMirror, requestMirror: {{backendRef: {{name: orders-v2, port: {GRPC}}}}}}}\n"
    )
    mesh.put(grpc_route(_g("{}", V1, filters)))
    assert mesh.call() == V1
    wait_until("the copy has arrived", lambda: len(mesh.apps[V2].requests) == 1)
    assert ("x-set", "a") in mesh.apps[V1].requests[0]["headers"]
    mesh.put(
        grpc_route(f"  - backendRefs: [{{name: orders, port: {GRPC}, weight: 3}}, {{name: orders-v2, port: {GRPC}}}]\n")
    )
    with mesh.channel() as channel:
        call = channel.unary_unary("/shop.Orders/Get", bytes, bytes)
        found = [bytes(call(b"", timeout=10)).decode() for _ in range(200)]
    assert within_binomial(found.count(V2), 200, 0.25)


def test_grpc_retries_timeouts_and_faults(mesh: Routed) -> None:
    mesh.put(
        grpc_route(_g("{}", V1, "    retry: {triggers: [unavailable], backoff: 1ms}\n    timeouts: {request: 300ms}\n"))
    )
    mesh.apps[V1].plan = ["UNAVAILABLE"]
    assert mesh.call() == V1
    mesh.apps[V1].delay = 1.0
    assert mesh.call() in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
    mesh.put(grpc_route(_g("{}", V1, "    filters: [{type: Fault, fault: {abort: {grpcStatus: 8}}}]\n")))
    assert mesh.call() == "RESOURCE_EXHAUSTED"


def test_grpc_with_all_weights_zero(mesh: Routed) -> None:
    mesh.put(grpc_route(f"  - backendRefs: [{{name: orders, port: {GRPC}, weight: 0}}]\n"))
    assert mesh.call() == "UNKNOWN"  # what 500 is in gRPC (gRPC: http-grpc-status-mapping)


def test_grpc_to_a_service_that_is_gone(mesh: Routed) -> None:
    mesh.put(grpc_route("  - backendRefs: [{name: ghost, port: 1}]\n"))
    assert mesh.call() == "UNAVAILABLE"


# -- TCP


def tcp_route(backends: str) -> AnyObject:
    text = (
        f"kind: TCPRoute\nmetadata: {{name: t}}\nspec:\n  parentRefs: [{{kind: Service, name: orders, port: {TCP}}}]\n"
    )
    return written(f"{text}  rules: [{{backendRefs: [{backends}]}}]")[0]


@pytest.mark.parametrize("bound", [False, True])
def test_tcp_weights(mesh: Routed, bound: bool) -> None:
    mesh.put(tcp_route(f"{{name: orders, port: {TCP}, weight: 9}}, {{name: orders-v2, port: {TCP}}}"))
    found = [mesh.connect_tcp(bound=bound) for _ in range(100)]
    assert set(found) == {V1, V2}
    assert within_binomial(found.count(V2), 100, 0.1)
    mesh.put(tcp_route(f"{{name: orders-v2, port: {TCP}}}"))
    wait_until("new connections follow", lambda: mesh.connect_tcp(bound=bound) == V2)


def test_tcp_to_a_service_that_is_gone(mesh: Routed) -> None:
    mesh.put(tcp_route("{name: ghost, port: 1}"))
    assert [mesh.connect_tcp(), mesh.connect_tcp(bound=True)] == ["", ""]
    (problem,) = mesh.problems()
    assert "ghost.shop does not exist" in problem.message
    tunnel = logged(mesh.envoys["web"], upstream_cluster="missing|ghost.shop|1", method="CONNECT")
    assert (tunnel["flags"], tunnel["authority"]) == ("UH", f"orders.shop:{TCP}")
    bound = logged(mesh.envoys["web"], upstream_cluster="missing|ghost.shop|1", duration_ms=0)
    assert bound["flags"] == "UH"


# -- changes


def test_a_change_of_a_route_touches_no_listener(mesh: Routed) -> None:
    """Open connections follow with their next request."""
    mesh.put(route(f"- {TO_V1}"))
    before = mesh.envoys["web"].admin("/stats?filter=listener_manager.listener_(modified|create)")
    mesh.put(filtered("{type: Fault, fault: {abort: {httpStatus: 418}}}", to=TO_V2))
    assert mesh.ask().status == 418
    assert mesh.envoys["web"].admin("/stats?filter=listener_manager.listener_(modified|create)") == before
