"""What routes add to a workload's scope: the services that they lead to, and the subsets of those.

A workload declares that it calls `orders`; a route of `orders` may send it on to `orders-v2`, which it never named.
"""

from collections.abc import Iterator

from dataplane.compile.scope import Scope
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from routing.backends import Target, backend_refs, service_of, services_named, target_of
from routing.table import concerns, parents
from schemas.names import ServiceRef
from schemas.objects import AnyRoute, TCPRoute


def is_reached(state: MeshState, scope: Scope, caller: Workload, service: ServiceRef) -> bool:
    return service in scope or any(True for _ in _routes_to(state, scope, caller, service))


def reached(state: MeshState, scope: Scope, caller: Workload) -> set[ServiceRef]:
    """Everything for which there are clusters, whether it exists or not."""
    found = set(scope.services(state))
    for service in state.routed() if scope.everything else scope.named:
        for route in state.routes_for(service):
            if concerns(route, service, caller.service):
                found |= services_named(route)
    return found


def leads_anywhere(scope: Scope, caller: Workload, route: AnyRoute) -> bool:
    """Whether it is for any request of this workload."""
    return any(parent in scope and concerns(route, parent, caller.service) for parent in parents(route))


def targets_in(state: MeshState, scope: Scope, caller: Workload, service: ServiceRef) -> list[Target]:
    """What routes ask of the service beside all instances of a port: subsets, and ports that it does not have."""
    found = {
        target_of(ref, route.metadata.namespace, state.destination, tcp=isinstance(route, TCPRoute))
        for route in _routes_to(state, scope, caller, service)
        for _, ref in backend_refs(route)
        if service_of(ref, route.metadata.namespace) == service
    }
    return sorted(one for one in found if one.labels or one.missing)


def _routes_to(state: MeshState, scope: Scope, caller: Workload, service: ServiceRef) -> Iterator[AnyRoute]:
    return (route for route in state.routes_to(service) if leads_anywhere(scope, caller, route))
