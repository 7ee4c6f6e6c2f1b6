"""What is known of the mesh, and how readers find it: by kind and namespace, by what refers to what. No IO, no clock.

A value is looked up by its reference in `values`; `put` keeps every other way to it up to date.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dataplane.snapshot.reading import Value
from routing.backends import services_named
from routing.gateways import gateway_parents, service_of_gateway
from routing.table import parents
from schemas.external_faults import tls_parts
from schemas.keys import DataRef, EndpointRef, EpochRef, KeySetRef, TrustRef
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import (
    ROUTE_KINDS,
    AnyRoute,
    AuthorizationPolicy,
    BackendTrafficPolicy,
    ExternalService,
    Gateway,
    Mesh,
    PeerAuthentication,
    RateLimitPolicy,
    RequestAuthentication,
    Service,
    Telemetry,
    federation,
)
from schemas.objects.mesh import VirtualRanges
from schemas.records import Endpoint, Epoch, KeySet, TrustBundle
from schemas.virtual_addresses import Ranges

K = TypeVar("K")
_MESH = ObjectRef(Mesh.__name__, SYSTEM_NAMESPACE, "mesh")


def targets(value: Value | None) -> list[ServiceRef]:
    """The services that a BackendTrafficPolicy is for."""
    if not isinstance(value, BackendTrafficPolicy):
        return []
    return [ServiceRef(value.metadata.namespace, target.name) for target in value.spec.target_refs]


def rank_of(telemetry: Telemetry, service: ServiceRef) -> int | None:
    """0 for the service by name, 1 for its namespace, 2 for the mesh; None: not for that service."""
    namespace, targets = telemetry.metadata.namespace, telemetry.spec.target_refs
    if namespace == service.namespace:
        if targets is None:
            return 1 if namespace != SYSTEM_NAMESPACE else 2
        return 0 if any(target.name == service.name for target in targets) else None
    return 2 if namespace == SYSTEM_NAMESPACE and targets is None else None


# Of these, all in a namespace are asked for.
_OF_NAMESPACE = frozenset(
    kind.__name__
    for kind in (AuthorizationPolicy, PeerAuthentication, RateLimitPolicy, RequestAuthentication, Telemetry)
)


def _parents(value: Value) -> Iterable[ServiceRef]:
    return parents(value) if isinstance(value, AnyRoute) else ()


def _services_named(value: Value) -> Iterable[ServiceRef]:
    return services_named(value) if isinstance(value, AnyRoute) else ()


def _gateway_parents(value: Value) -> Iterable[ObjectRef]:
    return gateway_parents(value) if isinstance(value, AnyRoute) else ()


def _runs_at(value: Value) -> Iterable[ServiceRef]:
    return [service_of_gateway(value)] if isinstance(value, Gateway) else ()


def _virtual_address(value: Value) -> Iterable[str]:
    if isinstance(value, Service | ExternalService) and value.spec.virtual_address is not None:
        return [value.spec.virtual_address.ipv4]
    return ()


def _federates(value: Value) -> Iterable[str]:
    return [value.spec.trust_domain] if isinstance(value, federation.TrustBundle) else ()


@dataclass(slots=True)
class Lookup(Generic[K]):
    """Objects by what `keys_of` says of them; a key that nobody has is not there."""

    keys_of: Callable[[Value], Iterable[K]]
    refs: dict[K, set[ObjectRef]] = field(default_factory=dict)

    def get(self, key: K) -> list[ObjectRef]:
        """In order."""
        return sorted(self.refs.get(key, ()))

    def put(self, ref: ObjectRef, before: Value | None, after: Value | None) -> None:
        for key in self.keys_of(before) if before is not None else ():
            members = self.refs.get(key, set())
            members.discard(ref)
            if not members:
                self.refs.pop(key, None)
        for key in self.keys_of(after) if after is not None else ():
            self.refs.setdefault(key, set()).add(ref)


@dataclass(slots=True)
class MeshIndex:
    values: dict[DataRef, Value] = field(init=False, default_factory=dict)
    zone_bound: set[ServiceRef] = field(init=False, default_factory=set)
    """Services whose requests are to stay in the caller's zone: what each zone gets depends on the callers' zones."""
    _services: dict[ServiceRef, Service] = field(init=False, default_factory=dict)
    _externals: dict[ServiceRef, ExternalService] = field(init=False, default_factory=dict)
    _hosted: dict[str, set[ServiceRef]] = field(init=False, default_factory=dict)
    _with_files: set[ServiceRef] = field(init=False, default_factory=set)
    _endpoints: dict[ServiceRef, dict[str, Endpoint]] = field(init=False, default_factory=dict)
    _trust: dict[str, TrustBundle] = field(init=False, default_factory=dict)
    _of_namespace: dict[tuple[str, str], dict[str, Value]] = field(init=False, default_factory=dict)
    """By kind and namespace, then by name."""
    _traffic: Lookup[ServiceRef] = field(init=False, default_factory=lambda: Lookup(targets))
    _routes_for: Lookup[ServiceRef] = field(init=False, default_factory=lambda: Lookup(_parents))
    _routes_to: Lookup[ServiceRef] = field(init=False, default_factory=lambda: Lookup(_services_named))
    _routes_for_gateways: Lookup[ObjectRef] = field(init=False, default_factory=lambda: Lookup(_gateway_parents))
    _gateways: Lookup[ServiceRef] = field(init=False, default_factory=lambda: Lookup(_runs_at))
    _at: Lookup[str] = field(init=False, default_factory=lambda: Lookup(_virtual_address))
    """Services and external ones by their virtual IPv4 address."""
    _federated: Lookup[str] = field(init=False, default_factory=lambda: Lookup(_federates))

    def service(self, ref: ServiceRef) -> Service | None:
        return self._services.get(ref)

    def services(self) -> list[ServiceRef]:
        """All services that are known, in order."""
        return sorted(self._services)

    def external(self, ref: ServiceRef) -> ExternalService | None:
        """Also where a service of the mesh hides it."""
        return self._externals.get(ref)

    def destination(self, ref: ServiceRef) -> Service | ExternalService | None:
        """What callers reach under that name; a service of the mesh goes before an external one."""
        return self._services.get(ref) or self._externals.get(ref)

    def destinations(self) -> list[ServiceRef]:
        """All that can be called, in order."""
        return sorted(self._services.keys() | self._externals.keys())

    def hosted(self, namespaces: Iterable[str]) -> list[ServiceRef]:
        """The external services of those namespaces that have host names of their own, in order."""
        found = (ref for namespace in namespaces for ref in self._hosted.get(namespace, ()))
        return sorted(ref for ref in found if ref not in self._services)

    def is_hosted(self, service: ServiceRef, namespaces: Iterable[str]) -> bool:
        """Whether it is one of `hosted`."""
        if service.namespace not in namespaces or service in self._services:
            return False
        return service in self._hosted.get(service.namespace, ())

    def externals_with_files(self) -> list[ServiceRef]:
        """The external services that are shown a certificate from files, in order."""
        return sorted(ref for ref in self._with_files if ref not in self._services)

    def mesh(self) -> Mesh | None:
        found = self.values.get(_MESH)
        return found if isinstance(found, Mesh) else None

    def virtual_ranges(self) -> Ranges | None:
        """Of the Mesh object, or of a mesh that says nothing of them; None: faulty."""
        mesh = self.mesh()
        return Ranges.of(mesh.spec.virtual_addresses if mesh is not None else VirtualRanges())

    def holders(self, ipv4: str) -> list[ServiceRef]:
        """Of those that are known, who has that virtual address; two only where somebody wrote past the replicas."""
        refs = self._at.get(ipv4)
        named = {ServiceRef(ref.namespace, ref.name) for ref in refs}
        return sorted(one for one in named if (found := self.destination(one)) is not None and found.ref in refs)

    def endpoints(self, service: ServiceRef) -> list[tuple[str, Endpoint]]:
        """Live instances by name, in order."""
        return sorted(self._endpoints.get(service, {}).items(), key=lambda item: item[0])

    def traffic_policy(self, service: ServiceRef) -> BackendTrafficPolicy | None:
        """The policy that targets the service; of several, the first by name (the replicas refuse a second)."""
        return next(iter(self._found(BackendTrafficPolicy, self._traffic.get(service))), None)

    def routes_for(self, service: ServiceRef) -> list[AnyRoute]:
        """Those that name it as a parent, in order."""
        return self._routes(self._routes_for.get(service))

    def routed(self) -> set[ServiceRef]:
        """The services that any route names as a parent."""
        return set(self._routes_for.refs)

    def gateways(self, service: ServiceRef) -> list[Gateway]:
        """Those that run in its sidecars, in order."""
        return self._found(Gateway, self._gateways.get(service))

    def routes_for_gateway(self, gateway: Gateway) -> list[AnyRoute]:
        """Those that name it as a parent, in order."""
        return self._routes(self._routes_for_gateways.get(gateway.ref))

    def routes_to(self, service: ServiceRef) -> list[AnyRoute]:
        """Those that lead to it, in order."""
        return self._routes(self._routes_to.get(service))

    def _routes(self, refs: Iterable[ObjectRef]) -> list[AnyRoute]:
        return [route for ref in refs if isinstance(route := self.values.get(ref), AnyRoute)]

    def authorization_policies(self, namespace: str) -> list[AuthorizationPolicy]:
        """All that may speak for services of a namespace: its own, and those of mesh-system; in order."""
        return self._of(AuthorizationPolicy, namespace, SYSTEM_NAMESPACE)

    def rate_limits(self, namespace: str) -> list[RateLimitPolicy]:
        """All of a namespace, in the order of their names."""
        return self._of(RateLimitPolicy, namespace)

    def request_authentications(self, namespace: str) -> list[RequestAuthentication]:
        """All of a namespace, in the order of their names."""
        return self._of(RequestAuthentication, namespace)

    def peer_authentications(self, namespace: str) -> list[PeerAuthentication]:
        """All that may speak for services of a namespace: its own, and those of mesh-system; in order."""
        return self._of(PeerAuthentication, namespace, SYSTEM_NAMESPACE)

    def _of(self, kind: type[K], *namespaces: str) -> list[K]:
        """In order."""
        found: list[K] = []
        for namespace in sorted(set(namespaces)):
            if named := self._of_namespace.get((kind.__name__, namespace)):
                found += [one for name in sorted(named) if isinstance(one := named[name], kind)]
        return found

    def _found(self, kind: type[K], refs: Iterable[ObjectRef]) -> list[K]:
        return [one for ref in refs if isinstance(one := self.values.get(ref), kind)]

    def key_set(self, ref: KeySetRef) -> str | None:
        """The JWKS document that replicas fetched there; None: none is known."""
        found = self.values.get(ref)
        return found.jwks if isinstance(found, KeySet) else None

    def telemetries(self, service: ServiceRef) -> list[Telemetry]:
        """Those that speak for the service, the narrowest first: for it by name, its namespace, the mesh; of several of
        one rank the first by name goes first."""
        near = self._of(Telemetry, service.namespace, SYSTEM_NAMESPACE)
        ranked = [(rank, one.ref, one) for one in near if (rank := rank_of(one, service)) is not None]
        return [one for _, _, one in sorted(ranked, key=lambda item: item[:2])]

    def trust_bundle(self, trust_domain: str) -> TrustBundle | None:
        return self._trust.get(trust_domain)

    def federated(self, own: str) -> list[str]:
        """The trust domains beside `own` that a TrustBundle object names, in order."""
        return sorted(self._federated.refs.keys() - {own})

    def is_trusted(self, trust_domain: str) -> bool:
        """Of a federated trust domain: whether anybody of it can be believed now."""
        bundle = self._trust.get(trust_domain)
        return trust_domain in self._federated.refs and bundle is not None and bool(bundle.x509_authorities)

    def externals_of(self, trust_domain: str) -> list[ServiceRef]:
        """The external services whose servers are of that trust domain, in order."""
        prefix = f"spiffe://{trust_domain}/"
        return sorted(
            ref
            for ref, one in self._externals.items()
            if any((tls.spiffe_id or "").lower().startswith(prefix) for _, tls in tls_parts(one))
        )

    def trust_bundles(self, own: str) -> list[TrustBundle]:
        """Of `own` and of each federated trust domain, as far as known, in the order of their names.

        A bundle of a trust domain that no object names (any more) is nobody's to trust.
        """
        return [self._trust[name] for name in sorted((own, *self.federated(own))) if name in self._trust]

    @property
    def epoch(self) -> str | None:
        epoch = self.values.get(EpochRef())
        return epoch.id if isinstance(epoch, Epoch) else None

    # -- the writer

    def put(self, ref: DataRef, after: Value | None) -> None:
        """What `ref` means from now on; None: nothing."""
        before = self.values.get(ref)
        if after is not None:
            self.values[ref] = after
        else:
            self.values.pop(ref, None)
        match ref:
            case ObjectRef():
                self._put_object(ref, before, after)
            case EndpointRef():
                instances = self._endpoints.setdefault(ref.service, {})
                instances.pop(ref.instance, None)
                if isinstance(after, Endpoint):
                    instances[ref.instance] = after
                if not instances:
                    del self._endpoints[ref.service]
            case TrustRef():
                self._trust.pop(ref.trust_domain, None)
                if isinstance(after, TrustBundle):
                    self._trust[ref.trust_domain] = after

    def _put_object(self, ref: ObjectRef, before: Value | None, after: Value | None) -> None:
        service = ServiceRef(ref.namespace, ref.name)
        lookups: tuple[Lookup[Any], ...] = ()  # keys of one kind in each, of another in the next
        match ref.kind:
            case kind if kind in _OF_NAMESPACE:
                named = self._of_namespace.setdefault((kind, ref.namespace), {})
                if after is not None:
                    named[ref.name] = after
                else:
                    named.pop(ref.name, None)
            case kind if kind in ROUTE_KINDS:
                lookups = (self._routes_for, self._routes_to, self._routes_for_gateways)
            case Service.__name__:
                self._services.pop(service, None)
                if isinstance(after, Service):
                    self._services[service] = after
                lookups = (self._at,)
            case ExternalService.__name__:
                self._put_external(service, after)
                lookups = (self._at,)
            case BackendTrafficPolicy.__name__:
                lookups = (self._traffic,)
            case Gateway.__name__:
                lookups = (self._gateways,)
            case federation.TrustBundle.__name__:
                lookups = (self._federated,)
        for lookup in lookups:
            lookup.put(ref, before, after)
        for target in (*targets(before), *targets(after)):
            if _prefers_local(self.traffic_policy(target)):
                self.zone_bound.add(target)
            else:
                self.zone_bound.discard(target)

    def _put_external(self, service: ServiceRef, after: Value | None) -> None:
        self._externals.pop(service, None)
        self._with_files.discard(service)
        self._hosted.get(service.namespace, set()).discard(service)
        if isinstance(after, ExternalService):
            self._externals[service] = after
            if any(tls.client_certificate is not None for _, tls in tls_parts(after)):
                self._with_files.add(service)
            if after.spec.hosts:
                self._hosted.setdefault(service.namespace, set()).add(service)


def _prefers_local(policy: BackendTrafficPolicy | None) -> bool:
    zones = policy.spec.load_balancer.zone_aware if policy is not None else None
    return zones is not None and zones.prefer_local is not None
