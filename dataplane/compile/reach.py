"""What routes add to a workload's scope: the services that they lead to, and the subsets of those; and the collector
of its spans.

A workload declares that it calls `orders`; a route of `orders` may send it on to `orders-v2`, which it never named.
"""

from collections.abc import Iterator

from dataplane.compile.scope import Scope
from dataplane.compile.telemetry import collector
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from routing.backends import Target, services_named, targets_of
from routing.gateways import attached
from routing.table import concerns, parents
from schemas.names import ServiceRef
from schemas.objects import AnyRoute


def is_reached(state: MeshState, scope: Scope, caller: Workload, service: ServiceRef) -> bool:
    if scope.closed:
        return False
    if scope.holds(state, service) or service == collector(state, caller.service):
        return True
    return any(True for _ in _routes_to(state, scope, caller, service))


def reached(state: MeshState, scope: Scope, caller: Workload) -> set[ServiceRef]:
    """Everything for which there are clusters, whether it exists or not."""
    if scope.closed:
        return set()
    found = set(scope.services(state))
    for service in state.routed() if scope.everything else {*scope.named, *state.hosted(scope.hosted_in)}:
        for route in state.routes_for(service):
            if concerns(route, service, caller.service):
                found |= services_named(route)
    for gateway in state.gateways(caller.service) if scope.gateways else ():
        for route in state.routes_for_gateway(gateway):
            if is_attached(state, caller, route):
                found |= services_named(route)
    if (spans := collector(state, caller.service)) is not None:
        found.add(spans)
    return found


def is_attached(state: MeshState, caller: Workload, route: AnyRoute) -> bool:
    """Whether it is for any listener of the gateways in this sidecar."""
    return any(
        attached(gateway, listener, route)
        for gateway in state.gateways(caller.service)
        for listener in gateway.spec.listeners
    )


def leads_anywhere(state: MeshState, scope: Scope, caller: Workload, route: AnyRoute) -> bool:
    """Whether it is for any request of this workload, or one that comes in by a gateway in it."""
    return (scope.gateways and is_attached(state, caller, route)) or any(
        scope.holds(state, parent) and concerns(route, parent, caller.service) for parent in parents(route)
    )


def targets_in(state: MeshState, scope: Scope, caller: Workload, service: ServiceRef) -> list[Target]:
    """What routes ask of the service beside all instances of a port: subsets, and ports that it does not have."""
    found = {
        target
        for route in _routes_to(state, scope, caller, service)
        for _, target in targets_of(route, state.destination)
        if target.service == service
    }
    return sorted(one for one in found if one.labels or one.missing)


def _routes_to(state: MeshState, scope: Scope, caller: Workload, service: ServiceRef) -> Iterator[AnyRoute]:
    return (route for route in state.routes_to(service) if leads_anywhere(state, scope, caller, route))
