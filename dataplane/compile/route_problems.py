"""What of the routes that concern this workload leads nowhere: said in its status, answered 503 by its Envoy."""

from collections.abc import Iterator

from dataplane.compile.scope import Scope
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from routing.backends import targets_of
from routing.table import concerns, fits, names_port, parent_of, table
from schemas.errors import Problem
from schemas.names import ServiceRef
from schemas.objects import AnyRoute, ExternalService, Gateway, Service


def route_problems(state: MeshState, workload: Workload, scope: Scope) -> tuple[Problem, ...]:
    """In order, each once."""
    found: set[Problem] = set()
    for service in scope.services(state):
        destination = state.destination(service)
        routes = [one for one in state.routes_for(service) if concerns(one, service, workload.service)]
        if destination is None or not routes:
            continue
        for route in routes:
            found.update(_missing(state, route))
            found.update(_unattached(route, service, destination))
        for port in destination.spec.ports:
            for ref, why in table(service, port, workload.service, routes).conflicting:
                message = f"does not count on port {port.port} of {service}: {why}"
                found.add(Problem(str(ref), message, "$.spec.parentRefs", "attach one kind of route to a port"))
    return tuple(sorted(found))


def _missing(state: MeshState, route: AnyRoute) -> Iterator[Problem]:
    for path, target in targets_of(route, state.destination):
        if target.missing:
            mirror = path.endswith("requestMirror.backendRef")
            what = "nothing is mirrored there" if mirror else "its share of the requests is answered 503"
            yield Problem(str(route.ref), f"{target.missing}: {what}", path, "correct the route, or apply the service")


def _unattached(route: AnyRoute, service: ServiceRef, destination: Service | ExternalService) -> Iterator[Problem]:
    for index, parent in enumerate(route.spec.parent_refs):
        if (
            parent.kind != Gateway.__name__
            and parent_of(route, parent) == service
            and not any(fits(route, port) and names_port(parent, port) for port in destination.spec.ports)
        ):
            message = f"{service} has no port that it could be for"
            yield Problem(str(route.ref), message, f"$.spec.parentRefs[{index}]", "correct port or sectionName")
