"""The routes of one service port as a caller sees them, in Gateway API's order of precedence. Pure.

Where a route is attached to a port it replaces the port's own way: what no rule matches is answered 404 (GEP-1294).
A route whose parent is in another namespace is a *consumer's*: it holds for callers of its own namespace only, and for
those instead of the *producer's*, the routes of the service's namespace (GEP-1324). Of several kinds on one port the
most specific counts: GRPCRoute, HTTPRoute, TCPRoute.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from routing import conditions
from routing.conditions import ANYTHING, Condition, Text
from routing.requests import Request
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import AnyRoute, GRPCRoute, HTTPRoute, TCPRoute
from schemas.objects.grpc_route import GRPCRouteMatch, GRPCRouteRule
from schemas.objects.http_route import HTTPRouteMatch, HTTPRouteRule
from schemas.objects.route_parts import ParentRef
from schemas.objects.service import ServicePort
from schemas.objects.tcp_route import TCPRouteRule

AnyRule = HTTPRouteRule | GRPCRouteRule | TCPRouteRule

_MOST_SPECIFIC_FIRST: tuple[type[AnyRoute], ...] = (GRPCRoute, HTTPRoute, TCPRoute)
_FITS: dict[type[AnyRoute], tuple[str, ...]] = {
    GRPCRoute: ("grpc", "http2"),  # gRPC is HTTP/2, which an app behind an `http` port need not speak
    HTTPRoute: ("http", "http2", "grpc"),
    TCPRoute: ("tcp",),
}


_SERVICES = ("Service", "ExternalService")


_ASKS_METHOD, _ASKS_HEADERS = "access-control-request-method", "access-control-request-headers"
# Headers that no preflight names: the CORS-safelisted ones, and what browsers write themselves (Fetch standard, 2.2.2).
_NAMED_BY_NOBODY = {
    "accept", "accept-language", "content-language", "content-type", "cookie", "host", "origin", "range", "referer",
    "user-agent",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One match of one rule.

    `preflight`: not the match itself, but the CORS preflights of requests that it takes; "asked" where the preflight
    says so, "likely" where it leaves open what the rule goes by, and others of the same path go before. `named`: the
    host name of the route that it goes by, None where it has none; `condition.host` is what of it is for the listener,
    of a gateway.
    """

    route: ObjectRef
    rule_index: int
    match_index: int
    rule: AnyRule
    condition: Condition = ANYTHING
    preflight: Literal["asked", "likely"] | None = None
    named: str | None = None

    def __str__(self) -> str:
        name = f" {self.rule.name!r}" if self.rule.name else ""
        return f"{self.route} rule {self.rule_index}{name}"


@dataclass(frozen=True, slots=True)
class Table:
    """`entries`: first match wins. `outranked`: routes that are attached and don't count, each with the reason."""

    service: ServiceRef
    port: ServicePort
    routed: bool = False
    """False: no route is attached, and everything goes to the service's own instances."""
    entries: tuple[Entry, ...] = ()
    outranked: tuple[tuple[ObjectRef, str], ...] = ()
    conflicting: tuple[tuple[ObjectRef, str], ...] = ()
    """Those of `outranked` that nobody can have wanted."""

    def find(self, request: Request) -> Entry | None:
        """`request`: one that is not refused."""
        return next((entry for entry in self.entries if entry.condition.failure(request) is None), None)


def fits(route: AnyRoute, port: ServicePort) -> bool:
    """Whether a route of that kind can be for a port of that protocol."""
    return port.protocol in _FITS[type(route)]


def parent_of(route: AnyRoute, parent: ParentRef) -> ServiceRef:
    return ServiceRef(parent.namespace or route.metadata.namespace, parent.name)


def parents(route: AnyRoute) -> Iterator[ServiceRef]:
    """The services that it is for."""
    return (parent_of(route, parent) for parent in route.spec.parent_refs if parent.kind in _SERVICES)


def names_port(parent: ParentRef, port: ServicePort) -> bool:
    return parent.port in (None, port.port) and parent.section_name in (None, port.name)


def concerns(route: AnyRoute, service: ServiceRef, caller: ServiceRef) -> bool:
    """Whether it may be for that caller's requests to the service, on whatever port."""
    own = route.metadata.namespace
    return own in (service.namespace, caller.namespace) and service in parents(route)


def table(service: ServiceRef, port: ServicePort, caller: ServiceRef, routes: Iterable[AnyRoute]) -> Table:
    """`routes`: all that name the service as a parent, in any order; others are passed over."""
    attached = [
        route
        for route in routes
        if fits(route, port)
        and concerns(route, service, caller)
        and any(
            one.kind in _SERVICES and parent_of(route, one) == service and names_port(one, port)
            for one in route.spec.parent_refs
        )
    ]
    attached.sort(key=_by_name)
    outranked: list[tuple[ObjectRef, str]] = []
    consumers = [route for route in attached if route.metadata.namespace != service.namespace]
    if consumers:
        why = f"namespace {caller.namespace} has routes of its own for {service}"
        outranked += [(route.ref, why) for route in attached if route not in consumers]
        attached = consumers
    kind = next((one for one in _MOST_SPECIFIC_FIRST if any(isinstance(route, one) for route in attached)), None)
    counted = [route for route in attached if type(route) is kind]
    conflicting = [
        (route.ref, f"a {kind.__name__} is attached to the same port, and is more specific")
        for route in attached
        if kind is not None and type(route) is not kind
    ]
    if kind is TCPRoute:
        conflicting += [(route.ref, f"{counted[0].ref} comes first") for route in counted[1:]]
        counted = counted[:1]
    entries = [entry for route in counted for entry in entries_of(route)]
    entries.sort(key=precedence)
    return Table(service, port, bool(counted), tuple(entries), (*outranked, *conflicting), tuple(conflicting))


def _by_name(route: AnyRoute) -> tuple[str, str, str]:
    return (route.metadata.namespace, route.metadata.name, route.kind)


def entries_of(route: AnyRoute, hosts: Mapping[str | None, str | None] | None = None) -> Iterator[Entry]:
    """`hosts`: for these, each with the one of its `hostnames` that it goes by; absent: for its own."""
    if isinstance(route, TCPRoute):
        yield from (Entry(route.ref, index, 0, rule) for index, rule in enumerate(route.spec.rules))
        return
    own: dict[str | None, str | None] = {host: host for host in route.spec.hostnames} or {None: None}
    for host, named in (own if hosts is None else hosts).items():
        if isinstance(route, GRPCRoute):
            for index, calls in enumerate(route.spec.rules):
                for number, call in enumerate(calls.matches or (GRPCRouteMatch(),)):
                    yield Entry(route.ref, index, number, calls, conditions.of_grpc(call, host), named=named)
            continue
        for index, rule in enumerate(route.spec.rules):
            for number, match in enumerate(rule.matches or (HTTPRouteMatch(),)):
                condition = conditions.of_http(match, host)
                yield Entry(route.ref, index, number, rule, condition, named=named)
                if any(one.type == "CORS" for one in rule.filters):
                    for kind, asked in _preflights(condition):
                        yield Entry(route.ref, index, number, rule, asked, kind, named)


def _preflights(condition: Condition) -> Iterator[tuple[Literal["asked", "likely"], Condition]]:
    """What a browser asks with before it sends such a request (Fetch standard, CORS-preflight fetch).

    The headers that the request itself would carry are not in it; those that a script has set are named. None where
    the condition is one for its own preflights. No other OPTIONS: it would reach an app past the rule's headers.
    """
    origin = Text("origin", ".+", regex=True)
    if condition.method not in (None, "OPTIONS"):
        asks = (origin, Text(_ASKS_METHOD, condition.method or ""))
        yield "asked", Condition(condition.host, condition.path, "OPTIONS", asks, condition.query)
    elif condition.headers:
        asks = (origin, Text(_ASKS_METHOD, condition.method or ".+", regex=condition.method is None))
        names = sorted({one.name for one in condition.headers} - _NAMED_BY_NOBODY)
        named = tuple(Text(_ASKS_HEADERS, _listing(name), regex=True) for name in names)
        if named:
            yield "asked", Condition(condition.host, condition.path, "OPTIONS", (*asks, *named), condition.query)
        yield "likely", Condition(condition.host, condition.path, "OPTIONS", asks, condition.query)


def _listing(name: str) -> str:
    """An expression for lists of header names with that one (lower case) among them."""
    return f"(?i)(?:.*,)? *{conditions.quoted(name)} *(?:,.*)?"


def by_host(named: str | None) -> tuple[int, int]:
    """Smaller goes first: the longest exact name, then the longest wildcard, then none."""
    return (2, 0) if named is None else (int(named.startswith("*.")), -len(named))


def precedence(entry: Entry) -> tuple[object, ...]:
    """Smaller goes first (Gateway API, HTTPRouteRule.matches and GRPCRouteRule.matches; before it the route's own host
    name, HTTPRouteSpec.hostnames and GRPCRouteSpec.hostnames, whatever a listener leaves of it).

    Regular expressions, whose place the standard leaves open, come behind exact paths and before prefixes. The oldest
    route would win a tie; objects carry no time, so it is the first by namespace and name, the standard's next rule.
    """
    condition = entry.condition
    path = condition.path
    by_path = {"exact": 0, "regex": 1, "prefix": 2}[path.kind]
    return (
        *by_host(entry.named),
        not condition.grpc,  # at a gateway both kinds may be attached: what is only for gRPC calls is narrower
        by_path,
        -len(path.value),
        condition.method is None or entry.preflight == "likely",
        0 if entry.preflight == "likely" else -len(condition.headers),
        -len(condition.query),
        entry.preflight == "likely",
        entry.route.namespace,
        entry.route.name,
        entry.rule_index,
        entry.match_index,
        entry.preflight is not None,
    )
