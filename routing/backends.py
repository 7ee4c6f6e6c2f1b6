"""Where a rule sends requests: each backend with its share, and what is wrong with it. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from routing.table import AnyRule
from schemas.names import ServiceRef
from schemas.objects import AnyRoute, ExternalService, Service
from schemas.objects.route_filters import BackendFilter, GrpcFilter, HttpFilter, RequestMirror
from schemas.objects.route_parts import BackendRef, WeightedBackendRef
from schemas.objects.service import ServicePort
from schemas.objects.tcp_route import TCPRouteRule

Lookup = Callable[[ServiceRef], Service | ExternalService | None]
Labels = tuple[tuple[str, str], ...]
MIXED = "one rule can't divide connections between services of the mesh and what is outside of it"


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Instances of a service port. `missing`: why there can be none; then `port` is 0 where none was named."""

    service: ServiceRef
    port: int
    labels: Labels = ()
    missing: str = ""

    def __str__(self) -> str:
        subset = ",".join(f"{name}={value}" for name, value in self.labels)
        return f"{self.service}:{self.port or '?'}" + (f" [{subset}]" if subset else "")


@dataclass(frozen=True, slots=True)
class Backend:
    """`index`: its place in the rule's `backendRefs`."""

    index: int
    target: Target
    weight: int
    filters: tuple[BackendFilter, ...] = ()


def service_of(ref: BackendRef, namespace: str) -> ServiceRef:
    return ServiceRef(ref.namespace or namespace, ref.name)


def target_of(ref: BackendRef, namespace: str, services: Lookup, *, tcp: bool = False) -> Target:
    """`namespace`: the route's own. tcp: whether it is for connections, not for requests."""
    service = service_of(ref, namespace)
    labels = tuple(sorted(ref.match_labels.items()))
    found = services(service)
    if found is None:
        return Target(service, ref.port or 0, labels, f"service {service} does not exist")
    port = port_of(ref, found)
    if port is None and ref.port is None:
        return Target(service, 0, labels, f"service {service} has several ports, and the route names none")
    if port is None:
        return Target(service, ref.port or 0, labels, f"service {service} has no port {ref.port}")
    if tcp != (port.protocol == "tcp"):
        kind = "TCP" if port.protocol == "tcp" else "HTTP"
        return Target(service, port.port, labels, f"port {port.port} of service {service} is a port for {kind}")
    return Target(service, port.port, labels)


def port_of(ref: BackendRef, service: Service | ExternalService) -> ServicePort | None:
    ports = service.spec.ports
    if ref.port is None:
        return ports[0] if len(ports) == 1 else None
    return next((port for port in ports if port.port == ref.port), None)


def backends_of(rule: AnyRule, namespace: str, services: Lookup) -> tuple[Backend, ...]:
    """Those that get a part of the requests."""
    targets = _targets(rule, namespace, services)
    return tuple(
        Backend(index, target, ref.weight, _filters(ref))
        for index, (ref, target) in enumerate(zip(rule.backend_refs, targets, strict=True))
        if ref.weight
    )


def _targets(rule: AnyRule, namespace: str, services: Lookup) -> list[Target]:
    """Of each of its `backendRefs`."""
    tcp = isinstance(rule, TCPRouteRule)
    found = [target_of(ref, namespace, services, tcp=tcp) for ref in rule.backend_refs]
    if not tcp or len({is_outside(one, services) for one in found if not one.missing}) < 2:
        return found
    return [replace(one, missing=MIXED) if is_outside(one, services) else one for one in found]


def is_outside(target: Target, services: Lookup) -> bool:
    """Whether no sidecar is at the other end: to one a TCP connection goes in a CONNECT, to the outside as it is."""
    found = services(target.service)
    if target.missing or not isinstance(found, ExternalService):
        return False
    return any(port.port == target.port and found.is_outside(port) for port in found.spec.ports)


def targets_of(route: AnyRoute, services: Lookup) -> Iterator[tuple[str, Target]]:
    """Where each backend and mirror that the route names leads, with its path in JSONPath form."""
    own = route.metadata.namespace
    rules: tuple[AnyRule, ...] = route.spec.rules
    for number, rule in enumerate(rules):
        path = f"$.spec.rules[{number}]"
        for index, target in enumerate(_targets(rule, own, services)):
            yield f"{path}.backendRefs[{index}]", target
        for index, mirror in mirrors_of(rule):
            found = target_of(mirror.backend_ref, own, services)
            yield f"{path}.filters[{index}].requestMirror.backendRef", found


def _filters(ref: WeightedBackendRef) -> tuple[BackendFilter, ...]:
    return getattr(ref, "filters", ())


def mirrors_of(rule: AnyRule) -> tuple[tuple[int, RequestMirror], ...]:
    """Each with the place of its filter in the rule."""
    if isinstance(rule, TCPRouteRule):
        return ()
    filters: Sequence[HttpFilter | GrpcFilter] = rule.filters
    return tuple((index, one.request_mirror) for index, one in enumerate(filters) if one.request_mirror)


def backend_refs(route: AnyRoute) -> Iterator[tuple[str, BackendRef]]:
    """Every backend and mirror that the route names, each with its path in JSONPath form."""
    rules: tuple[AnyRule, ...] = route.spec.rules
    for number, rule in enumerate(rules):
        path = f"$.spec.rules[{number}]"
        for index, ref in enumerate(rule.backend_refs):
            yield f"{path}.backendRefs[{index}]", ref
        for index, mirror in mirrors_of(rule):
            yield f"{path}.filters[{index}].requestMirror.backendRef", mirror.backend_ref


def services_named(route: AnyRoute) -> frozenset[ServiceRef]:
    """All that may be called because of the route."""
    return frozenset(service_of(ref, route.metadata.namespace) for _, ref in backend_refs(route))
