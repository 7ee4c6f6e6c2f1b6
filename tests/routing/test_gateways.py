"""Which routes a gateway's listener takes, for which hosts, and which of them serves a request."""

from __future__ import annotations

from itertools import product

import pytest

from routing.conditions import host_fits
from routing.explain import Verdict, explain_outside
from routing.gateways import entries_at, hosts_at, meet
from routing.requests import parse_url
from schemas.errors import InvalidInput
from schemas.objects import AnyRoute, Gateway
from schemas.objects.gateway import Listener
from tests.states.build import ref, service
from tests.states.routes import http_route, written

HOSTS = ("a.test", "b.a.test", "c.b.a.test", "x.test", "test")
PATTERNS = ("a.test", "b.a.test", "*.test", "*.a.test", "*.b.a.test", "x.test")


@pytest.mark.parametrize(("listener", "route"), list(product(PATTERNS, PATTERNS)))
def test_what_both_say(listener: str, route: str) -> None:
    """A host is for both where it is for each; whatever way round."""
    both = meet(listener, route)
    assert both == meet(route, listener)
    for host in HOSTS:
        expected = host_fits(listener, host) and host_fits(route, host)
        assert (both is not None and host_fits(both, host)) == expected, host


def test_a_listener_for_all_hosts() -> None:
    everybody = Listener(name="a", port=80, protocol="HTTP")
    one = Listener(name="a", port=80, protocol="HTTP", hostname="a.test")
    route = _route("- backendRefs: [{name: orders}]", hosts="a.test, '*.b.test'")
    assert hosts_at(everybody, route) == {"a.test": "a.test", "*.b.test": "*.b.test"}
    assert hosts_at(one, route) == {"a.test": "a.test"}
    plain = _route("- backendRefs: [{name: orders}]")
    assert hosts_at(everybody, plain) == {None: None}
    assert hosts_at(one, plain) == {"a.test": None}
    several = _route("- backendRefs: [{name: orders}]", hosts="'*.test', a.test")
    assert hosts_at(one, several) == {"a.test": "a.test"}, "once, by the name that is nearest"


def _route(rules: str, *, name: str = "r", section: str = "", hosts: str = "") -> AnyRoute:
    where = f", sectionName: {section}" if section else ""
    spec = f"parentRefs: [{{kind: Gateway, name: edge{where}}}]" + (f"\n  hostnames: [{hosts}]" if hosts else "")
    found = http_route(rules, name=name, spec=spec)
    assert isinstance(found, AnyRoute)
    return found


EDGE = written("""
kind: Gateway
metadata: {name: edge}
spec:
  service: web
  listeners:
  - {name: http, port: 80, protocol: HTTP, tls: {httpsRedirect: true}}
  - {name: wild, port: 443, protocol: HTTPS, hostname: "*.test",
     tls: {certificateRefs: [{certificate: a, key: b}]}}
  - {name: exact, port: 443, protocol: HTTPS, hostname: a.test,
     tls: {certificateRefs: [{certificate: a, key: b}]}}
""")[0]
ROUTES = (
    _route("- matches: [{path: {value: /a}}]\n  backendRefs: [{name: orders}]", section="exact"),
    _route("- backendRefs: [{name: orders, weight: 3}, {name: ghost}]", name="w", section="wild", hosts="b.test"),
)


@pytest.mark.parametrize("kind", ["HTTPRoute", "GRPCRoute"])
def test_routes_are_ordered_by_their_own_host_names(kind: str) -> None:
    """Gateway API, HTTPRouteSpec.hostnames: at a listener for a.b.test all four are for the same host."""
    names = {"d": "[a.b.test]", "c": "['*.b.test']", "b": "['*.test']", "a": "[]"}
    (gateway, *routes) = written(
        "kind: Gateway\nmetadata: {name: edge}\nspec:\n  service: web\n"
        "  listeners: [{name: http, port: 80, protocol: HTTP, hostname: a.b.test}]\n"
        + "".join(
            f"---\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
            f"  parentRefs: [{{kind: Gateway, name: edge}}]\n  hostnames: {hosts}\n"
            "  rules: [{backendRefs: [{name: orders}]}]\n"
            for name, hosts in names.items()
        )
    )
    assert isinstance(gateway, Gateway)
    attached = [one for one in routes if isinstance(one, AnyRoute)]
    found = entries_at(gateway, gateway.spec.listeners[0], attached)
    assert [one.route.name for one in found] == list(names)
    assert {one.condition.host for one in found} == {"a.b.test"}


def ask(url: str, method: str = "GET") -> Verdict:
    assert isinstance(EDGE, Gateway)
    address, request = parse_url(method, url, outside=True)
    return explain_outside(EDGE, address, request, {ref("orders"): service("orders")}, ROUTES)


def test_which_route_serves_a_request_from_outside() -> None:
    found = ask("https://a.test/a/b")
    assert str(found.entry) == "HTTPRoute shop/r rule 0"
    assert [one.target for one in found.shares] == ["orders.shop:80"]
    assert [(ref.name, why) for ref, why in found.outranked] == [
        ("w", "listener 'exact' is for a.test, which none of its hostnames meets")
    ]
    missed = ask("https://a.test/b")
    assert (missed.entry, missed.answer) == (None, "404: no rule matches")
    assert missed.before[0][1] == "the path is not /a/*"
    assert [one.percent for one in ask("https://b.test/").shares] == [75.0, 25.0]
    assert ask("https://c.test/").answer == "404: no rule matches"
    assert ask("http://c.test/").answer == "301: to https"
    refused = ask("https://a.test/a/%252e")
    assert (refused.refused, refused.answer, refused.entry) == (
        True, "400: the path has a part that is escaped twice", None,
    )  # fmt: skip
    assert ask("https://a.test", "CONNECT").refused
    assert ask("https://a.test:443", "CONNECT").answer.startswith("404: ")


@pytest.mark.parametrize(("url", "said"), [("https://a.other/", "for a.other"), ("https://a.test:444/", "port 444")])
def test_no_listener(url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        ask(url)
