"""Routes and requests by which a real Envoy is held against `routing.explain`: what each says serves the request.

Each rule writes its name into the answer, and each app says that it was asked.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from routing.explain import explain
from routing.requests import parse_url
from schemas.http_requests import HTTP1_METHODS
from schemas.names import ServiceRef
from schemas.objects import AnyObject, AnyRoute, Service
from tests.dataplane.compile.routed import GRPC, HTTP, Routed
from tests.states.build import ORDERS, WEB
from tests.states.routes import http_route, written

V1 = f"backendRefs: [{{name: orders, port: {HTTP}}}]"
V2 = f"backendRefs: [{{name: orders-v2, port: {HTTP}}}]"
GONE = "backendRefs: [{name: ghost, port: 80}]"
NOBODY = f"backendRefs: [{{name: orders, port: {HTTP}, weight: 0}}]"
GRPC_V1 = f"backendRefs: [{{name: orders, port: {GRPC}}}]"
GRPC_V2 = f"backendRefs: [{{name: orders-v2, port: {GRPC}}}]"

# name, match, backends
Rules = tuple[tuple[str, str, str], ...]
PLAIN: Rules = (
    ("prefix", "{path: {value: /a}}", V1),
    ("longer", "{path: {value: /a/long/}}", V2),
    ("exact", "{path: {type: Exact, value: /a/b}}", V1),
    ("regex", "{path: {type: RegularExpression, value: '/a/[0-9]+(?:\\.json)?'}}", V2),
    ("post", "{method: POST}", V1),
    ("header", "{headers: [{name: X-One, value: a}]}", V2),
    ("headers", "{headers: [{name: x-one, value: a}, {name: x-two, type: RegularExpression, value: '(?i)b+'}]}", V1),
    ("joined", "{headers: [{name: x-one, value: 'c,d'}]}", V1),
    ("query", "{queryParams: [{name: q, value: '1'}]}", V2),
    (
        "queries",
        "{queryParams: [{name: q, type: RegularExpression, value: '[0-9]+'}, {name: r, value: x}]}",
        NOBODY,
    ),
    ("space", "{queryParams: [{name: s, value: 'a b'}]}", V1),  # which no request can bring: Envoy decodes nothing
    ("escaped", "{queryParams: [{name: s, value: 'a%20b'}]}", V2),
    ("plus", "{queryParams: [{name: s, value: 'a+b'}]}", V1),
    ("equals", "{queryParams: [{name: s, value: 'a=b'}]}", GONE),
    ("flag", "{queryParams: [{name: flag, type: RegularExpression, value: '.*'}]}", V2),
)
WILD: Rules = (("wild", "{}", V2), ("wild-post", "{method: POST}", V1))
API: Rules = (("api", "{path: {value: /a}}", V1),)
CALLS: Rules = (
    ("call", "{method: {service: shop.Orders, method: Get}}", GRPC_V1),
    ("any-service", "{method: {method: Watch}}", GRPC_V2),
    ("call-regex", "{method: {type: RegularExpression, service: 'back\\..*'}}", GRPC_V2),
    ("call-header", "{headers: [{name: x-one, value: a}]}", GRPC_V1),
)
REACHED = {name for name, _, _ in (*PLAIN, *WILD, *API, *CALLS)} - {"space"}

METHODS = ("GET", "POST")
URLS = ("/", "/a", "/a/", "/ab", "/a/b", "/a/b/", "/a/long", "/a/long/er", "/a/77", "/a/77.json", "/a/7x", "/x?q=1",
        "/x?q=1&q=2", "/x?q=2&q=1", "/x?q=12&r=x", "//a//b", "/c/../a/b", "/%61")  # fmt: skip
HEADERS: tuple[dict[str, str], ...] = ({}, {"x-one": "a"}, {"x-one": "a", "x-two": "BB"}, {"X-One": "b"})
ODD_URLS = (
    "/x?q=%31", "/x?%71=1", "/x?q=1;r=x", "/x?r;q=1", "/x?q=1&q", "/x?q", "/x?&&q=1", "/x?q=12&r=%78", "/x?s=a%20b",
    "/x?s=a+b", "/x?s=a=b", "/x?flag", "/x?flag=", "/x?s=%252f/../%zz", "/x%252fb", "/%zz", "/a%", "/a/%u002e",
    "/%c0%ae", "/a%2fb", "/a%5cb", "/a%00", "/c//../a/b", "/a/x/..;p/b", "/a/..;p/b", "/.;x/a/b", "/a/%2e%2e;x/b",
    "/a/c\\..\\b", "//", "/a/..", "/a/c/%2e%2e/b", "/a/./b", "/a/b/.", "/%41", "/a%7Eb", "/a;v=1/b", "/../../a/b",
    "/a/%2%65", "/a/%%32e", "/a/%%32%65", "/a/%25%36%35", "/a/%%20",
)  # fmt: skip
LINES: tuple[dict[str, str], ...] = (
    *({"x-one": text} for text in ("a|b", "b|a", "a|", "a|a", "c|d", "c,d", "c, d")),
    {"x-one": "a", "x-two": "b|bb"},
)
HOSTS = ("api.example.com", "API.Example.com:80", "x.y.example.com", "example.com", "api.test", "api.test.")
CALL_PATHS = ("/shop.Orders/Get", "/shop.Orders/Put", "/any.Thing/Watch", "/back.Stock/Get", "/back/Get", "/a/b/Watch")
CALL_HEADERS: tuple[dict[str, str], ...] = (
    *(
        {"content-type": kind, "te": "trailers"}
        for kind in ("application/grpc", "application/grpc-web", "application/grpc;x", "text/a")
    ),
    {"content-type": "application/grpc+proto", "te": "trailers", "x-one": "a"},
)


class Asked(NamedTuple):
    host: str
    url: str
    headers: Mapping[str, str]
    """`|` between the lines of one name."""
    method: str

    @property
    def lines(self) -> list[tuple[str, str]]:
        return [("Host", self.host), *((name, line) for name, text in self.headers.items() for line in text.split("|"))]

    @property
    def by_name(self) -> bool:
        """At the proxy port; else at the bound one, which takes any host."""
        return self.host.startswith("orders.")


class Served(NamedTuple):
    """rule and app: empty where there was none."""

    status: int
    rule: str
    app: str


def requests() -> Iterable[Asked]:
    at = f"orders.shop:{HTTP}"
    asked: Iterable[tuple[str, str, dict[str, str], str]] = (
        *itertools.product([at], URLS, HEADERS, METHODS),
        *itertools.product([at], ODD_URLS, [{}], ["GET"]),
        *itertools.product([at], ["/a"], [{}], ["get", "Get", "FETCH"]),
        (at, "/a", {"x_one": "a"}, "GET"),
        *itertools.product([at], ["/"], LINES, ["GET"]),
        *itertools.product(HOSTS, ("/", "/a/b", "/x?q=1"), [{}], METHODS),
        *itertools.product([f"orders.shop:{GRPC}"], CALL_PATHS, CALL_HEADERS, ["POST"]),
    )
    return (Asked(*one) for one in asked)


def routes() -> tuple[AnyObject, ...]:
    """Three of HTTP on one port, with and without hosts, and one of gRPC on another."""
    parents = f"parentRefs: [{{kind: Service, name: orders, port: {HTTP}}}]"
    calls = textwrap.indent(_written(CALLS), "  ")
    of_calls = f"parentRefs: [{{kind: Service, name: orders, port: {GRPC}}}]"
    return (
        http_route(_written(PLAIN), name="r", spec=parents),
        http_route(_written(WILD), name="w", spec=f"{parents}\n  hostnames: ['*.example.com']"),
        http_route(_written(API), name="x", spec=f"{parents}\n  hostnames: [api.example.com, api.test]"),
        *written(f"kind: GRPCRoute\nmetadata: {{name: g}}\nspec:\n  {of_calls}\n  rules:\n{calls}"),
    )


def _written(rules: Rules) -> str:
    return "\n".join(
        f"- name: {name}\n  matches: [{match}]\n"
        f"  filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: "
        f"{{set: [{{name: x-rule, value: {name}}}]}}}}]\n  {backends}"
        for name, match, backends in rules
    )


def by_envoy(mesh: Routed, one: Asked) -> Served:
    for app in mesh.apps.values():
        app.requests.clear()
    answer = mesh.request(one.method, one.url, one.lines, bound=not one.by_name)
    status = answer.status
    asked = next((name for name, app in mesh.apps.items() if app.requests), "")
    if not asked and answer.header("grpc-status") == ["12"]:
        status = 404  # which is UNIMPLEMENTED to a gRPC call (gRPC: http-grpc-status-mapping)
    # Envoy looks for a route before its filters refuse the path: that has a say in the answer's headers all the same.
    (rule,) = (answer.header("x-rule") if status != 400 else []) or [""]
    return Served(status, rule, asked)


def by_model(objects: Iterable[AnyObject], one: Asked) -> Served:
    given = tuple(objects)
    services = {ServiceRef("shop", each.metadata.name): each for each in given if isinstance(each, Service)}
    address = one.host if one.by_name else f"orders.shop:{HTTP}"
    at, request = parse_url(one.method, f"http://{address}{one.url}", one.lines)
    if request.method not in HTTP1_METHODS:  # explained for HTTP/2, with a note about HTTP/1.1, which is spoken here
        return Served(400, "", "")
    said = explain(WEB, ORDERS, at, request, services, [each for each in given if isinstance(each, AnyRoute)])
    rule = (said.entry.rule.name or "") if said.entry is not None else ""
    if said.answer:
        return Served(int(said.answer.partition(":")[0]), rule, "")
    (share,) = said.shares
    if share.missing:
        return Served(503, rule, "")
    return Served(200, rule, share.target.partition(".")[0])
