"""Which objects of the mesh a sidecar keeps: its memory is that of its dependencies, not of the mesh.

Configuration is watched whole, so that a change set is whole; what cannot concern this workload is dropped as it comes.
"""

from dataclasses import dataclass

from schemas.keys import DataRef, StatusRef
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import (
    ROUTE_KINDS,
    AuthorizationPolicy,
    BackendTrafficPolicy,
    ExternalService,
    RateLimitPolicy,
    Service,
    Telemetry,
)


@dataclass(frozen=True, slots=True)
class Relevance:
    own: ServiceRef
    services: frozenset[ServiceRef] | None
    """Those that requests of the workload may come to; None: all."""
    hosted_in: tuple[str, ...] = ()
    """Namespaces whose external services it may call by their hosts, without having said so."""

    def keeps(self, ref: DataRef | StatusRef | None) -> bool:
        """Whatever is not surely somebody else's: kinds that are not named here too, and what is no key of the mesh."""
        if self.services is None or not isinstance(ref, ObjectRef):
            return True
        match ref.kind:
            case Service.__name__ | ExternalService.__name__:
                service = ServiceRef(ref.namespace, ref.name)
                if ref.kind == ExternalService.__name__ and ref.namespace in self.hosted_in:
                    return True
                return service == self.own or service in self.services
            case BackendTrafficPolicy.__name__:  # its targets are of its own namespace
                return any(one.namespace == ref.namespace for one in self.services)
            case kind if kind in ROUTE_KINDS:  # written by the namespace of a service, or by that of its caller
                namespaces = {self.own.namespace, *(one.namespace for one in self.services)}
                return ref.namespace in namespaces
            case RateLimitPolicy.__name__:  # who is called acts on it; its targets are of its own namespace
                return ref.namespace == self.own.namespace
            case AuthorizationPolicy.__name__ | Telemetry.__name__:
                return ref.namespace in (self.own.namespace, SYSTEM_NAMESPACE)
        return True
