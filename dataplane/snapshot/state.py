"""The mesh as this sidecar knows it. One writer (`MeshState.apply`), many readers; no IO, no clock.

Bad input becomes a `Problem`: a value that can't be read leaves the last good one of that key in force. Where there is
none, the object is absent, except that an unreadable AuthorizationPolicy, RequestAuthentication or PeerAuthentication
closes what it might have closed (`unreadable_policies`): nothing bad in etcd ever opens a door.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from dataplane.snapshot.reading import Value, read
from dataplane.snapshot.revoked import Revoked
from dataplane.watch.events import Changes, Delete, Dropped, Event, Listing, Put
from routing.backends import services_named
from routing.gateways import gateway_parents, service_of_gateway
from routing.table import parents
from schemas.errors import Corrupt, Problem
from schemas.external_faults import tls_parts
from schemas.keys import (
    DataRef,
    EndpointRef,
    EpochRef,
    KeySetRef,
    Keyspace,
    LogLevelRef,
    RevocationRef,
    StatusRef,
    TrustRef,
)
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
from schemas.records import Endpoint, Epoch, KeySet, Revocation, TrustBundle
from schemas.virtual_addresses import Ranges

K = TypeVar("K")
_CLOSING = frozenset({AuthorizationPolicy.__name__, RequestAuthentication.__name__, PeerAuthentication.__name__})
"""Kinds of which one that nobody can read closes its namespace: it may refuse anything, or, the last, plaintext."""
_MESH = ObjectRef(Mesh.__name__, SYSTEM_NAMESPACE, "mesh")


@dataclass(frozen=True, slots=True)
class Change:
    """One reference that now holds something else. Both None: only whether it is readable changed."""

    ref: DataRef
    before: Value | None
    after: Value | None


@dataclass(frozen=True, slots=True)
class Stored:
    """The bytes of the last good value of a key, as they stood in etcd."""

    value: bytes
    revision: int


@dataclass(slots=True)
class MeshState:
    keyspace: Keyspace
    revision: int = 0
    """The newest revision up to which the configuration is known to be complete."""
    listed: set[bytes] = field(default_factory=set)
    """Prefixes that have been listed and are watched: under them, absence means absence."""
    stored: dict[bytes, Stored] = field(default_factory=dict)
    values: dict[DataRef, Value] = field(default_factory=dict)
    quarantine: dict[bytes, Problem] = field(default_factory=dict)
    unreadable_policies: set[ObjectRef] = field(default_factory=set)
    revoked: Revoked = field(default_factory=Revoked)
    """Apart from `values`: what is here outlives its key."""
    _endpoints: dict[ServiceRef, dict[str, Endpoint]] = field(default_factory=dict)
    _traffic: dict[ServiceRef, set[ObjectRef]] = field(default_factory=dict)
    zone_bound: set[ServiceRef] = field(default_factory=set)
    """Services whose requests are to stay in the caller's zone: what each zone gets depends on the callers' zones."""
    _policies: dict[str, set[ObjectRef]] = field(default_factory=dict)
    _rate_limits: dict[str, set[ObjectRef]] = field(default_factory=dict)
    _authentications: dict[str, set[ObjectRef]] = field(default_factory=dict)
    _peer_authentications: dict[str, set[ObjectRef]] = field(default_factory=dict)
    _telemetries: dict[str, set[ObjectRef]] = field(default_factory=dict)
    _routes_for: dict[ServiceRef, set[ObjectRef]] = field(default_factory=dict)
    _routes_to: dict[ServiceRef, set[ObjectRef]] = field(default_factory=dict)
    _gateways: dict[ServiceRef, set[ObjectRef]] = field(default_factory=dict)
    _routes_for_gateways: dict[ObjectRef, set[ObjectRef]] = field(default_factory=dict)
    _services: dict[ServiceRef, Service] = field(default_factory=dict)
    _externals: dict[ServiceRef, ExternalService] = field(default_factory=dict)
    _hosted: dict[str, set[ServiceRef]] = field(default_factory=dict)
    _at: dict[str, set[ObjectRef]] = field(default_factory=dict)
    """Services and external ones by their virtual IPv4 address."""
    _with_files: set[ServiceRef] = field(default_factory=set)
    _federated: dict[str, set[ObjectRef]] = field(default_factory=dict)
    _trust: dict[str, TrustBundle] = field(default_factory=dict)

    # -- readers

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
        refs = self._at.get(ipv4, ())
        named = {ServiceRef(ref.namespace, ref.name): ref for ref in refs}
        return sorted(one for one in named if (found := self.destination(one)) is not None and found.ref in refs)

    def endpoints(self, service: ServiceRef) -> list[tuple[str, Endpoint]]:
        """Live instances by name, in order."""
        return sorted(self._endpoints.get(service, {}).items(), key=lambda item: item[0])

    def traffic_policy(self, service: ServiceRef) -> BackendTrafficPolicy | None:
        """The policy that targets the service; of several, the first by name (the replicas refuse a second)."""
        for ref in sorted(self._traffic.get(service, ())):
            policy = self.values.get(ref)
            if isinstance(policy, BackendTrafficPolicy):
                return policy
        return None

    def routes_for(self, service: ServiceRef) -> list[AnyRoute]:
        """Those that name it as a parent, in order."""
        return self._routes(self._routes_for.get(service, ()))

    def routed(self) -> set[ServiceRef]:
        """The services that any route names as a parent."""
        return set(self._routes_for)

    def gateways(self, service: ServiceRef) -> list[Gateway]:
        """Those that run in its sidecars, in order."""
        found = (self.values.get(ref) for ref in sorted(self._gateways.get(service, ())))
        return [one for one in found if isinstance(one, Gateway)]

    def routes_for_gateway(self, gateway: Gateway) -> list[AnyRoute]:
        """Those that name it as a parent, in order."""
        return self._routes(self._routes_for_gateways.get(gateway.ref, ()))

    def routes_to(self, service: ServiceRef) -> list[AnyRoute]:
        """Those that lead to it, in order."""
        return self._routes(self._routes_to.get(service, ()))

    def _routes(self, refs: Iterable[ObjectRef]) -> list[AnyRoute]:
        return [route for ref in sorted(refs) if isinstance(route := self.values.get(ref), AnyRoute)]

    def authorization_policies(self, namespace: str) -> list[AuthorizationPolicy]:
        """All that may speak for services of a namespace: its own, and those of mesh-system; in order."""
        refs = set().union(*(self._policies.get(one, ()) for one in (namespace, SYSTEM_NAMESPACE)))
        found = (self.values.get(ref) for ref in sorted(refs))
        return [policy for policy in found if isinstance(policy, AuthorizationPolicy)]

    def rate_limits(self, namespace: str) -> list[RateLimitPolicy]:
        """All of a namespace, in the order of their names."""
        found = (self.values.get(ref) for ref in sorted(self._rate_limits.get(namespace, ())))
        return [policy for policy in found if isinstance(policy, RateLimitPolicy)]

    def request_authentications(self, namespace: str) -> list[RequestAuthentication]:
        """All of a namespace, in the order of their names."""
        found = (self.values.get(ref) for ref in sorted(self._authentications.get(namespace, ())))
        return [one for one in found if isinstance(one, RequestAuthentication)]

    def peer_authentications(self, namespace: str) -> list[PeerAuthentication]:
        """All that may speak for services of a namespace: its own, and those of mesh-system; in order."""
        refs = set().union(*(self._peer_authentications.get(one, ()) for one in (namespace, SYSTEM_NAMESPACE)))
        found = (self.values.get(ref) for ref in sorted(refs))
        return [one for one in found if isinstance(one, PeerAuthentication)]

    def key_set(self, ref: KeySetRef) -> str | None:
        """The JWKS document that replicas fetched there; None: none is known."""
        found = self.values.get(ref)
        return found.jwks if isinstance(found, KeySet) else None

    def telemetries(self, service: ServiceRef) -> list[Telemetry]:
        """Those that speak for the service, the narrowest first: for it by name, its namespace, the mesh; of several of
        one rank the first by name goes first."""
        ranked = []
        for namespace in {service.namespace, SYSTEM_NAMESPACE}:
            for ref in self._telemetries.get(namespace, ()):
                one = self.values.get(ref)
                if isinstance(one, Telemetry) and (rank := rank_of(one, service)) is not None:
                    ranked.append((rank, ref, one))
        return [one for _, _, one in sorted(ranked, key=lambda item: item[:2])]

    def revision_of(self, ref: ObjectRef) -> int:
        """etcd's mod revision of the value that is in force; 0 where there is none."""
        stored = self.stored.get(self.keyspace.object(ref))
        return stored.revision if stored is not None else 0

    def trust_bundle(self, trust_domain: str) -> TrustBundle | None:
        return self._trust.get(trust_domain)

    def federated(self, own: str) -> list[str]:
        """The trust domains beside `own` that a TrustBundle object names, in order."""
        return sorted(self._federated.keys() - {own})

    def is_trusted(self, trust_domain: str) -> bool:
        """Of a federated trust domain: whether anybody of it can be believed now."""
        bundle = self._trust.get(trust_domain)
        return trust_domain in self._federated and bundle is not None and bool(bundle.x509_authorities)

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

    def problems(self) -> list[Problem]:
        return [self.quarantine[key] for key in sorted(self.quarantine)]

    # -- the writer

    def apply(self, event: Event) -> list[Change]:
        """Takes one event in whole; what changed by it, nothing where nothing did."""
        match event:
            case Changes(prefix, revision, events):
                changes = [change for one in events for change in self._apply_one(one)]
                self._advance(prefix, revision)
            case Listing(prefix, revision, items):
                listed = {item.key for item in items}
                gone = [key for key in self._known_under(prefix) if key not in listed]
                changes = [change for key in gone for change in self._apply_one(Delete(key, revision))]
                changes += [change for item in items for change in self._apply_one(item)]
                self.listed.add(prefix)
                self._advance(prefix, revision, listing=True)
            case Dropped(prefix):
                self.listed.discard(prefix)
                # A wider prefix that is watched as well still vouches for its part.
                keys = [key for key in self._known_under(prefix) if not any(map(key.startswith, self.listed))]
                changes = [change for key in keys for change in self._apply_one(Delete(key, 0))]
        return changes

    def _known_under(self, prefix: bytes) -> list[bytes]:
        return sorted({key for key in (*self.stored, *self.quarantine) if key.startswith(prefix)})

    def _advance(self, prefix: bytes, revision: int, *, listing: bool = False) -> None:
        if prefix == self.keyspace.config():
            # A listing may go back: etcd was restored, and what it says now is what is true.
            self.revision = revision if listing else max(self.revision, revision)

    def _apply_one(self, event: Put | Delete) -> Iterator[Change]:
        ref = self.keyspace.parse(event.key)
        if ref is None or isinstance(ref, StatusRef | LogLevelRef):
            if isinstance(event, Put) and event.key.startswith(self.keyspace.data()):
                problem = Problem(event.key.decode(errors="replace"), "not a key of the mesh", remedy="delete the key")
                self.quarantine[event.key] = problem
            else:
                self.quarantine.pop(event.key, None)
            return
        if isinstance(ref, RevocationRef):
            yield from self._revocation(ref, event)
            return
        before = self.values.get(ref)
        was_unreadable = ref in self.unreadable_policies
        if isinstance(event, Delete):
            self.stored.pop(event.key, None)
            self.quarantine.pop(event.key, None)
            self.unreadable_policies.discard(ref)
            after = None
        else:
            stored = self.stored.get(event.key)
            if stored is not None and stored.value == event.value:
                self.stored[event.key] = Stored(event.value, event.revision)
                self.quarantine.pop(event.key, None)
                if isinstance(ref, ObjectRef) and stored.revision != event.revision:
                    yield Change(ref, before, before)  # what is compiled from it tells by which revision it goes
                return
            try:
                after = read(ref, event.value)
            except Corrupt as error:
                self.quarantine[event.key] = error.problem
                if before is None and isinstance(ref, ObjectRef) and ref.kind in _CLOSING:
                    self.unreadable_policies.add(ref)
                    if not was_unreadable:
                        yield Change(ref, None, None)
                return
            self.stored[event.key] = Stored(event.value, event.revision)
            self.quarantine.pop(event.key, None)
            self.unreadable_policies.discard(ref)
        if after is None:
            self.values.pop(ref, None)
        else:
            self.values[ref] = after
        self._index(ref, before, after)
        if before != after or was_unreadable or isinstance(ref, ObjectRef):
            yield Change(ref, before, after)

    def _revocation(self, ref: RevocationRef, event: Put | Delete) -> Iterator[Change]:
        was, before = ref.service in self.revoked, self.revoked.records.get(ref.service)
        self.quarantine.pop(event.key, None)
        if isinstance(event, Put):
            try:
                record = read(ref, event.value)
            except Corrupt as error:
                self.quarantine[event.key] = error.problem
                if before is None:
                    self.revoked.unreadable.add(ref.service)
            else:
                assert isinstance(record, Revocation)  # noqa: S101  (what `read` gives for such a key)
                self.revoked.see(record)
        else:
            self.revoked.unreadable.discard(ref.service)
        after = self.revoked.records.get(ref.service)
        if was != (ref.service in self.revoked) or before != after:
            yield Change(ref, before, after)

    def _index(self, ref: DataRef, before: Value | None, after: Value | None) -> None:
        for value, change in ((before, _discard), (after, _insert)):
            if isinstance(value, Service | ExternalService) and value.spec.virtual_address is not None:
                change(self._at, value.spec.virtual_address.ipv4, value.ref)
        match before, after:
            case (Endpoint(), _) | (_, Endpoint()) if isinstance(ref, EndpointRef):
                instances = self._endpoints.setdefault(ref.service, {})
                if isinstance(after, Endpoint):
                    instances[ref.instance] = after
                else:
                    del instances[ref.instance]
                    if not instances:
                        del self._endpoints[ref.service]
            case (Service(), _) | (_, Service()) if isinstance(ref, ObjectRef):
                service = ServiceRef(ref.namespace, ref.name)
                if isinstance(after, Service):
                    self._services[service] = after
                else:
                    del self._services[service]
            case (ExternalService(), _) | (_, ExternalService()) if isinstance(ref, ObjectRef):
                external = ServiceRef(ref.namespace, ref.name)
                self._hosted.get(external.namespace, set()).discard(external)
                self._with_files.discard(external)
                if isinstance(after, ExternalService):
                    self._externals[external] = after
                    if any(tls.client_certificate is not None for _, tls in tls_parts(after)):
                        self._with_files.add(external)
                    if after.spec.hosts:
                        self._hosted.setdefault(external.namespace, set()).add(external)
                else:
                    del self._externals[external]
            case (Gateway(), _) | (_, Gateway()) if isinstance(ref, ObjectRef):
                if isinstance(before, Gateway):
                    _discard(self._gateways, service_of_gateway(before), ref)
                if isinstance(after, Gateway):
                    self._gateways.setdefault(service_of_gateway(after), set()).add(ref)
            case (federation.TrustBundle(), _) | (_, federation.TrustBundle()) if isinstance(ref, ObjectRef):
                if isinstance(before, federation.TrustBundle):
                    _discard(self._federated, before.spec.trust_domain, ref)
                if isinstance(after, federation.TrustBundle):
                    self._federated.setdefault(after.spec.trust_domain, set()).add(ref)
            case (BackendTrafficPolicy(), _) | (_, BackendTrafficPolicy()) if isinstance(ref, ObjectRef):
                for target in targets(before):
                    _discard(self._traffic, target, ref)
                for target in targets(after):
                    self._traffic.setdefault(target, set()).add(ref)
                for target in (*targets(before), *targets(after)):
                    if _prefers_local(self.traffic_policy(target)):
                        self.zone_bound.add(target)
                    else:
                        self.zone_bound.discard(target)
            case _ if isinstance(ref, ObjectRef) and ref.kind in ROUTE_KINDS:
                self._index_route(ref, before, after)
            case (AuthorizationPolicy(), _) | (_, AuthorizationPolicy()) if isinstance(ref, ObjectRef):
                if after is None:
                    _discard(self._policies, ref.namespace, ref)
                else:
                    self._policies.setdefault(ref.namespace, set()).add(ref)
            case (RateLimitPolicy(), _) | (_, RateLimitPolicy()) if isinstance(ref, ObjectRef):
                if after is None:
                    _discard(self._rate_limits, ref.namespace, ref)
                else:
                    self._rate_limits.setdefault(ref.namespace, set()).add(ref)
            case (RequestAuthentication(), _) | (_, RequestAuthentication()) if isinstance(ref, ObjectRef):
                if after is None:
                    _discard(self._authentications, ref.namespace, ref)
                else:
                    self._authentications.setdefault(ref.namespace, set()).add(ref)
            case (PeerAuthentication(), _) | (_, PeerAuthentication()) if isinstance(ref, ObjectRef):
                if after is None:
                    _discard(self._peer_authentications, ref.namespace, ref)
                else:
                    self._peer_authentications.setdefault(ref.namespace, set()).add(ref)
            case (Telemetry(), _) | (_, Telemetry()) if isinstance(ref, ObjectRef):
                if after is None:
                    _discard(self._telemetries, ref.namespace, ref)
                else:
                    self._telemetries.setdefault(ref.namespace, set()).add(ref)
            case (TrustBundle(), _) | (_, TrustBundle()) if isinstance(ref, TrustRef):
                if isinstance(after, TrustBundle):
                    self._trust[ref.trust_domain] = after
                else:
                    del self._trust[ref.trust_domain]

    def _index_route(self, ref: ObjectRef, before: Value | None, after: Value | None) -> None:
        if isinstance(before, AnyRoute):
            for service in parents(before):
                _discard(self._routes_for, service, ref)
            for service in services_named(before):
                _discard(self._routes_to, service, ref)
            for gateway in gateway_parents(before):
                _discard(self._routes_for_gateways, gateway, ref)
        if isinstance(after, AnyRoute):
            for service in parents(after):
                self._routes_for.setdefault(service, set()).add(ref)
            for service in services_named(after):
                self._routes_to.setdefault(service, set()).add(ref)
            for gateway in gateway_parents(after):
                self._routes_for_gateways.setdefault(gateway, set()).add(ref)


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


def _prefers_local(policy: BackendTrafficPolicy | None) -> bool:
    zones = policy.spec.load_balancer.zone_aware if policy is not None else None
    return zones is not None and zones.prefer_local is not None


def _insert(index: dict[K, set[ObjectRef]], key: K, ref: ObjectRef) -> None:
    index.setdefault(key, set()).add(ref)


def _discard(index: dict[K, set[ObjectRef]], key: K, ref: ObjectRef) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(ref)
        if not members:
            del index[key]


def from_stored(
    keyspace: Keyspace,
    revision: int,
    stored: Mapping[bytes, Stored],
    unreadable_policies: Iterable[ObjectRef] = (),
    revocations: Iterable[Revocation] = (),
) -> MeshState:
    """A state from what another one had `stored`: what was last known good, read back from disk.

    The other one's `unreadable_policies` belong to it: without them a restart would open what they closed.
    """
    state = MeshState(keyspace)
    state.apply(Changes(keyspace.data(), revision, tuple(Put(k, s.value, s.revision) for k, s in stored.items())))
    for ref in unreadable_policies:
        if ref not in state.values:
            state.unreadable_policies.add(ref)
            # In quarantine as well, so that a listing without it takes it away.
            state.quarantine[keyspace.object(ref)] = Problem(str(ref), "could not be read when it was last seen")
    state.revoked.see_all(revocations)
    state.revision = revision
    return state
