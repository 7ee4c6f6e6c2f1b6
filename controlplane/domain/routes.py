"""What a route must hold in the state as it will be: its parents have ports for it, its backends have theirs. Pure."""

from collections.abc import Iterator

from controlplane.domain.known import After
from routing.backends import MIXED, backend_refs, service_of, targets_of
from routing.check import route_faults
from routing.gateways import gateway_of, names_listener, refusal
from routing.table import fits, names_port, parent_of
from schemas.checking import json_path
from schemas.errors import Problem
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import AnyRoute, ExternalService, Gateway, Service
from schemas.objects.route_parts import ParentRef


def route_problems(route: AnyRoute, after: After, subject: str) -> Iterator[Problem]:
    """References to what does not exist are said elsewhere."""
    for fault in route_faults(route):
        yield Problem(subject, fault.message, json_path(fault.path), fault.remedy)
    own = route.metadata.namespace
    for index, parent in enumerate(route.spec.parent_refs):
        path = f"$.spec.parentRefs[{index}]"
        gateway = after.get(ref) if (ref := gateway_of(route, parent)) is not None else None
        if isinstance(gateway, Gateway):
            yield from _attaching(route, parent, gateway, path, subject)
            continue
        found = _destination(after, parent.kind, parent_of(route, parent))
        if found is None:
            continue
        named = [port for port in found.spec.ports if names_port(parent, port)]
        if not named:
            field = "port" if parent.port is not None else "sectionName"
            ports = ", ".join(f"{port.name} ({port.port})" for port in found.spec.ports)
            yield Problem(subject, f"{found.ref} has no such port", f"{path}.{field}", f"its ports are {ports}")
        elif not any(fits(route, port) for port in named):
            protocols = ", ".join(sorted({port.protocol for port in named}))
            message = f"a {route.kind} is not for ports of protocol {protocols}"
            yield Problem(subject, message, path, "choose another kind of route, or another port")
    services = {
        service_of(ref, own): found
        for _, ref in backend_refs(route)
        if (found := _destination(after, ref.kind, service_of(ref, own))) is not None
    }
    for path, target in targets_of(route, services.get):
        if target.missing and target.service in services:
            ports = ", ".join(f"{port.port} ({port.protocol})" for port in services[target.service].spec.ports)
            remedy = "give each a TCPRoute of its own" if target.missing == MIXED else f"its ports are {ports}"
            yield Problem(subject, target.missing, f"{path}.port", remedy)


def _attaching(route: AnyRoute, parent: ParentRef, gateway: Gateway, path: str, subject: str) -> Iterator[Problem]:
    """At least one of the listeners that it names must take it, as Gateway API has it."""
    named = [one for one in gateway.spec.listeners if names_listener(parent, one)]
    if not named:
        field = "port" if parent.port is not None else "sectionName"
        known = ", ".join(f"{one.name} ({one.port})" for one in gateway.spec.listeners)
        yield Problem(subject, f"{gateway.ref} has no such listener", f"{path}.{field}", f"its listeners are {known}")
        return
    reasons = [refusal(gateway, one, route) for one in named]
    if all(reasons):
        yield Problem(subject, f"no listener takes it: {reasons[0]}", path, "correct the route or the listener")


def _destination(after: After, kind: str, ref: ServiceRef) -> Service | ExternalService | None:
    found = after.get(ObjectRef(kind, ref.namespace, ref.name))
    return found if isinstance(found, Service | ExternalService) else None
