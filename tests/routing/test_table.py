"""Which routes count for whom, in which order, and what they match: Gateway API's rules."""

from __future__ import annotations

import itertools

import pytest

from routing.requests import Request, parse_url
from routing.table import table
from schemas.names import ServiceRef
from schemas.objects import AnyObject, AnyRoute
from tests.states.build import port
from tests.states.routes import http_route, written

ORDERS, WEB = ServiceRef("shop", "orders"), ServiceRef("shop", "web")
HTTP, GRPC, TCP = port("http", 80), port("grpc", 9000, "grpc"), port("raw", 7, "tcp")
_TO = "backendRefs: [{name: orders, port: 80}]"


def routes(*found: AnyObject) -> list[AnyRoute]:
    return [one for one in found if isinstance(one, AnyRoute)]


def rule_for(found: list[AnyRoute], method: str = "GET", url: str = "/", **headers: str) -> str | None:
    """The name of the rule that serves it."""
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    _, request = parse_url(method, f"orders.shop{url}", pairs)
    entry = table(ORDERS, HTTP, WEB, found).find(request)
    return None if entry is None else entry.rule.name


def rules(*matches: str, **spec: str) -> list[AnyRoute]:
    """A route with a rule a match, named m0, m1, … in order."""
    text = "\n".join(f"- name: m{index}\n  matches: [{one}]\n  {_TO}" for index, one in enumerate(matches))
    return routes(http_route(text, **spec))


@pytest.mark.parametrize(
    ("value", "hits", "misses"),
    [
        ("/", ["/", "/a", "/a/b"], []),
        ("/a", ["/a", "/a/", "/a/b"], ["/", "/ab", "/A", "/b/a"]),
        ("/a/", ["/a", "/a/", "/a/b"], ["/ab"]),
    ],
)
def test_prefixes_go_by_segments(value: str, hits: list[str], misses: list[str]) -> None:
    found = rules(f"{{path: {{value: {value}}}}}")
    assert [rule_for(found, url=url) for url in hits] == ["m0"] * len(hits)
    assert [rule_for(found, url=url) for url in misses] == [None] * len(misses)


def test_exact_paths_know_case_and_slashes() -> None:
    found = rules("{path: {type: Exact, value: /a/b}}")
    assert [rule_for(found, url=url) for url in ("/a/b", "/a/b?q", "/a/b/", "/A/b", "/a")] == [
        "m0",
        "m0",
        None,
        None,
        None,
    ]


ORDERED = (
    "{path: {type: Exact, value: /a/b}, method: GET}",
    "{path: {type: Exact, value: /a/b}}",
    "{path: {type: RegularExpression, value: '/a/b.*'}}",
    "{path: {value: /a/b}}",
    "{path: {value: /a}, method: GET}",
    "{path: {value: /a}, headers: [{name: x, value: '1'}, {name: y, value: '1'}]}",
    "{path: {value: /a}, headers: [{name: x, value: '1'}], queryParams: [{name: q, value: '1'}]}",
    "{path: {value: /a}, headers: [{name: x, value: '1'}]}",
    "{path: {value: /a}, queryParams: [{name: q, value: '1'}]}",
    "{path: {value: /a}}",
    "{method: GET}",
    "{}",
)


@pytest.mark.parametrize(("better", "worse"), list(itertools.combinations(range(len(ORDERED)), 2)))
def test_the_more_specific_match_wins_in_either_order(better: int, worse: int) -> None:
    request = {"x": "1", "y": "1"}
    assert rule_for(rules(ORDERED[better], ORDERED[worse]), "GET", "/a/b?q=1", **request) == "m0"
    assert rule_for(rules(ORDERED[worse], ORDERED[better]), "GET", "/a/b?q=1", **request) == "m1"


def test_of_equals_the_first_rule_wins_and_the_first_route_by_name() -> None:
    assert rule_for(rules("{method: GET}", "{method: GET}")) == "m0"
    one = http_route(f"- name: of-b\n  {_TO}", name="b")
    other = http_route(f"- name: of-a\n  {_TO}", name="a")
    assert rule_for(routes(one, other)) == "of-a"


def _spec(hosts: str) -> str:
    return f"parentRefs: [{{kind: Service, name: orders, port: 80}}]\n  hostnames: [{hosts}]"


def test_host_names() -> None:
    found = routes(
        http_route(f"- name: exact\n  {_TO}", name="d", spec=_spec("api.example.com")),
        http_route(f"- name: deep\n  {_TO}", name="c", spec=_spec("'*.api.example.com'")),
        http_route(f"- name: wide\n  {_TO}", name="b", spec=_spec("'*.example.com'")),
        http_route(f"- name: any\n  matches: [{{path: {{type: Exact, value: /}}, method: GET}}]\n  {_TO}", name="a"),
    )
    want = {
        "api.example.com": "exact",
        "API.example.com:8080": "exact",
        "a.api.example.com": "deep",
        "b.a.example.com": "wide",
        "example.com": "any",
        "orders.shop": "any",
    }
    assert {host: rule_for(found, host=host) for host in want} == want


def test_a_route_may_match_by_several() -> None:
    found = rules("{headers: [{name: X-A, value: a}, {name: x-b, type: RegularExpression, value: 'b+'}]}")
    assert rule_for(found, x_a="a", x_b="bbb") == "m0"
    assert [rule_for(found, x_a="a"), rule_for(found, x_a="A", x_b="b"), rule_for(found, x_a="a", x_b="bc")] == [
        None
    ] * 3


def test_preflights_follow_the_method_that_they_ask_for() -> None:
    cors = "filters: [{type: CORS, cors: {allowOrigins: ['*']}}]"
    found = routes(http_route(f"- name: post\n  matches: [{{method: POST}}]\n  {cors}\n  {_TO}\n- name: rest\n  {_TO}"))
    origin = "https://a.test"
    assert rule_for(found, "OPTIONS", origin=origin, access_control_request_method="POST") == "post"
    assert rule_for(found, "OPTIONS", origin=origin, access_control_request_method="PUT") == "rest"
    assert rule_for(found, "OPTIONS", access_control_request_method="POST") == "rest", "no browser asks so"


def test_preflights_name_the_headers_that_a_rule_goes_by() -> None:
    cors = f"filters: [{{type: CORS, cors: {{allowOrigins: ['*']}}}}]\n  {_TO}"
    header = "headers: [{name: X-Tenant, value: a}]"
    one = f"- name: one\n  matches: [{{path: {{value: /a}}, {header}}}]\n  {cors}\n"
    own = f"- name: own\n  matches: [{{path: {{value: /o}}, method: OPTIONS, {header}}}]\n  {cors}\n"
    typed = f"- name: typed\n  matches: [{{path: {{value: /t}}, headers: [{{name: accept, value: x}}]}}]\n  {cors}\n"
    found = routes(http_route(one + own + typed))
    asks = {"origin": "https://a.test", "access_control_request_method": "GET"}
    assert [rule_for(found, "OPTIONS", url, **asks) for url in ("/a", "/t", "/o")] == ["one", "typed", None]
    assert rule_for(found, "OPTIONS", "/o", **{**asks, "access_control_request_method": "OPTIONS"}) == "own"
    for name in asks:  # else an OPTIONS would reach the app past the rule's header
        assert rule_for(found, "OPTIONS", "/a", **{name: asks[name]}) is None
    assert rule_for(found, "GET", "/a", **asks) is None
    both = routes(http_route(f"{one}- name: rest\n  matches: [{{path: {{value: /a}}}}]\n  {_TO}"))
    for names, rule in (("x-tenant", "one"), ("accept-x,X-Tenant, x", "one"), ("x-tenants", "rest"), ("", "rest")):
        assert rule_for(both, "OPTIONS", "/a", **asks, access_control_request_headers=names) == rule, names
    assert rule_for(both, "OPTIONS", "/a", **asks) == "rest", "which may answer its own preflights"


def _attached(kind: str, name: str, namespace: str = "shop", parent: str = "") -> AnyRoute:
    backend = "{name: orders, namespace: shop}"
    text = (
        f"kind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n"
        f"  parentRefs: [{{kind: Service, name: orders, namespace: shop{parent}}}]\n"
        f"  rules: [{{backendRefs: [{backend}]}}]"
    )
    return routes(*written(text))[0]


def test_kinds_fit_ports() -> None:
    every = [_attached(kind, kind.lower()) for kind in ("HTTPRoute", "GRPCRoute", "TCPRoute")]
    kinds = {one.name: table(ORDERS, one, WEB, every).entries[0].route.kind for one in (HTTP, GRPC, TCP)}
    assert kinds == {"http": "HTTPRoute", "grpc": "GRPCRoute", "raw": "TCPRoute"}
    (outranked,) = table(ORDERS, GRPC, WEB, every).conflicting
    assert outranked[0].kind == "HTTPRoute"


def test_ports_by_number_and_name() -> None:
    for parent, ports in ((", port: 80", {"http"}), (", sectionName: grpc", {"grpc"}), ("", {"http", "grpc"})):
        route = _attached("HTTPRoute", "a", parent=parent)
        assert {one.name for one in (HTTP, GRPC, TCP) if table(ORDERS, one, WEB, [route]).routed} == ports


def test_of_two_tcp_routes_the_first_counts() -> None:
    found = table(ORDERS, TCP, WEB, [_attached("TCPRoute", "b"), _attached("TCPRoute", "a")])
    assert [entry.route.name for entry in found.entries] == ["a"]
    assert [ref.name for ref, _ in found.conflicting] == ["b"]


def test_consumers_routes_go_before_the_producers() -> None:
    every = [_attached("HTTPRoute", "producer"), _attached("HTTPRoute", "consumer", "back")]
    for caller, expected in (
        (ServiceRef("back", "app"), "consumer"),
        (WEB, "producer"),
        (ServiceRef("x", "y"), "producer"),
    ):
        found = table(ORDERS, HTTP, caller, every)
        assert [entry.route.name for entry in found.entries] == [expected]
        assert not found.conflicting


def test_without_a_route_the_port_keeps_its_way() -> None:
    assert not table(ORDERS, HTTP, WEB, []).routed
    other = _attached("HTTPRoute", "a")
    assert not table(ServiceRef("shop", "cart"), HTTP, WEB, [other]).routed


def test_grpc_methods() -> None:
    (route,) = routes(
        *written(
            """
            kind: GRPCRoute
            metadata: {name: calls}
            spec:
              parentRefs: [{kind: Service, name: orders}]
              rules:
              - {name: any, backendRefs: [{name: orders}]}
              - {name: watch, matches: [{method: {method: Watch}}], backendRefs: [{name: orders}]}
              - {name: service, matches: [{method: {service: a.B}}], backendRefs: [{name: orders}]}
              - {name: method, matches: [{method: {service: a.B, method: Get}}], backendRefs: [{name: orders}]}
              - name: regex
                matches: [{method: {type: RegularExpression, service: 'c\\..*', method: 'G.*'}}]
                backendRefs: [{name: orders}]
            """
        )
    )
    found = table(ORDERS, GRPC, WEB, [route])

    def called(path: str, kind: str = "application/grpc") -> str | None:
        entry = found.find(Request("orders.shop", "POST", path, headers=(("content-type", kind),)))
        return entry.rule.name if entry else None

    want = {
        "/a.B/Get": "method", "/a.B/Put": "service", "/a.Bc/Put": "any", "/x.Y/Watch": "watch", "/c.D/Get": "regex",
        "/c.D/Put": "any",
    }  # fmt: skip
    assert {path: called(path) for path in want} == want
    assert called("/a.B/Get", "application/json") is None
