"""Which route, rule and backend would serve a request, and why: what `table` says, in words. Pure; nothing is sent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from routing.backends import Backend, backends_of, mirrors_of, target_of
from routing.conditions import host_fits
from routing.gateways import attached, entries_at, gateway_parents, places, refusal, service_of_gateway
from routing.names import default_port, host_names
from routing.requests import Address, Request
from routing.table import Entry, by_host, concerns, table
from schemas.errors import InvalidInput, Problem
from schemas.http_requests import HTTP1_METHODS
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import AnyRoute, ExternalService, Gateway, Service
from schemas.objects.gateway import Listener
from schemas.objects.service import ServicePort
from schemas.objects.tcp_route import TCPRouteRule

_TUNNEL = "the tunnel ends at this sidecar; each request in it goes by the routes, as without one"
Services = Mapping[ServiceRef, Service | ExternalService]


@dataclass(frozen=True, slots=True)
class Share:
    """`percent` of the requests; `missing`: they are answered 503, and why."""

    target: str
    percent: float
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    service: ServiceRef
    port: ServicePort
    entry: Entry | None = None
    """None: no route is attached, or no rule matches."""
    answer: str = ""
    """What the sidecar answers by itself; empty: the request goes to `shares`."""
    shares: tuple[Share, ...] = ()
    does: tuple[str, ...] = ()
    """Filters, timeouts, retries, in words."""
    before: tuple[tuple[Entry, str], ...] = ()
    """What went before in the order of precedence, and why it did not match."""
    outranked: tuple[tuple[ObjectRef, str], ...] = ()
    notes: tuple[str, ...] = field(default=())
    refused: bool = False
    """400, for what no route is asked about."""


def explain(
    caller: ServiceRef,
    service: ServiceRef,
    address: Address,
    request: Request,
    services: Services,
    routes: Iterable[AnyRoute],
) -> Verdict:
    """`services`: at least the two and what the routes name. Raises InvalidInput for a service or port that is not."""
    destination = services.get(service)
    if destination is None:
        raise InvalidInput(Problem(f"service {service}", "does not exist", remedy="meshadm get services -A"))
    port = _port(service, destination, address, request)
    attached = [one for one in routes if concerns(one, service, caller)]
    found = table(service, port, caller, attached)
    notes = tuple(_notes(caller, service, request, services))
    refused = request.refused
    if port.protocol == "tcp" and request.method != "CONNECT":
        refused = refused or f"port {port.port} is a TCP port: use CONNECT, or a bound port"
    if refused:
        return Verdict(service, port, answer=f"400: {refused}", refused=True, outranked=found.outranked, notes=notes)
    ends_here = request.method == "CONNECT" and port.protocol != "tcp"
    if ends_here and found.routed:
        return Verdict(service, port, answer=f"200: {_TUNNEL}", outranked=found.outranked, notes=notes)
    if not found.routed:
        shares = (Share(f"{service}:{port.port}", 100.0),)
        does = ("what is in the tunnel is HTTP to that port",) if ends_here else ()
        return Verdict(service, port, shares=shares, does=does, outranked=found.outranked, notes=notes)
    before: list[tuple[Entry, str]] = []
    for entry in found.entries:
        failure = None if port.protocol == "tcp" else entry.condition.failure(request)
        if failure is not None:
            before.append((entry, failure))
            continue
        return _served(
            entry, services, Verdict(service, port, entry, "", (), (), tuple(before), found.outranked, notes)
        )
    answer = "404: no rule matches"
    return Verdict(service, port, None, answer, (), (), tuple(before), found.outranked, notes)


def explain_outside(
    gateway: Gateway,
    address: Address,
    request: Request,
    services: Services,
    routes: Iterable[AnyRoute],
    others: Iterable[Gateway] = (),
) -> Verdict:
    """What becomes of a request that a client outside of the mesh sends to the gateway; `address` with a port.

    others: gateways that may run in the same service, the gateway itself among them or not.

    Raises InvalidInput for a port or host that none of its listeners is for, or that is another gateway's.
    """
    beside = {one.ref: one for one in others if service_of_gateway(one) == service_of_gateway(gateway)}
    listener = _listener(gateway, {**beside, gateway.ref: gateway}.values(), address, request)
    port = ServicePort(name=listener.name, port=listener.port, protocol="http")
    if request.refused:
        return Verdict(service_of_gateway(gateway), port, answer=f"400: {request.refused}", refused=True)
    if request.method == "CONNECT":
        return Verdict(service_of_gateway(gateway), port, answer="404: gateways take no CONNECT")
    candidates = [one for one in routes if gateway.ref in gateway_parents(one)]
    entries = entries_at(gateway, listener, candidates)
    before: list[tuple[Entry, str]] = []
    found: Entry | None = None
    for entry in entries:
        failure = entry.condition.failure(request)
        if failure is None:
            found = entry
            break
        before.append((entry, failure))
    not_attached = tuple(
        (one.ref, why)
        for one in candidates
        if (why := refusal(gateway, listener, one) or _unnamed(gateway, listener, one))
    )
    verdict = Verdict(service_of_gateway(gateway), port, found, "", (), (), tuple(before), not_attached)
    if found is not None:
        return _served(found, services, verdict)
    redirects = listener.tls is not None and listener.tls.https_redirect
    return replace(verdict, answer="301: to https" if redirects else "404: no rule matches")


def _listener(gateway: Gateway, beside: Iterable[Gateway], address: Address, request: Request) -> Listener:
    """`beside`: all of its service."""
    on_port = [one for one in gateway.spec.listeners if one.port == address.port]
    known = ", ".join(f"{one.name} ({one.hostname or 'any host'}:{one.port})" for one in gateway.spec.listeners)
    remedy = f"its listeners are {known}"
    if not on_port:
        raise InvalidInput(Problem(str(gateway.ref), f"has no listener on port {address.port}", remedy=remedy))
    if not any(_takes(one, request) for one in on_port):
        raise InvalidInput(Problem(str(gateway.ref), f"has no listener for {request.host} on that port", remedy=remedy))
    in_force, left_out = places(beside)
    fitting = [one for one in in_force if one.listener.port == address.port and _takes(one.listener, request)]
    rivals = [rival for one, rival in left_out if one.listener in on_port and _takes(one.listener, request)]
    found = min(fitting or rivals, key=lambda one: by_host(one.listener.hostname))
    if found.gateway.ref != gateway.ref:
        text = f"is not asked for {request.host}: {found}, in the same service, goes before"
        to = f"{found.gateway.metadata.name}.{found.gateway.metadata.namespace}"
        raise InvalidInput(Problem(str(gateway.ref), text, remedy=f"meshadm route outside {to} …"))
    return found.listener


def _takes(listener: Listener, request: Request) -> bool:
    return listener.hostname is None or host_fits(listener.hostname, request.host)


def _unnamed(gateway: Gateway, listener: Listener, route: AnyRoute) -> str | None:
    """Why a route for the gateway is not for that listener, which would take it."""
    if attached(gateway, listener, route):
        return None
    return f"it does not name listener {listener.name!r}"


def _port(
    service: ServiceRef, destination: Service | ExternalService, address: Address, request: Request
) -> ServicePort:
    numbers = ", ".join(f"{one.port} ({one.protocol})" for one in destination.spec.ports)
    remedy = f"its ports are {numbers}"
    if address.port is None:
        found = default_port(destination)
        if found is None:
            raise InvalidInput(Problem(f"service {service}", "has no HTTP port, and the URL names none", remedy=remedy))
        return found
    for port in destination.spec.ports:
        if port.port == address.port:
            return port
    raise InvalidInput(Problem(f"service {service}", f"has no port {address.port}", remedy=remedy))


def _notes(caller: ServiceRef, service: ServiceRef, request: Request, services: Services) -> Iterable[str]:
    own = services.get(caller)
    if own is None:
        yield f"service {caller} does not exist: no sidecar of it can run"
    found = services.get(service)
    hosts = found.spec.hosts if isinstance(found, ExternalService) else ()
    if isinstance(own, Service) and own.spec.dependencies is not None and not _may_call(own, service):
        outside = "for its sidecar that is any host outside, which the Mesh's outboundTrafficPolicy refuses or lets go"
        comes_of_it = outside if request.host in hosts else "its sidecar answers 503"
        yield f"{caller} does not declare {service} as a dependency: {comes_of_it}"
    near = service.namespace in (caller.namespace, SYSTEM_NAMESPACE)
    declares = isinstance(own, Service) and service in _declared(own)
    if request.host in hosts and not near and not declares:
        yield f"{request.host} leads there for callers that declare {service} as a dependency: {caller} does not"
    elif request.host not in (*host_names(service, caller), *hosts):
        yield f"{request.host} is no name of {service} at the proxy port: so only through a bound port"
    if not request.refused and request.method not in HTTP1_METHODS:
        yield f"Envoy takes {request.method} over HTTP/2 only: over HTTP/1.1 it answers 400"


def _may_call(own: Service, service: ServiceRef) -> bool:
    return service in _declared(own) or any(one.name == "*" for one in own.spec.dependencies or ())


def _declared(service: Service) -> set[ServiceRef]:
    own = service.metadata.namespace
    return {ServiceRef(one.namespace or own, one.name) for one in service.spec.dependencies or ()}


def _served(entry: Entry, services: Services, verdict: Verdict) -> Verdict:
    rule, namespace = entry.rule, entry.route.namespace
    backends = backends_of(rule, namespace, services.get)
    answer = ""
    redirect = None
    if not isinstance(rule, TCPRouteRule):
        redirect = next((found for one in rule.filters if (found := getattr(one, "request_redirect", None))), None)
    if redirect is not None:
        answer = f"{redirect.status_code}: a redirect"
    elif not backends:
        answer = "500: all weights are 0"
    return Verdict(
        verdict.service,
        verdict.port,
        entry,
        answer,
        () if redirect is not None else tuple(_shares(backends)),
        tuple(_does(entry, services)),
        verdict.before,
        verdict.outranked,
        verdict.notes,
    )


def _shares(backends: Iterable[Backend]) -> Iterable[Share]:
    found = list(backends)
    whole = sum(one.weight for one in found)
    return (Share(str(one.target), 100 * one.weight / whole, one.target.missing) for one in found)


def _does(entry: Entry, services: Services) -> Iterable[str]:
    rule = entry.rule
    if isinstance(rule, TCPRouteRule):
        return
    if entry.preflight:
        yield "a CORS preflight: answered by the sidecar where the origin is allowed"
    for one in rule.filters:
        if one.type != "RequestMirror":
            yield f"filter {one.type}"
    for _, mirror in mirrors_of(rule):
        target = target_of(mirror.backend_ref, entry.route.namespace, services.get)
        yield f"mirrored to {target}" + (f" ({target.missing}: not done)" if target.missing else "")
    if rule.timeouts.request:
        yield f"timeout {rule.timeouts.request}"
    if rule.timeouts.backend_request:
        yield f"timeout of each try {rule.timeouts.backend_request}"
    if rule.retry is not None:
        what = [*map(str, rule.retry.codes), *(rule.retry.triggers or ("lost connections", "resets"))]
        yield f"{rule.retry.attempts} retries on {', '.join(what)}"
    if rule.session_persistence is not None:
        yield f"session by {rule.session_persistence.type.lower()} {rule.session_persistence.session_name}"
