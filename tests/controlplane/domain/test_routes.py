"""What a replica refuses in a route, each with the path of the field; and what a route holds in place."""

from __future__ import annotations

import pytest

from controlplane.domain.validate import validate
from schemas.errors import Problem
from schemas.objects import AnyObject
from tests.controlplane.domain.objects import delete, known_for, objects, put

_BACKENDS = "$.spec.rules[0].backendRefs[0]"
ORDERS, CANARY, DATABASE, CART = objects(
    """
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 80, protocol: http}, {name: raw, port: 7, protocol: tcp}]}
---
kind: Service
metadata: {name: canary, namespace: shop}
spec: {ports: [{name: http, port: 80, protocol: http}]}
---
kind: Service
metadata: {name: database, namespace: shop}
spec: {ports: [{name: db, port: 5432, protocol: tcp}]}
---
kind: Service
metadata: {name: cart, namespace: front}
spec: {ports: [{name: http, port: 80, protocol: http}]}
"""
)
MESH = (ORDERS, CANARY, DATABASE, CART)


def route(parent: str, backend: str, kind: str = "HTTPRoute") -> AnyObject:
    spec = f"{{parentRefs: [{{kind: Service, {parent}}}], rules: [{{backendRefs: [{{{backend}}}]}}]}}"
    return objects(f"kind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec: {spec}")[0]


def problems(value: AnyObject, *stored: AnyObject) -> list[Problem]:
    changes = [put(value)]
    return validate(changes, known_for(changes, *(stored or MESH)))


@pytest.mark.parametrize(
    "sound",
    [
        route("name: orders", "name: canary"),
        route("name: orders, port: 80", "name: orders, port: 80"),
        route("name: orders, sectionName: http", "name: canary"),
        route("name: cart, namespace: front", "name: cart, namespace: front"),
        route("name: orders", "name: database", "TCPRoute"),
    ],
)
def test_sound(sound: AnyObject) -> None:
    assert problems(sound) == []


@pytest.mark.parametrize(
    ("faulty", "path", "says"),
    [
        (route("name: ghost", "name: canary"), "$.spec.parentRefs[0]", "Service shop/ghost, which does not exist"),
        (route("name: cart", "name: canary"), "$.spec.parentRefs[0]", "Service shop/cart, which does not exist"),
        (route("name: orders, port: 81", "name: canary"), "$.spec.parentRefs[0].port", "has no such port"),
        (route("name: orders, sectionName: x", "name: canary"), "$.spec.parentRefs[0].sectionName", "has no such port"),
        (route("name: database", "name: canary"), "$.spec.parentRefs[0]", "not for ports of protocol tcp"),
        (route("name: canary", "name: database", "TCPRoute"), "$.spec.parentRefs[0]", "not for ports of protocol http"),
        (route("name: canary", "name: canary", "GRPCRoute"), "$.spec.parentRefs[0]", "not for ports of protocol http"),
        (route("name: orders", "name: ghost"), _BACKENDS, "Service shop/ghost, which does not exist"),
        (route("name: orders", "name: canary, port: 81"), f"{_BACKENDS}.port", "has no port 81"),
        (route("name: orders", "name: orders"), f"{_BACKENDS}.port", "several ports"),
        (route("name: orders", "name: database"), f"{_BACKENDS}.port", "is a port for TCP"),
        (route("name: orders", "name: canary", "TCPRoute"), f"{_BACKENDS}.port", "is a port for HTTP"),
        (route("name: orders", "kind: ExternalService, name: canary"), _BACKENDS, "ExternalService shop/canary"),
    ],
)
def test_refused(faulty: AnyObject, path: str, says: str) -> None:
    found = problems(faulty)
    assert (path, True) in [(problem.path, says in problem.message) for problem in found], found
    assert all(problem.subject == str(faulty.ref) and problem.remedy for problem in found)


def test_a_mirror_is_a_reference_too() -> None:
    (value,) = objects(
        """
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: orders}]
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: ghost}}}]
    backendRefs: [{name: canary}]
"""
    )
    (problem,) = problems(value)
    assert problem.path == "$.spec.rules[0].filters[0].requestMirror.backendRef"


def test_contradictions_are_refused() -> None:
    (value,) = objects(
        """
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: orders}]
  rules: [{matches: [{path: {type: RegularExpression, value: '('}}], backendRefs: [{name: canary}]}]
"""
    )
    (problem,) = problems(value)
    assert problem.path == "$.spec.rules[0].matches[0].path.value"


def test_a_service_that_a_route_names_stays() -> None:
    holding = route("name: orders", "name: canary")
    changes = [delete(CANARY)]
    (problem,) = validate(changes, known_for(changes, *MESH, holding))
    assert "HTTPRoute shop/r needs it as it is" in problem.message
    changes = [delete(CANARY), delete(holding)]
    assert validate(changes, known_for(changes, *MESH, holding)) == []


def test_a_port_that_a_route_names_stays_what_it_is() -> None:
    holding = route("name: orders, sectionName: http", "name: canary, port: 80")
    for ports in ("{name: web, port: 80, protocol: http}", "{name: http, port: 80, protocol: tcp}"):
        (changed,) = objects(f"kind: Service\nmetadata: {{name: orders, namespace: shop}}\nspec: {{ports: [{ports}]}}")
        changes = [put(changed)]
        (problem,) = validate(changes, known_for(changes, *MESH, holding))
        assert "$.spec.parentRefs[0]" in problem.message
