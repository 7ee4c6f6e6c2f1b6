"""Which objects an object names. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from routing.backends import backend_refs
from schemas.names import ObjectRef
from schemas.objects import (
    AnyObject,
    AuthorizationPolicy,
    BackendTrafficPolicy,
    Gateway,
    GRPCRoute,
    HTTPRoute,
    PeerAuthentication,
    RateLimitPolicy,
    RequestAuthentication,
    Service,
    TCPRoute,
    Telemetry,
)
from schemas.objects.service import Dependency

ANY_SERVICE = "*"
COLLECTOR_PATH = "$.spec.tracing.provider.backendRef"


@dataclass(frozen=True, slots=True)
class Reference:
    target: ObjectRef
    path: str
    """The field that names it, in JSONPath form."""


def references(value: AnyObject) -> Iterator[Reference]:
    """In the order of the fields; a target may come more than once."""
    match value:
        case Service():
            for index, dependency in enumerate(value.spec.dependencies or ()):
                if dependency.name != ANY_SERVICE:
                    yield Reference(dependency_target(value, dependency), f"$.spec.dependencies[{index}]")
        case Gateway():
            yield Reference(ObjectRef(Service.__name__, value.metadata.namespace, value.spec.service), "$.spec.service")
        case HTTPRoute() | GRPCRoute() | TCPRoute():
            own = value.metadata.namespace
            for index, parent in enumerate(value.spec.parent_refs):
                ref = ObjectRef(parent.kind, parent.namespace or own, parent.name)
                yield Reference(ref, f"$.spec.parentRefs[{index}]")
            for path, backend in backend_refs(value):
                yield Reference(ObjectRef(backend.kind, backend.namespace or own, backend.name), path)
        case (
            AuthorizationPolicy()
            | BackendTrafficPolicy()
            | PeerAuthentication()
            | RateLimitPolicy()
            | RequestAuthentication()
            | Telemetry()
        ):
            for index, target in enumerate(value.spec.target_refs or ()):
                ref = ObjectRef(target.kind, value.metadata.namespace, target.name)
                yield Reference(ref, f"$.spec.targetRefs[{index}]")
            if isinstance(value, Telemetry) and (collector := collector_of(value)) is not None:
                yield Reference(collector, COLLECTOR_PATH)


def collector_of(telemetry: Telemetry) -> ObjectRef | None:
    """The service that spans go to."""
    tracing = telemetry.spec.tracing
    if tracing is None or tracing.provider is None or (ref := tracing.provider.backend_ref) is None:
        return None
    return ObjectRef(ref.kind, ref.namespace or telemetry.metadata.namespace, ref.name)


def dependency_target(service: Service, dependency: Dependency) -> ObjectRef:
    return ObjectRef(dependency.kind, dependency.namespace or service.metadata.namespace, dependency.name)
