"""Routes of two gateways in one service, and requests by which a real Envoy is held against `explain_outside`.

Each rule writes its name into the answer; its backends have no weight, so that nobody else is needed for one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from routing.explain import explain_outside
from routing.requests import parse_url
from schemas.errors import InvalidInput
from schemas.objects import AnyRoute, Gateway
from tests.states.build import Item
from tests.states.routes import written

_LISTENERS = {
    "edge": {"wild": "'*.example.com'", "deep": "'*.b.example.com'", "all": ""},
    "other": {"exact": "abc.example.com", "wider": "'*.com'", "late": "'*.b.example.com'"},
}
"""`late` contradicts `deep`, of the first by name."""

_A, _AB, _ANY = "{path: {value: /a}}", "{path: {value: /a/b}}", "{}"
_POST, _TENANT = "{method: POST}", "{headers: [{name: x-tenant, value: a}]}"
# kind, name, parents (gateway, and a listener of it), host names, matches of the rules
_ROUTES = (
    ("HTTPRoute", "h-wild", "other exact", "'*.example.com'", (_AB, _TENANT)),
    ("HTTPRoute", "h-exact", "other exact", "abc.example.com", (_A,)),
    ("HTTPRoute", "h-none", "other exact", "", (_POST, _ANY)),
    ("HTTPRoute", "h-all", "edge", "", (_A, _TENANT)),
    ("HTTPRoute", "h-several", "edge", "x.example.com, '*.example.com', y.b.example.com", (_POST, _AB)),
    ("HTTPRoute", "h-far", "edge deep", "'*.y.b.example.com'", (_ANY,)),
    ("HTTPRoute", "h-port", "other", "'*.test.com'", (_AB,)),
    ("HTTPRoute", "h-late", "other late", "", (_ANY,)),
    ("GRPCRoute", "g-wild", "edge", "'*.example.com'", ("{method: {service: a}}",)),
    ("GRPCRoute", "g-exact", "edge", "x.example.com", ("{method: {service: a, method: b}}", _TENANT)),
    ("GRPCRoute", "g-none", "other", "", (_ANY,)),
)
REACHED = {f"{name}-{index}" for _, name, *_, rules in _ROUTES for index in range(len(rules))}
# Of a listener that is left out; behind the shorter path of an exact host.
REACHED = (REACHED - {"h-late-0", "h-wild-0"}) | {"404"}

_HOSTS = (
    "abc.example.com", "ABC.example.com:80", "x.example.com", "b.example.com", "y.b.example.com", "z.y.b.example.com",
    "example.com", "q.test.com", "test.com", "nobody.test",
)  # fmt: skip
_HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"x_tenant": "a"},
    {"content_type": "application/grpc"},
    {"content_type": "application/grpc", "x_tenant": "a"},
)


class Asked(NamedTuple):
    """headers: `_` for `-` in the names."""

    host: str
    path: str
    method: str
    headers: Mapping[str, str]


def requests() -> Iterator[Asked]:
    return (Asked(*one) for one in itertools.product(_HOSTS, ("/", "/a/b", "/a"), ("GET", "POST"), _HEADERS))


def objects() -> tuple[Item, ...]:
    texts = []
    for name, listeners in _LISTENERS.items():
        lines = [
            f"  - {{name: {one}, port: 80, protocol: HTTP{f', hostname: {host}' if host else ''}}}"
            for one, host in listeners.items()
        ]
        head = f"kind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  service: web\n  listeners:\n"
        texts.append(head + "\n".join(lines))
    for kind, name, parent, hosts, rules in _ROUTES:
        gateway, _, section = parent.partition(" ")
        at = f"{{kind: Gateway, name: {gateway}{f', sectionName: {section}' if section else ''}}}"
        text = (
            f"kind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{at}]\n  hostnames: [{hosts}]\n  rules:"
        )
        for index, match in enumerate(rules):
            said = f"{{set: [{{name: x-rule, value: {name}-{index}}}]}}"
            text += (
                f"\n  - name: {name}-{index}\n    matches: [{match}]\n"
                f"    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {said}}}]\n"
                "    backendRefs: [{name: orders, port: 8080, weight: 0}]"
            )
        texts.append(text)
    return tuple(written("\n---\n".join(texts)))


def by_model(given: Iterable[Item], one: Asked) -> str:
    """The rule, or the status where there is none. Of the gateways one at most is asked; the others say so."""
    items = tuple(given)
    gateways = [each for each in items if isinstance(each, Gateway)]
    routes = [each for each in items if isinstance(each, AnyRoute)]
    lines = [(name.replace("_", "-"), value) for name, value in one.headers.items()]
    at, request = parse_url(one.method, f"http://{one.host}{one.path}", lines, outside=True)
    found = []
    for gateway in gateways:
        try:
            said = explain_outside(gateway, at, request, {}, routes, gateways)
        except InvalidInput:
            continue
        found.append((said.entry.rule.name or "") if said.entry is not None else said.answer[:3])
    (rule,) = found
    return rule
