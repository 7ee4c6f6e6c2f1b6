"""The routes of a gateway's listener, in Gateway API's order of precedence. Pure.

A route attaches to the listeners that its `parentRefs` name, that allow it, and whose host name meets one of its own;
there it is for what both say, and goes before routes whose own name is wider. Of several listeners on a port a request
belongs to the one with the most specific host name, and to no other.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from routing.table import Entry, by_host, entries_of, precedence
from schemas.gateway_faults import conflict
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import AnyRoute, Gateway, TCPRoute
from schemas.objects.gateway import Listener
from schemas.objects.route_parts import ParentRef


def gateway_of(route: AnyRoute, parent: ParentRef) -> ObjectRef | None:
    """None: it is for a service."""
    if parent.kind != Gateway.__name__:
        return None
    return ObjectRef(Gateway.__name__, parent.namespace or route.metadata.namespace, parent.name)


def gateway_parents(route: AnyRoute) -> Iterator[ObjectRef]:
    return (found for parent in route.spec.parent_refs if (found := gateway_of(route, parent)) is not None)


def service_of_gateway(gateway: Gateway) -> ServiceRef:
    """Whose sidecars it runs in."""
    return ServiceRef(gateway.metadata.namespace, gateway.spec.service)


def names_listener(parent: ParentRef, listener: Listener) -> bool:
    return parent.section_name in (None, listener.name) and parent.port in (None, listener.port)


def refusal(gateway: Gateway, listener: Listener, route: AnyRoute) -> str | None:
    """Why a route that names the listener is not for it; None: it is."""
    if isinstance(route, TCPRoute):
        return "a TCPRoute is not for a gateway"
    allowed, own = listener.allowed_routes, gateway.metadata.namespace
    if allowed.kinds and route.kind not in [one.kind for one in allowed.kinds]:
        return f"listener {listener.name!r} allows no {route.kind}"
    by, namespace = allowed.namespaces, route.metadata.namespace
    if by.from_ != "All" and namespace not in (by.names if by.from_ == "Names" else (own,)):
        return f"listener {listener.name!r} allows no routes of namespace {namespace}"
    if not hosts_at(listener, route):
        return f"listener {listener.name!r} is for {listener.hostname}, which none of its hostnames meets"
    return None


def attached(gateway: Gateway, listener: Listener, route: AnyRoute) -> bool:
    named = any(
        gateway_of(route, parent) == gateway.ref and names_listener(parent, listener)
        for parent in route.spec.parent_refs
    )
    return named and refusal(gateway, listener, route) is None


def hosts_at(listener: Listener, route: AnyRoute) -> dict[str | None, str | None]:
    """The hosts for which it counts at that listener, None is any; with the name of its own that is nearest to each,
    None where it has none."""
    if isinstance(route, TCPRoute):
        return {}
    if not route.spec.hostnames:
        return {listener.hostname: None}
    found: dict[str | None, str | None] = {}
    for named in sorted(route.spec.hostnames, key=by_host):
        both = meet(listener.hostname, named)
        if both is not None:
            found.setdefault(both, named)
    return found


def meet(listener: str | None, route: str) -> str | None:
    """The hosts that both are for, ``*.example.com`` for all below it; None: there are none."""
    if listener is None or listener == route:
        return route
    if covers(listener, route):
        return route
    return listener if covers(route, listener) else None


def covers(pattern: str, host: str) -> bool:
    """Whether `pattern` is a wildcard that `host`, a name or a narrower wildcard, is below."""
    return pattern.startswith("*.") and host != pattern and host.removeprefix("*").endswith(pattern[1:])


def entries_at(gateway: Gateway, listener: Listener, routes: Iterable[AnyRoute]) -> tuple[Entry, ...]:
    """First match wins. `routes`: others than those that are attached are passed over."""
    found = [
        entry
        for route in routes
        if attached(gateway, listener, route)
        for entry in entries_of(route, hosts_at(listener, route))
    ]
    return tuple(sorted(found, key=precedence))


@dataclass(frozen=True, slots=True)
class Place:
    """A listener and the gateway that it is of."""

    gateway: Gateway
    listener: Listener

    def __str__(self) -> str:
        return f"{self.gateway.ref} listener {self.listener.name}"


def places(gateways: Iterable[Gateway]) -> tuple[list[Place], list[tuple[Place, Place]]]:
    """The listeners of a service's gateways, first those of the first by name; with each that contradicts an earlier
    one, and is therefore left out, that one."""
    found: list[Place] = []
    left_out: list[tuple[Place, Place]] = []
    for gateway in sorted(gateways, key=lambda one: one.metadata.name):
        for listener in gateway.spec.listeners:
            place = Place(gateway, listener)
            rival = next((one for one in found if conflict(one.listener, listener)), None)
            if rival is None:
                found.append(place)
            else:
                left_out.append((place, rival))
    return found, left_out
