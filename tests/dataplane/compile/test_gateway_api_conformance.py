"""Gateway API's conformance cases for HTTPRoute and GRPCRoute, re-done: docs/gateway-api-conformance.md has the table.

Each case asks real Envoys. A rule is told by its name, which it writes into the answer.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from schemas import codec
from schemas.objects import AnyObject
from tests.dataplane.compile.conftest import EnvoyFactory
from tests.dataplane.compile.routed import GRPC, HTTP, Routed, routed
from tests.states.routes import http_route

PAGE = Path(__file__).parents[3] / "docs" / "gateway-api-conformance.md"
_PARENT = f"parentRefs: [{{kind: Service, name: orders, port: {HTTP}}}]"


@pytest.fixture(scope="module")
def mesh(envoys: EnvoyFactory, own_address: Callable[[], str]) -> Iterator[Routed]:
    with routed(envoys, own_address) as one:
        yield one


@dataclass(frozen=True)
class Asked:
    """`expected`: the rule's name, or the status of an answer that no rule gives. Host names need a bound port."""

    path: str
    expected: str
    host: str = ""
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()


def ask(path: str, expected: str, host: str = "", method: str = "GET", **headers: str) -> Asked:
    return Asked(path, expected, host, method, tuple(headers.items()))


def route(name: str, *rules: tuple[str, str], hosts: str = "") -> AnyObject:
    """rules: the name of a rule and its matches, in YAML."""
    text = "".join(
        f"- name: {rule}\n  matches: [{matches}]\n"
        "  filters:\n"
        f"  - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-rule, value: {rule}}}]}}}}\n"
        f"  backendRefs: [{{name: orders, port: {HTTP}}}]\n"
        for rule, matches in rules
    )
    return http_route(textwrap.dedent(text), name=name, spec=_PARENT + (f"\n  hostnames: [{hosts}]" if hosts else ""))


def _path(value: str, kind: str = "PathPrefix") -> str:
    return f"{{path: {{type: {kind}, value: {value}}}}}"


def _header(**values: str) -> str:
    return f"{{headers: [{', '.join(f'{{name: {name}, value: {value}}}' for name, value in values.items())}]}}"


def _query(**values: str) -> str:
    return f"{{queryParams: [{', '.join(f'{{name: {name}, value: {value}}}' for name, value in values.items())}]}}"


CASES: dict[str, tuple[tuple[AnyObject, ...], tuple[Asked, ...]]] = {
    "HTTPRouteSimpleSameNamespace": ((route("r", ("all", "{}")),), (ask("/", "all"),)),
    "HTTPRouteExactPathMatching": (
        (route("r", ("one", _path("/one", "Exact")), ("two", _path("/two", "Exact"))),),
        (ask("/one", "one"), ask("/two", "two"), ask("/", "404"), ask("/one/example", "404"), ask("/two/", "404"),
         ask("/Two", "404")),
    ),
    "HTTPRouteMatching": (
        (
            route(
                "r",
                ("v1", f"{_path('/')}, {_header(version='one')}"),
                ("v2", f"{_path('/v2')}, {_header(version='two')}"),
            ),
        ),
        (ask("/", "v1"), ask("/example", "v1"), ask("/", "v1", Version="one"), ask("/v2", "v2"),
         ask("/v2/example", "v2"), ask("/", "v2", Version="two"), ask("/v2/", "v2"), ask("/v2example", "v1"),
         ask("/foo/v2/example", "v1")),
    ),
    "HTTPRouteMatchingAcrossRoutes": (
        (
            route("part1", ("v1", f"{_path('/')}, {_header(version='one')}"), hosts="example.com, example.net"),
            route("part2", ("v2", f"{_path('/v2')}, {_header(version='two')}"), hosts="example.com"),
        ),
        (ask("/", "v1", "example.com"), ask("/example", "v1", "example.com"), ask("/example", "v1", "example.net"),
         ask("/example", "v1", "example.com", Version="one"), ask("/v2", "v2", "example.com"),
         ask("/v2example", "v1", "example.com"), ask("/foo/v2/example", "v1", "example.com"),
         ask("/v2", "v1", "example.net"), ask("/", "v2", "example.com", Version="two"),
         ask("/", "v1", "example.net", Version="two"), ask("/", "404", "example.org")),
    ),
    "HTTPRouteHeaderMatching": (
        (
            route(
                "r",
                ("one", _header(version="one")),
                ("two", _header(version="two")),
                ("two-orange", _header(version="two", color="orange")),
                ("blue-green", f"{_header(color='blue')}, {_header(color='green')}"),
                ("red-yellow", f"{_header(color='red')}, {_header(color='yellow')}"),
            ),
        ),
        (ask("/", "one", Version="one"), ask("/", "two", Version="two"),
         ask("/", "two-orange", Version="two", Color="orange"), ask("/", "blue-green", Color="blue"),
         ask("/", "blue-green", Color="green"), ask("/", "red-yellow", Color="red"),
         ask("/", "red-yellow", Color="yellow"), ask("/", "404", Color="purple"), ask("/", "404"),
         ask("/", "one", Version="one", Color="blue")),
    ),
    "HTTPRouteMethodMatching": (
        (
            route(
                "r",
                ("post", "{method: POST}"),
                ("get", "{method: GET}"),
                ("path-put", "{method: PUT, path: {value: /path1}}"),
                ("header-put", "{method: PUT, headers: [{name: version, value: one}]}"),
                ("path-head", "{method: HEAD, path: {value: /path5}}"),
            ),
        ),
        (ask("/", "post", method="POST"), ask("/", "get"), ask("/path1", "path-put", method="PUT"),
         ask("/", "header-put", method="PUT", version="one"), ask("/path5", "path-head", method="HEAD"),
         ask("/", "404", method="HEAD"), ask("/", "404", method="PUT"),
         ask("/path1", "path-put", method="PUT", version="one")),
    ),
    "HTTPRouteQueryParamMatching": (
        (
            route(
                "r",
                ("whale", _query(animal="whale")),
                ("dolphin", _query(animal="dolphin")),
                ("dolphin-blue", _query(animal="dolphin", color="blue")),
                ("either", f"{_query(ANIMAL='Whale')}, {_query(fish='cod')}"),
                ("path", "{path: {value: /path1}, queryParams: [{name: animal, value: whale}]}"),
                ("header", "{headers: [{name: version, value: one}], queryParams: [{name: animal, value: whale}]}"),
            ),
        ),
        (ask("/?animal=whale", "whale"), ask("/?animal=dolphin", "dolphin"),
         ask("/?animal=dolphin&color=blue", "dolphin-blue"), ask("/?ANIMAL=Whale", "either"),
         ask("/?fish=cod", "either"), ask("/?animal=whale&otherparam=irrelevant", "whale"),
         ask("/?animal=dolphin&color=yellow", "dolphin"), ask("/?color=blue", "404"), ask("/?animal=dog", "404"),
         ask("/", "404"), ask("/path1?animal=whale", "path"), ask("/?animal=whale", "header", version="one"),
         ask("/path1?animal=whale", "path", version="one")),
    ),
    "HTTPRoutePathMatchOrder": (
        (
            route(
                "r",
                ("prefix-match", _path("/match")),
                ("exact-match", _path("/match", "Exact")),
                ("prefix-slash", _path("/match/prefix/")),
                ("prefix-one", _path("/match/prefix/one")),
                ("exact-one", _path("/match/exact/one", "Exact")),
                ("exact-two", _path("/match/exact", "Exact")),
            ),
        ),
        (ask("/match/exact/one", "exact-one"), ask("/match/exact", "exact-two"), ask("/match", "exact-match"),
         ask("/match/prefix/one/any", "prefix-one"), ask("/match/prefix/any", "prefix-slash"),
         ask("/match/any", "prefix-match")),
    ),
    "HTTPRouteHostnameIntersection": (
        (
            route("specific", ("specific", _path("/s1")), hosts="very.specific.com"),
            route("wildcard", ("wildcard", _path("/s1")), hosts="'*.specific.com'"),
            route("no-host", ("any", _path("/s2"))),
        ),
        (ask("/s1", "specific", "very.specific.com"), ask("/s1", "specific", "very.specific.com:1234"),
         ask("/s1", "wildcard", "other.specific.com"), ask("/s1", "wildcard", "a.b.specific.com"),
         ask("/s1", "404", "specific.com"), ask("/s1", "404", "wildcard.io"), ask("/s2", "any", "wildcard.io"),
         ask("/s2", "any", "very.specific.com")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_case(mesh: Routed, case: str) -> None:
    routes, requests = CASES[case]
    mesh.put(*routes)
    for one in requests:
        headers: dict[str, Any] = dict(one.headers)
        answer = mesh.ask(one.path, one.method, host=one.host or "orders.shop", bound=bool(one.host), **headers)
        found = answer.header("x-rule")
        assert (found[0] if found else str(answer.status)) == one.expected, one


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ("hostname: example.org", f"http://example.org:{HTTP}/"),
        ("hostname: example.org, port: 80", "http://example.org:80/"),
        ("hostname: example.org, port: 9090", "http://example.org:9090/"),
        ("hostname: example.org, scheme: https", "https://example.org/"),
        ("hostname: example.org, scheme: https, port: 443", "https://example.org:443/"),
        ("hostname: example.org, scheme: https, port: 8443", "https://example.org:8443/"),
        ("scheme: https", "https://orders.shop:443/"),
    ],
)
def test_redirect_port_and_scheme(mesh: Routed, fields: str, location: str) -> None:
    mesh.put(http_route(f"- filters: [{{type: RequestRedirect, requestRedirect: {{{fields}}}}}]", spec=_PARENT))
    answer = mesh.ask()
    assert (answer.status, [_default(one) for one in answer.header("location")]) == (302, [_default(location)])


def _default(location: str) -> str:
    """A port that the scheme means anyhow may stand there or not."""
    return re.sub(r"(https://[^/]*):443/|(http://[^/]*):80/", r"\1\2/", location)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_status(mesh: Routed, code: int) -> None:
    rule = f"- filters: [{{type: RequestRedirect, requestRedirect: {{hostname: example.org, statusCode: {code}}}}}]"
    mesh.put(http_route(rule, spec=_PARENT))
    assert mesh.ask("/hostname-redirect").status == code


def test_consumer_route(mesh: Routed) -> None:
    """web is of the service's own namespace: a route of another namespace is not for it."""
    to = f"[{{name: orders-v2, namespace: shop, port: {HTTP}}}]"
    spec = f"parentRefs: [{{kind: Service, name: orders, namespace: shop, port: {HTTP}}}]"
    (consumer,) = _written(
        f"metadata: {{name: c, namespace: front}}\nspec:\n  {spec}\n  rules: [{{backendRefs: {to}}}]"
    )
    mesh.put(consumer)
    assert mesh.ask().who == "orders"


def test_ports(mesh: Routed) -> None:
    """A route for one port leaves the others as they are."""
    mesh.put(http_route(f"- backendRefs: [{{name: orders-v2, port: {HTTP}}}]", spec=_PARENT))
    assert (mesh.ask().who, mesh.call()) == ("orders-v2", "orders")
    whole = "parentRefs: [{kind: Service, name: orders}]"
    mesh.put(http_route(f"- backendRefs: [{{name: orders-v2, port: {GRPC}}}]", spec=whole))
    assert mesh.call() == "orders-v2"


def _written(text: str) -> list[AnyObject]:
    loaded = codec.load_yaml(f"apiVersion: mesh/v1\nkind: HTTPRoute\n{text}\n", "case")
    return [document.object for document in loaded]


# -- the table


_ROW = re.compile(
    r"^\| (?P<name>(?:HTTP|GRPC|Mesh|Gateway)\w+) \| [^|]+ \| (?P<test>[^|]+) \| (?P<passes>[^|]+) \|$", re.M
)


def _rows() -> list[re.Match[str]]:
    return list(_ROW.finditer(PAGE.read_text()))


def test_every_row_of_the_table_names_a_test_that_there_is() -> None:
    root = PAGE.parents[1]
    rows = _rows()
    assert len(rows) > 50
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        for file, test in re.findall(r"`([\w/.]+\.py)::(\w+)", row["test"]):
            assert f"def {test}(" in (root / "tests" / file).read_text(), row["name"]
        named = re.search(r"`[\w/.]+\.py::\w+", row["test"])
        assert (named is not None) == (row["passes"] in ("yes", "differs")), row["name"]


def test_every_case_has_its_row() -> None:
    rows = {row["name"]: row for row in _rows()}
    for case in CASES:
        assert f"test_case[{case}]" in rows[case]["test"]
        assert rows[case]["passes"] == "yes"
