"""Units of work, and which of them a change touches: those whose builders read what changed.

A unit is a small group of resources that one pure function builds from the state.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Literal

from authz.rules import applies
from dataplane.compile import rate_limits, telemetry, tokens
from dataplane.compile.hashing import hash_of
from dataplane.compile.reach import is_reached, leads_anywhere, reached
from dataplane.compile.scope import Scope
from dataplane.compile.tcp_times import TcpTimes, times_of
from dataplane.compile.workload import Workload
from dataplane.snapshot.index import rank_of, targets
from dataplane.snapshot.state import Change, MeshState
from routing.backends import services_named
from routing.gateways import gateway_parents
from routing.table import parents
from schemas.keys import EndpointRef, KeySetRef, RevocationRef, TrustRef
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import (
    ROUTE_KINDS,
    AnyRoute,
    AuthorizationPolicy,
    BackendTrafficPolicy,
    ExternalService,
    Mesh,
    PeerAuthentication,
    RateLimitPolicy,
    RequestAuthentication,
    Service,
    TCPRoute,
    Telemetry,
    federation,
)
from schemas.objects.traffic import ConsistentHash
from schemas.records import Endpoint, Locality


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """`of`: the service, bound port or authority that the unit is for, empty for the kinds that there is one of."""

    kind: Literal[
        "secrets", "inbound", "inbound routes", "proxy listener", "proxy routes", "bound", "clusters", "endpoints",
        "detour", "runtime", "passthrough", "virtual", "tracing", "gateway", "certificates",
    ]  # fmt: skip
    of: str = ""


SECRETS, INBOUND, INBOUND_ROUTES = Unit("secrets"), Unit("inbound"), Unit("inbound routes")
RUNTIME, PASSTHROUGH, TRACING = Unit("runtime"), Unit("passthrough"), Unit("tracing")
GATEWAY, CERTIFICATES = Unit("gateway"), Unit("certificates")
PROXY_LISTENER, PROXY_ROUTES = Unit("proxy listener"), Unit("proxy routes")


def clusters_of(service: ServiceRef) -> Unit:
    return Unit("clusters", str(service))


def endpoints_of(service: ServiceRef) -> Unit:
    return Unit("endpoints", str(service))


def bound(port: int) -> Unit:
    return Unit("bound", str(port))


def virtual_of(service: ServiceRef) -> Unit:
    return Unit("virtual", str(service))


def detour_to(authority: str) -> Unit:
    return Unit("detour", authority)


def of_services(services: Iterable[ServiceRef]) -> set[Unit]:
    return {unit for service in services for unit in (clusters_of(service), endpoints_of(service))}


def units_in(state: MeshState, workload: Workload, scope: Scope, detours: Iterable[str]) -> set[Unit]:
    """All that there are. `detours`: the authorities to which Envoy may let its requests go."""
    return {
        RUNTIME, TRACING,
        SECRETS, CERTIFICATES, PASSTHROUGH, GATEWAY, INBOUND, INBOUND_ROUTES, PROXY_LISTENER, PROXY_ROUTES,
        *of_services(reached(state, scope, workload)),
        *(bound(one.bind_port) for one in scope.bound), *map(virtual_of, scope.virtual), *map(detour_to, detours),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Touched:
    """By changes that `state` already holds."""

    state: MeshState
    workload: Workload
    scope: Scope

    def by(self, change: Change) -> set[Unit]:
        """Every unit whose builder reads what changed."""
        match change.ref:
            case ObjectRef(kind=Service.__name__ | ExternalService.__name__, namespace=namespace, name=name):
                service = ServiceRef(namespace, name)
                # Of two that claim one virtual address one has it. With a Service comes or goes what it hides.
                claimed = _virtual_addresses(change.before, change.after, self.state.external(service))
                rivals = {one for ipv4 in claimed for one in self.state.holders(ipv4)}
                if not self._reaches(service):
                    return self._entrances_to(rivals)
                # Routes that lead to it, or from it, tell what is missing.
                named = {service}.union(*(services_named(route) for route in self.state.routes_for(service)))
                # A TCPRoute's backends say of one another which side they are of.
                divided = (route for route in self.state.routes_to(service) if isinstance(route, TCPRoute))
                named = named.union(*(services_named(route) for route in divided))
                spans = {TRACING} if service == telemetry.collector(self.state, self.workload.service) else set()
                callers = {service}.union(*(parents(route) for route in self.state.routes_to(service)))
                entrances = self._entrances_to(callers | rivals)
                return {PROXY_ROUTES, *spans, GATEWAY, CERTIFICATES, *of_services(named), *entrances}
            case ObjectRef(kind=kind) if kind in ROUTE_KINDS:
                return self._by_route(change)
            case ObjectRef(kind=BackendTrafficPolicy.__name__):
                return self._by_policy(change)
            case ObjectRef(kind=AuthorizationPolicy.__name__, namespace=namespace):
                if namespace not in (self.workload.service.namespace, SYSTEM_NAMESPACE):
                    return set()
                if change.before is None and change.after is None:
                    return {INBOUND_ROUTES}  # its readability changed
                policies = [one for one in (change.before, change.after) if isinstance(one, AuthorizationPolicy)]
                ours = any(applies(policy, self.workload.service) for policy in policies)
                # Becoming readable lifts the closure of the whole namespace, whatever it targets.
                opens = change.before is None or change.after is None
                if not (ours or opens):
                    return set()
                return {INBOUND_ROUTES}
            case ObjectRef(kind=Mesh.__name__):
                return {
                    RUNTIME, PASSTHROUGH, INBOUND_ROUTES, PROXY_LISTENER, PROXY_ROUTES,
                    *map(virtual_of, self.scope.virtual),
                }  # fmt: skip
            case ObjectRef(kind=RateLimitPolicy.__name__):
                limits = [one for one in (change.before, change.after) if isinstance(one, RateLimitPolicy)]
                ours = any(rate_limits.targets(policy, self.workload.service) for policy in limits)
                return {INBOUND_ROUTES} if ours else set()
            case ObjectRef(kind=RequestAuthentication.__name__, namespace=namespace):
                # One that becomes readable, or is no longer, closes or opens the whole namespace.
                return {INBOUND_ROUTES} if namespace == self.workload.service.namespace else set()
            case ObjectRef(kind=PeerAuthentication.__name__, namespace=namespace):
                near = namespace in (self.workload.service.namespace, SYSTEM_NAMESPACE)
                return {INBOUND, INBOUND_ROUTES} if near else set()  # what rules mean depends on it too
            case ObjectRef(kind=Telemetry.__name__):
                return self._by_telemetry(change)
            case EndpointRef(service=service):
                touched = {endpoints_of(service)} if self._reaches(service) else set()
                if service == self.workload.service and _zone_of(change.before) != _zone_of(change.after):
                    touched |= {endpoints_of(one) for one in self.state.zone_bound if self._reaches(one)}
                return touched
            case ObjectRef(kind=federation.TrustBundle.__name__):
                values = [one for one in (change.before, change.after) if isinstance(one, federation.TrustBundle)]
                return self._by_trust({one.spec.trust_domain for one in values})
            case TrustRef(trust_domain=domain):
                return self._by_trust({domain})
            case KeySetRef():
                return (
                    {INBOUND_ROUTES}
                    if change.ref in tokens.places_of_keys(self.state, self.workload.service)
                    else set()
                )
            case RevocationRef(service=service):
                return {INBOUND_ROUTES} | ({endpoints_of(service)} if self._reaches(service) else set())
        return set()

    def _by_telemetry(self, change: Change) -> set[Unit]:
        own = self.workload.service
        both = [one for one in (change.before, change.after) if isinstance(one, Telemetry)]
        if all(rank_of(one, own) is None for one in both):
            return set()
        # Which one is in force for a matter, and so which collector, may be another one now.
        collectors = {telemetry.collector_of(one) for one in (*both, *self.state.telemetries(own))}
        return {
            RUNTIME, TRACING, INBOUND, INBOUND_ROUTES, PROXY_LISTENER, PROXY_ROUTES,
            CERTIFICATES,  # that a collector is shown which nobody else calls
            *(bound(one.bind_port) for one in self.scope.bound), *map(virtual_of, self.scope.virtual),
            *of_services(one for one in collectors if one is not None),
        }  # fmt: skip

    def _by_trust(self, domains: set[str]) -> set[Unit]:
        """Whom policies may let in, and whose servers can be verified, is a matter of federated bundles."""
        if domains == {self.workload.trust_domain}:
            return {SECRETS}
        externals = {ref for domain in domains for ref in self.state.externals_of(domain)}
        reached_ones = (ref for ref in externals if self._reaches(ref))
        return {SECRETS, INBOUND_ROUTES, *of_services(reached_ones)}

    def _by_policy(self, change: Change) -> set[Unit]:
        before, after = set(targets(change.before)), set(targets(change.after))
        affected = {one for one in before | after if self._reaches(one)}
        touched = of_services(affected)
        # A policy that comes or goes may hide another of the same service, or bring it to light.
        if affected and (before != after or _of_routes(change.before) != _of_routes(change.after)):
            callers = affected.union(*(parents(route) for one in affected for route in self.state.routes_to(one)))
            touched |= {PROXY_ROUTES, GATEWAY, *self._entrances_to(callers)}
        return touched

    def _by_route(self, change: Change) -> set[Unit]:
        touched: set[Unit] = set()
        for route in (change.before, change.after):
            if isinstance(route, AnyRoute) and leads_anywhere(self.state, self.scope, self.workload, route):
                services, entered = services_named(route), self._entrances_to(set(parents(route)))
                touched |= {PROXY_ROUTES, CERTIFICATES, *of_services(services), *entered}
            if isinstance(route, AnyRoute) and self._is_for_own_gateway(route):
                touched.add(GATEWAY)
        return touched

    def _is_for_own_gateway(self, route: AnyRoute) -> bool:
        """Whether it names one, for what reason ever it may not be attached."""
        return bool(
            {one.ref for one in self.state.gateways(self.workload.service)}.intersection(gateway_parents(route))
        )

    def _reaches(self, service: ServiceRef) -> bool:
        return is_reached(self.state, self.scope, self.workload, service)

    def _entrances_to(self, services: Set[ServiceRef]) -> set[Unit]:
        """The listeners that lead to one of these only."""
        bound_ports = {bound(one.bind_port) for one in self.scope.bound if one.service in services}
        return bound_ports.union(map(virtual_of, self.scope.virtual & services))


def _virtual_addresses(*values: object) -> set[str]:
    """IPv4, of those that have one."""
    named = (one for one in values if isinstance(one, Service | ExternalService))
    return {one.spec.virtual_address.ipv4 for one in named if one.spec.virtual_address is not None}


def _zone_of(value: object) -> Locality | None:
    return value.locality if isinstance(value, Endpoint) else None


def _of_routes(value: object) -> tuple[ConsistentHash | None, TcpTimes] | None:
    """What of a policy stands in routes and in TCP filters, not in clusters."""
    return (hash_of(value), times_of(value)) if isinstance(value, BackendTrafficPolicy) else None
