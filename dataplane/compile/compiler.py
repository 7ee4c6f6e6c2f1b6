"""Builds units of work, and says what differs.

The resources of all units are the configuration. A change names the units that it may affect (`units.py`); those are
built anew from the state, and what came out the same is dropped. So the result depends on the state alone, never on
the way to it, and the work on the change alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from dataplane.compile import (
    clusters,
    gateway,
    inbound,
    on_demand,
    outbound,
    passthrough,
    telemetry,
    tls,
    tokens,
    tracing,
    virtual,
)
from dataplane.compile.host_claims import host_claims
from dataplane.compile.reach import is_reached, targets_in
from dataplane.compile.resources import ROUTES, Resource, ResourceKey, Update
from dataplane.compile.route_problems import route_problems
from dataplane.compile.scope import Scope, scope_of
from dataplane.compile.units import (
    CERTIFICATES,
    GATEWAY,
    INBOUND,
    INBOUND_ROUTES,
    PASSTHROUGH,
    PROXY_LISTENER,
    PROXY_ROUTES,
    SECRETS,
    Touched,
    Unit,
    detour_to,
    of_services,
    units_in,
    virtual_of,
)
from dataplane.compile.wording import Wording
from dataplane.compile.workload import Credentials, KeyPair, Workload
from dataplane.snapshot.state import Change, MeshState
from routing.backends import services_named
from routing.gateways import service_of_gateway
from schemas.errors import Problem
from schemas.external_faults import tls_parts
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import (
    ExternalService,
    Gateway,
    Service,
)
from schemas.objects.common import CertificateFiles
from schemas.records import TrustBundle


@dataclass(slots=True)
class Compiler:
    """Holds what was built last, so that it can say what differs."""

    workload: Workload
    credentials: Credentials | None = None
    first_bundle: TrustBundle | None = None
    """The bundle that came with the SVID; in force until etcd's is known, and while that one is older."""
    learnt: dict[str, bool] = field(default_factory=dict)
    """Authorities that the app turned out to call, in that order; True: Envoy knows enough for the detour to them."""
    expired: bool = False
    """The own SVID has ended: nothing goes in or out any more, on open connections either."""
    scope: Scope = field(default_factory=Scope)
    certificates_wanted: Mapping[CertificateFiles, str] = field(default_factory=dict)
    """The files of this host that objects ask for, each with who asks; as of what was built last."""
    _hosted: tuple[ServiceRef, ...] = ()
    """What is in `scope` by its hosts."""
    _taken_in: int = 0
    """How many of `learnt` are in `scope`."""
    _built: dict[Unit, Mapping[ResourceKey, Resource]] = field(default_factory=dict)
    _problems: dict[Unit, tuple[Problem, ...]] = field(default_factory=dict)
    _wording: Wording = field(default_factory=Wording)

    def resources(self) -> dict[ResourceKey, Resource]:
        """The whole configuration."""
        return {key: resource for built in self._built.values() for key, resource in built.items()}

    def problems(self) -> list[Problem]:
        """References that lead nowhere, as far as they concern this workload."""
        return [problem for unit in sorted(self._problems) for problem in self._problems[unit]]

    def inbound_routes(self, name: str) -> Resource | None:
        """With the rules of the port whose listener has that name, as built last."""
        return self._built.get(INBOUND_ROUTES, {}).get(ResourceKey(ROUTES, name))

    @property
    def leads_outside(self) -> bool:
        """Whether calls to nobody that the mesh knows are passed on."""
        return bool(self._built.get(PASSTHROUGH))

    def rebuild(self, state: MeshState) -> Update:
        """Everything from scratch; the difference to what was built before."""
        self.scope, self._taken_in = self._scope_in_force(state), len(self.learnt)
        self._hosted = tuple(state.hosted(self.scope.hosted_in))
        detours = (authority for authority, is_open in self.learnt.items() if is_open)
        units = units_in(state, self.workload, self.scope, detours)
        return self._build(state, {*units, *self._built, *self._problems})

    def update(self, state: MeshState, changes: Iterable[Change]) -> Update:
        """The difference that `changes` make. `state` already holds them."""
        dirty, changes = self._widen(state), list(changes)
        for change in changes:
            if isinstance(change.ref, ObjectRef) and change.ref == self._own_object:
                return self.rebuild(state)  # it says on whom we depend: all may be new
            if any(isinstance(one, Gateway) and self._runs(one) for one in (change.before, change.after)):
                return self.rebuild(state)  # its routes lead to services that nothing else does
        if self._hosted != tuple(state.hosted(self.scope.hosted_in)):
            return self.rebuild(state)
        touched = Touched(state, self.workload, self.scope)
        for change in changes:
            dirty |= touched.by(change)
        own = state.service(self.workload.service)
        if INBOUND_ROUTES in dirty and own is not None and inbound.holds_rules(state, own):
            dirty.add(INBOUND)  # which holds the rules of such ports
        return self._build(state, dirty)

    def wanted_scope(self, state: MeshState) -> Scope:
        """What should be in scope by now; `scope` is what was built."""
        caller = self.workload.service
        services = (on_demand.service_of(authority, caller) for authority in self.learnt)
        return scope_of(caller, state.service(caller), (one for one in services if one is not None))

    def _scope_in_force(self, state: MeshState) -> Scope:
        return Scope(closed=True) if self.expired else self.wanted_scope(state)

    def learn(self, authority: str) -> bool:
        """The app calls `authority`: from the next update on it is in scope. False where that would be too many."""
        if authority not in self.learnt and not on_demand.full(self.learnt):
            self.learnt[authority] = False
        return authority in self.learnt

    def _widen(self, state: MeshState) -> set[Unit]:
        """Takes what was learnt meanwhile into scope; the units that are new by it."""
        if self._taken_in == len(self.learnt):
            return set()
        self._taken_in = len(self.learnt)
        before, self.scope = self.scope, self._scope_in_force(state)
        added = self.scope.named - before.named
        new = set(map(virtual_of, self.scope.virtual - before.virtual))
        if not added:  # of everything, what was looked up
            return new
        # Their routes may lead to services that were in scope already, and ask for subsets of those.
        led_to = (services_named(route) for service in added for route in state.routes_for(service))
        return {PROXY_ROUTES, CERTIFICATES, *of_services(added.union(*led_to)), *new}

    def open_detours(self, state: MeshState, authorities: Iterable[str]) -> Update:
        """Envoy has all that an earlier update said of them: lets go what it holds for them."""
        known = [one for one in authorities if one in self.learnt]
        self.learnt.update(dict.fromkeys(known, True))
        return self._build(state, set(map(detour_to, known)))

    def set_identity(
        self, state: MeshState, credentials: Credentials, bundle: TrustBundle, *, expired: bool = False
    ) -> Update:
        """A new SVID, and the bundle that came with it; or that it has expired."""
        self.credentials, self.first_bundle = credentials, bundle
        if expired != self.expired:
            self.expired = expired
            return self.rebuild(state)
        return self._build(state, {SECRETS})

    def set_certificates(self, state: MeshState, certificates: Mapping[CertificateFiles, KeyPair]) -> Update:
        """What the files of this host hold by now."""
        before = self.workload.certificates
        self.workload = replace(self.workload, certificates=dict(certificates))
        if before.keys() == certificates.keys():
            return self._build(state, {CERTIFICATES, GATEWAY})
        return self.rebuild(state)  # there are listeners and clusters with them, or no longer

    def set_ends_open(self, state: MeshState, ends_open: bool) -> Update:
        """Whether the agent can end what is open, by now."""
        self.workload = replace(self.workload, ends_open=ends_open)
        return self._build(state, {INBOUND, PROXY_LISTENER})

    def _shown_outside(self, state: MeshState) -> dict[CertificateFiles, str]:
        """The files that are shown to servers outside of the mesh, each with who asks for it."""
        found: dict[CertificateFiles, str] = {}
        for service in state.externals_with_files():
            declared = state.destination(service)
            if not isinstance(declared, ExternalService) or not self._reaches(state, service):
                continue
            for _, part in tls_parts(declared):
                if part.client_certificate is not None:
                    found.setdefault(part.client_certificate, str(declared.ref))
        return found

    def _runs(self, one: Gateway) -> bool:
        return service_of_gateway(one) == self.workload.service

    @property
    def _own_object(self) -> ObjectRef:
        return ObjectRef(Service.__name__, self.workload.service.namespace, self.workload.service.name)

    def _reaches(self, state: MeshState, service: ServiceRef) -> bool:
        return is_reached(state, self.scope, self.workload, service)

    def _build(self, state: MeshState, units: Iterable[Unit]) -> Update:
        changed: list[Resource] = []
        removed: list[ResourceKey] = []
        services = {str(ref): ref for ref in self._services_of(units, state)}
        ports = {str(one.bind_port): one for one in self.scope.bound}
        for unit in sorted(units):
            before = self._built.pop(unit, {})
            self._problems.pop(unit, None)
            after: dict[ResourceKey, Resource] = {}
            match unit:
                case Unit("secrets"):
                    after = _by_key(self._secrets(state))
                case Unit("runtime"):
                    after = _by_key([telemetry.runtime(state, self.workload)])
                case Unit("gateway") if self.scope.gateways:
                    made, wrong = gateway.gateway_resources(state, self.workload)
                    after = _by_key(made)
                    if wrong:
                        self._problems[unit] = tuple(wrong)
                case Unit("certificates"):
                    at_gateways = gateway.certificates_wanted(state, self.workload) if self.scope.gateways else {}
                    outside = self._shown_outside(state)
                    self.certificates_wanted = outside | at_gateways
                    known = self.workload.certificates if not self.expired else {}
                    after = _by_key(tls.file_secrets(known, outside))
                case Unit("passthrough"):
                    allowed = passthrough.is_allowed(state) and not self.expired
                    after = _by_key([passthrough.cluster()] if allowed else [])
                case Unit("tracing"):
                    way = [] if self.expired else tracing.tracing_resources(state, self.workload)
                    if isinstance(way, Problem):
                        self._problems[unit] = (way,)
                    else:
                        after = _by_key(way)
                case Unit("inbound"):
                    after = {} if self.expired else _by_key(inbound.inbound_listeners(state, self.workload))
                case Unit("inbound routes"):
                    after = _by_key(
                        inbound.inbound_routes(state, self.workload, closed=self.expired, wording=self._wording)
                    )
                    if lacking := tokens.without_keys(state, self.workload.service):
                        self._problems[unit] = tuple(lacking)
                case Unit("proxy listener"):
                    listener = outbound.proxy_listener(state, self.workload, closed=self.expired)
                    # An expired sidecar keeps no way on for what is open.
                    after = _by_key([listener, *([] if self.expired else [outbound.self_cluster(self.workload)])])
                case Unit("proxy routes"):
                    claims = host_claims(state, self.scope, self.workload.service)
                    after = _by_key([outbound.proxy_routes(state, self.workload, self.scope, claims.domains)])
                    if found := (*route_problems(state, self.workload, self.scope), *claims.problems):
                        self._problems[unit] = found
                case Unit("clusters", of) if of in services:
                    extra = targets_in(state, self.scope, self.workload, services[of])
                    after = _by_key(clusters.outbound_clusters(state, services[of], self.workload, extra))
                case Unit("endpoints", of) if of in services:
                    extra = targets_in(state, self.scope, self.workload, services[of])
                    after = _by_key(clusters.load_assignments(state, services[of], self.workload, extra))
                    doubt = clusters.untrusted(state, state.destination(services[of]), self.workload)
                    if doubt is not None:
                        self._problems[unit] = (doubt,)
                case Unit("detour", of) if self.scope.on_demand:
                    after = _by_key([on_demand.detour(of, self.workload)])
                case Unit("bound", of) if of in ports:
                    result = outbound.bound_resources(state, self.workload, ports[of])
                    if isinstance(result, Problem):
                        self._problems[unit] = (result,)
                    else:
                        after = _by_key(result)
                case Unit("virtual", of) if (service := ServiceRef.parse(of)) in self.scope.virtual:
                    result = virtual.listeners(state, self.workload, service)
                    if isinstance(result, Problem):
                        self._problems[unit] = (result,)
                    else:
                        after = _by_key(result)
            if after:
                self._built[unit] = after
            changed += [one for key, one in after.items() if key not in before or before[key].version != one.version]
            removed += [key for key in before if key not in after]
        return Update(state.revision, tuple(changed), tuple(removed))

    def _services_of(self, units: Iterable[Unit], state: MeshState) -> Iterable[ServiceRef]:
        """The services that `units` speak of and that are in scope; only those, so that the work is the change's."""
        for of in {unit.of for unit in units if unit.kind in ("clusters", "endpoints")}:
            service = ServiceRef.parse(of)
            if self._reaches(state, service):
                yield service

    def _secrets(self, state: MeshState) -> list[Resource]:
        own = self.workload.trust_domain
        return tls.secrets(self.credentials, own, state.federated(own), self._bundles(state))

    def _bundles(self, state: MeshState) -> list[TrustBundle]:
        """Of the own trust domain the newest, and each federated one's."""
        own = self.workload.trust_domain
        found = [state.trust_bundle(own), self.first_bundle]
        known = [bundle for bundle in found if bundle is not None]
        newest = [max(known, key=lambda bundle: bundle.sequence)] if known else []
        return newest + [bundle for bundle in state.trust_bundles(own) if bundle.trust_domain != own]


def _by_key(resources: Iterable[Resource]) -> dict[ResourceKey, Resource]:
    return {resource.key: resource for resource in resources}
