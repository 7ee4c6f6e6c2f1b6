"""What replicas refuse of a Gateway, and of routes for it: each fault once, with its field and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.domain.reads import prefixes_needed
from controlplane.domain.validate import validate
from schemas import codec
from schemas.keys import Keyspace
from tests.controlplane.domain.objects import delete, known_for, objects, put

MESH = objects("kind: Mesh\nmetadata: {name: mesh}\nspec: {trustDomain: shop.example}")[0]
EDGE = objects(
    "kind: Service\nmetadata: {name: edge, namespace: shop}\nspec: {ports: [{name: http, port: 8080, protocol: http}]}"
)[0]
FILES = "tls: {certificateRefs: [{certificate: a.crt, key: a.key}]}"
HTTP = "{name: http, port: 80, protocol: HTTP}"
HTTPS = f"{{name: https, port: 443, protocol: HTTPS, {FILES}}}"


def gateway(*listeners: str, name: str = "edge", of: str = "edge") -> str:
    spec = f"{{service: {of}, listeners: [{', '.join(listeners)}]}}"
    return f"kind: Gateway\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}"


def route(parent: str, *, kind: str = "HTTPRoute", more: str = "", namespace: str = "shop") -> str:
    rules = "rules: [{backendRefs: [{name: edge, namespace: shop, port: 8080}]}]"
    return f"""kind: {kind}
metadata: {{name: r, namespace: {namespace}}}
spec: {{parentRefs: [{{kind: Gateway, name: edge, namespace: shop{parent}}}], {more}{rules}}}"""


OTHER = objects(gateway("{name: taken, port: 81, protocol: HTTP}", name="other"))[0]
THERE = objects(
    gateway(HTTP, "{name: named, port: 443, protocol: HTTPS, hostname: a.example, " + FILES + "}", name="edge")
)[0]
FAULTS = {
    "no service": (gateway(HTTP, of="nobody"), "service", "does not exist"),
    "a listener twice": (gateway(HTTP, HTTP.replace("80", "82")), "listeners[1].name", "second listener"),
    "a port for two protocols": (
        gateway(HTTP, HTTPS.replace("443", "80")),
        "listeners[1]",
        "is for HTTP already, by listener 'http'",
    ),
    "a host twice": (gateway(HTTP, HTTP.replace("http,", "more,")), "listeners[1]", "all host names"),
    "no certificate": (
        gateway("{name: a, port: 443, protocol: HTTPS}"),
        "listeners[0].tls.certificateRefs",
        "missing: protocol is HTTPS",
    ),
    "a certificate for nothing": (
        gateway(f"{{name: a, port: 80, protocol: HTTP, {FILES}}}"),
        "listeners[0].tls.certificateRefs",
        "says nothing for protocol HTTP",
    ),
    "a redirect to itself": (
        gateway(HTTPS.replace("tls: {", "tls: {httpsRedirect: true, ")),
        "listeners[0].tls.httpsRedirect",
        "https already",
    ),
    "names for nobody": (
        gateway(HTTP.replace("HTTP}", "HTTP, allowedRoutes: {namespaces: {from: Names}}}")),
        "listeners[0].allowedRoutes.namespaces.names",
        "missing",
    ),
    "another gateway's port": (
        gateway("{name: mine, port: 81, protocol: HTTP}"),
        "listeners[0]",
        "Gateway shop/other listener taken",
    ),
    "the port inside": (gateway("{name: a, port: 8080, protocol: HTTP}"), "listeners[0].port", "inside of the mesh"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_one_problem_with_its_place(name: str) -> None:
    text, path, message = FAULTS[name]
    changes = [put(value) for value in objects(text)]
    [problem] = validate(changes, known_for(changes, MESH, EDGE, OTHER))
    assert problem.path == f"$.spec.{path}"
    assert message in problem.message
    assert problem.remedy


def test_a_good_one() -> None:
    hosts = (
        HTTPS.replace("https,", f"{name}, hostname: '{host}',")
        for name, host in (("b", "*.b.example"), ("c", "c.example"))
    )
    changes = [put(value) for value in objects(gateway(HTTP, HTTPS, *hosts))]
    known = known_for(changes, MESH, EDGE, OTHER)
    assert not validate(changes, known)
    assert b"/mesh/v1/data/config/Gateway/shop/" in prefixes_needed(Keyspace(), changes, known)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (route(", sectionName: nobody"), ".sectionName", "no such listener"),
        (route(", port: 82"), ".port", "no such listener"),
        (route(", sectionName: named, port: 80"), ".port", "no such listener"),
        (route("", namespace="back"), "", "no routes of namespace back"),
        (route(", sectionName: named", more="hostnames: [b.example], "), "", "none of its hostnames meets"),
        (route("", kind="TCPRoute").replace(", port: 8080", ""), "", "not for a gateway"),
    ],
)
def test_routes_that_attach_nowhere(text: str, path: str, message: str) -> None:
    changes = [put(value) for value in objects(text)]
    found = validate(changes, known_for(changes, MESH, EDGE, THERE))
    assert [message in one.message for one in found if one.path == f"$.spec.parentRefs[0]{path}"] == [True]


@pytest.mark.parametrize("more", ["", "hostnames: [a.example], ", "hostnames: ['*.example'], "])
def test_routes_that_attach(more: str) -> None:
    changes = [put(value) for value in objects(route("", more=more))]
    assert not validate(changes, known_for(changes, MESH, EDGE, THERE))


def test_what_a_route_needs_stays() -> None:
    attached = objects(route(", sectionName: named"))[0]
    for change in (delete(THERE), *(put(one) for one in objects(gateway(HTTP)))):
        [problem] = validate([change], known_for([change], MESH, EDGE, THERE, attached))
        assert "HTTPRoute shop/r needs it as it is" in problem.message


def test_the_examples_are_good() -> None:
    """Beside those of the shop, which they lead to."""
    folder = Path(__file__).parents[3] / "deploy" / "examples"
    texts = [path.read_text() for where in ("shop", "edges") for path in sorted((folder / where).glob("*.yaml"))]
    changes = [put(one.object) for text in texts for one in codec.load_yaml(text, "examples")]
    mesh = objects("kind: Mesh\nmetadata: {name: mesh}\nspec: {trustDomain: example.org}")[0]
    assert not validate(changes, known_for(changes, mesh))
