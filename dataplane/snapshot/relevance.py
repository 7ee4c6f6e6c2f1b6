"""Which objects of the mesh a sidecar keeps: its memory is that of its dependencies, not of the mesh.

Configuration is watched whole, so that a change set is whole; what cannot concern this workload is dropped as it comes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.keys import AnyRef
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import (
    ROUTE_KINDS,
    AuthorizationPolicy,
    BackendTrafficPolicy,
    ExternalService,
    Gateway,
    PeerAuthentication,
    RateLimitPolicy,
    RequestAuthentication,
    Service,
    Telemetry,
)


@dataclass(frozen=True, slots=True)
class Relevance:
    own: ServiceRef
    services: frozenset[ServiceRef] | None
    """Those that requests of the workload may come to; None: all."""
    routes_from: frozenset[str] | None = frozenset()
    """Namespaces, beside those of `services`, whose routes may be for a gateway in this sidecar; None: all."""
    hosted_in: tuple[str, ...] = ()
    """Namespaces whose external services it may call by their hosts, without having said so."""

    def wants_more_than(self, before: "Relevance") -> bool:
        """Whether something may have been dropped by `before` that is kept by now."""
        if self.services is None or before.services is None:
            return before.services is not None
        if self.routes_from is None or before.routes_from is None:
            more = before.routes_from is not None
        else:
            more = bool(self.routes_from - before.routes_from)
        return more or bool(self.services - before.services) or bool(set(self.hosted_in) - set(before.hosted_in))

    def keeps(self, ref: AnyRef | None) -> bool:
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
                if self.routes_from is None or ref.namespace in self.routes_from:
                    return True
                namespaces = {self.own.namespace, *(one.namespace for one in self.services)}
                return ref.namespace in namespaces
            # In sidecars of its own namespace, where others call.
            case Gateway.__name__ | RateLimitPolicy.__name__ | RequestAuthentication.__name__:
                return ref.namespace == self.own.namespace
            case AuthorizationPolicy.__name__ | PeerAuthentication.__name__ | Telemetry.__name__:
                return ref.namespace in (self.own.namespace, SYSTEM_NAMESPACE)
        return True


def routes_from(gateways: Iterable[Gateway]) -> frozenset[str] | None:
    """The namespaces whose routes the listeners allow; None: all."""
    found: set[str] = set()
    for gateway in gateways:
        for listener in gateway.spec.listeners:
            allowed = listener.allowed_routes.namespaces
            if allowed.from_ == "All":
                return None
            found.update(allowed.names if allowed.from_ == "Names" else (gateway.metadata.namespace,))
    return frozenset(found)
