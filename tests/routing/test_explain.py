"""Where a request would go, and why: by the model, and as `meshadm route` says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from controlplane.meshadm.__main__ import main
from routing.explain import Share, Verdict, explain
from routing.requests import parse_url
from schemas.errors import InvalidInput
from schemas.names import ServiceRef
from schemas.objects import AnyObject, AnyRoute, ExternalService, Service
from tests.states.build import need, port, service
from tests.states.routes import http_route, written

ORDERS, WEB, API = (ServiceRef("shop", name) for name in ("orders", "web", "api"))
PORTS = (port("http", 80), port("raw", 7, "tcp"))
FIXED = (service("web", needs=[need("orders")]), service("orders", *PORTS), service("canary", *PORTS))
SPLIT = http_route(
    """
    - name: split
      matches: [{path: {value: /a}, method: GET}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: ghost}}}]
      backendRefs: [{name: orders, port: 80, weight: 3}, {name: canary, port: 80}, {name: ghost, port: 1, weight: 0}]
      timeouts: {request: 1s, backendRequest: 100ms}
      retry: {codes: [503]}
      sessionPersistence: {}
    - matches: [{path: {value: /gone}}]
      backendRefs: [{name: ghost, port: 80}]
    - matches: [{path: {value: /away}}]
      filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
    - matches: [{path: {value: /none}}]
      backendRefs: [{name: orders, port: 80, weight: 0}]
    """
)


def asked(method: str, url: str, *objects: AnyObject, caller: ServiceRef = WEB) -> Verdict:
    given = (*FIXED, *objects)
    services = {ServiceRef(one.metadata.namespace, one.metadata.name): one for one in given if isinstance(one, Service)}
    routes = [one for one in given if isinstance(one, AnyRoute)]
    address, request = parse_url(method, url)
    return explain(caller, ORDERS, address, request, services, routes)


def test_a_rule_with_shares() -> None:
    found = asked("GET", "orders/a/b", SPLIT)
    assert found.entry is not None
    assert (str(found.entry), str(found.entry.condition)) == (
        "HTTPRoute shop/orders rule 0 'split'", "method GET, path /a/*",
    )  # fmt: skip
    assert found.shares == (Share("orders.shop:80", 75), Share("canary.shop:80", 25))
    assert found.does == (
        "mirrored to ghost.shop:? (service ghost.shop does not exist: not done)", "timeout 1s",
        "timeout of each try 100ms", "2 retries on 503, lost connections, resets", "session by cookie mesh-session",
    )  # fmt: skip
    assert not found.notes


def test_why_nothing_matched() -> None:
    found = asked("PUT", "orders/a", SPLIT)
    assert (found.entry, found.answer) == (None, "404: no rule matches")
    assert [why for _, why in found.before] == [
        "the path is not /gone/*", "the path is not /away/*", "the path is not /none/*", "the method is PUT, not GET",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "answer", "missing"),
    [("orders/gone", "", ["service ghost.shop does not exist"]), ("orders/away", "302: a redirect", []),
     ("orders/none", "500: all weights are 0", [])],
)  # fmt: skip
def test_answers_of_the_sidecar(url: str, answer: str, missing: list[str]) -> None:
    found = asked("GET", url, SPLIT)
    assert (found.answer, [one.missing for one in found.shares]) == (answer, missing)


def test_without_routes() -> None:
    found = asked("GET", "http://orders.shop.mesh/")
    assert (found.entry, found.shares) == (None, (Share("orders.shop:80", 100),))


def test_tcp() -> None:
    (route,) = written(
        """
        kind: TCPRoute
        metadata: {name: db}
        spec: {parentRefs: [{kind: Service, name: orders}], rules: [{backendRefs: [{name: canary, port: 7}]}]}
        """
    )
    assert asked("CONNECT", "orders:7", route).shares == (Share("canary.shop:7", 100),)
    assert asked("GET", "orders:7", route).answer.startswith("400: port 7 is a TCP port")


def test_a_tunnel_to_a_port_of_http() -> None:
    assert asked("CONNECT", "orders:80", SPLIT).answer.startswith("200: the tunnel ends at this sidecar")
    found = asked("CONNECT", "orders:80")
    assert (found.shares, found.does) == (
        (Share("orders.shop:80", 100),), ("what is in the tunnel is HTTP to that port",),
    )  # fmt: skip


def test_what_is_refused_is_not_routed() -> None:
    for method, url in (("GET", "orders/a%2fb"), ("GET", "orders:7/"), ("get", "orders/")):
        found = asked(method, url, SPLIT)
        assert (found.refused, found.answer[:5], found.shares, found.entry) == (True, "400: ", (), None)


def test_notes() -> None:
    (note,) = asked("FETCH", "orders.shop").notes
    assert "over HTTP/1.1 it answers 400" in note
    (note,) = asked("GET", "orders.shop", caller=ServiceRef("shop", "canary")).notes
    assert "does not declare orders.shop" in note
    (note,) = asked("GET", "http://api.example.com/").notes
    assert "no name of orders.shop" in note
    assert "does not exist" in asked("GET", "orders.shop", caller=ServiceRef("x", "y")).notes[0]


def test_the_outside_that_the_caller_does_not_declare() -> None:
    """By its name of the mesh it is a service that is not there; by its host any host outside."""
    (api,) = written("""
        kind: ExternalService
        metadata: {name: api}
        spec: {hosts: [api.payments.example], ports: [{name: http, port: 80, protocol: http}], tls: {mode: SIMPLE}}
        """)
    assert isinstance(api, ExternalService)
    known: dict[ServiceRef, Service | ExternalService] = {API: api, WEB: FIXED[0]}
    for host, said in (("api.payments.example", "outboundTrafficPolicy"), ("api.shop", "its sidecar answers 503")):
        address, request = parse_url("GET", f"http://{host}/")
        (note,) = explain(WEB, API, address, request, known, []).notes
        assert "does not declare api.shop" in note
        assert said in note


def test_what_is_not_there() -> None:
    with pytest.raises(InvalidInput, match="no port 81"):
        asked("GET", "orders:81")


def _file(directory: Path) -> Path:
    text = """
apiVersion: mesh/v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 80, protocol: http}]}
---
apiVersion: mesh/v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80, protocol: http}]}
---
apiVersion: mesh/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: orders}]
  rules:
  - {matches: [{headers: [{name: x-user, value: anna}]}], backendRefs: [{name: orders, weight: 1}]}
"""
    path = directory / "shop.yaml"
    path.write_text(text)
    return path


def test_the_command_judges_by_files(tmp_path: Path) -> None:
    words = ["route", "web.shop", "orders.shop", "GET", "/", "-f", str(_file(tmp_path))]
    plain = CliRunner().invoke(main, words)
    assert plain.exit_code == 0
    assert plain.output.splitlines() == [
        "port 80 of orders.shop",
        "  answered 404: no rule matches",
        "did not match:",
        "  HTTPRoute shop/r rule 0 match 0: the header is not x-user = anna",
    ]
    found = json.loads(CliRunner().invoke(main, [*words, "-H", "x-user=anna", "-o", "json"]).output)
    assert found["route"] == {"kind": "HTTPRoute", "namespace": "shop", "name": "r"}
    assert found["backends"] == [{"target": "orders.shop:80", "percent": 100.0}]


def test_the_command_tells_what_is_refused(tmp_path: Path) -> None:
    words = ["route", "web.shop", "orders.shop", "GET", "/%252e", "-f", str(_file(tmp_path))]
    plain, found = CliRunner().invoke(main, words), CliRunner().invoke(main, [*words, "-o", "json"])
    assert (plain.exit_code, found.exit_code) == (6, 6)
    assert plain.output.splitlines()[1] == "  answered 400: the path has a part that is escaped twice"
    said = json.loads(found.output)
    assert (said["refused"], said["answer"], said["backends"]) == (
        True, "400: the path has a part that is escaped twice", [],
    )  # fmt: skip


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["route", "web.shop", "orders.shop", "GET", "/", "-f", str(_file(tmp_path)), "-H", "x"]
    )
    assert result.exit_code != 0
    assert "NAME=VALUE" in result.output
