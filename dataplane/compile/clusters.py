"""Upstreams: other sidecars by service port, and the own app; and the endpoints of the former."""

from collections.abc import Iterable, Iterator, Sequence

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import duration_pb2, wrappers_pb2

from dataplane.compile import backends, localities, outside, tls
from dataplane.compile.hardening import http2_options
from dataplane.compile.resources import CLUSTER, ENDPOINTS, Resource
from dataplane.compile.stamps import source_of, stamp
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from routing.backends import Labels, Target
from schemas.errors import Problem
from schemas.external_faults import port_on
from schemas.names import ServiceRef, SpiffeId
from schemas.objects.external import ExternalService
from schemas.objects.service import Service, ServicePort
from schemas.records import Locality

# Seconds. On one network a connection takes milliseconds; two leaves room for one lost SYN (RFC 6298: 1 s).
CONNECT_TIMEOUT_S = 2
# Envoy's default of 1,024 connections and requests a cluster would be a limit that nobody asked for.
NO_LIMIT = 2**32 - 1


def outbound_name(service: ServiceRef, port: int, labels: Labels = ()) -> str:
    """labels: of a subset, sorted by name."""
    subset = ",".join(f"{name}={value}" for name, value in labels)
    return f"outbound|{service}|{port}" + (f"|{subset}" if subset else "")


def name_of(target: Target) -> str:
    """The cluster that a route leads to."""
    if target.missing:
        return f"missing|{target.service}|{target.port}"
    return outbound_name(target.service, target.port, target.labels)


def app_name(port: ServicePort) -> str:
    return f"app|{port.name}"


def socket_address(address: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port))


def outbound_clusters(
    state: MeshState, service: ServiceRef, caller: Workload, extra: Sequence[Target] = ()
) -> list[Resource]:
    """One cluster a port of the service, none where the service does not exist; beside them what routes ask for."""
    result = list({name_of(one): missing_cluster(one) for one in extra if one.missing}.values())
    declared = state.destination(service)
    if declared is None:
        return result
    policy = state.traffic_policy(service)
    for port, labels in _subsets(declared, extra):
        cluster = unlimited(outbound_name(service, port.port, labels))
        if isinstance(declared, ExternalService) and declared.is_outside(port):
            weighted = localities.prefers_local(policy) is not None
            outside.shape(cluster, declared, port, caller, weighted=weighted, subset=bool(labels))
            stamp(cluster.metadata, destination=str(service))  # it has no identity to be told by
        else:
            server = _server(declared, service, port, caller.trust_domain)
            cluster.type = cluster_pb2.Cluster.EDS
            cluster.eds_cluster_config.eds_config.CopyFrom(tls.ads_source())
            own = caller.trust_domain
            vouching = server.trust_domain if server.trust_domain in state.federated(own) else own
            cluster.transport_socket.CopyFrom(tls.upstream(server, vouching, as_bytes=port.passes_bytes))
            stamp(cluster.metadata, destination=str(server))
        # An instance leaves when its sidecar says so or its lease ends: nothing here checks health that could keep it.
        cluster.ignore_health_on_host_removal = True
        backends.apply_policy(cluster, port, policy, outside=outside.is_outside(declared, port.port))
        if policy is not None:
            stamp(cluster.metadata, traffic_policy=source_of(state, policy))
        result.append(Resource.of(CLUSTER, cluster.name, cluster))
    return result


def unlimited(name: str) -> cluster_pb2.Cluster:
    """What every cluster begins as. Each has to say that nothing limits it: Envoy's silence is a limit."""
    cluster = cluster_pb2.Cluster(name=name, connect_timeout=duration_pb2.Duration(seconds=CONNECT_TIMEOUT_S))
    no_limit = wrappers_pb2.UInt32Value(value=NO_LIMIT)
    cluster.circuit_breakers.thresholds.add(
        max_connections=no_limit, max_pending_requests=no_limit, max_requests=no_limit
    )
    return cluster


def static_cluster(name: str, address: str, port: int) -> Resource:
    """One address, plain."""
    return Resource.of(CLUSTER, name, static(name, socket_address(address, port)))


def static(name: str, address: address_pb2.Address) -> cluster_pb2.Cluster:
    cluster = unlimited(name)
    cluster.type = cluster_pb2.Cluster.STATIC
    cluster.load_assignment.cluster_name = name
    host = cluster.load_assignment.endpoints.add().lb_endpoints.add()
    host.endpoint.address.CopyFrom(address)
    return cluster


def nobody(name: str) -> cluster_pb2.Cluster:
    """It has no instance."""
    cluster = unlimited(name)
    cluster.type = cluster_pb2.Cluster.STATIC
    cluster.load_assignment.cluster_name = name
    return cluster


def missing_cluster(target: Target) -> Resource:
    """Where a route's requests go that leads to nothing: no instance, 503, and the reason in the answer."""
    cluster = nobody(name_of(target))
    cluster.metadata.filter_metadata["mesh"].update({"reason": f": {target.missing}"})
    return Resource.of(CLUSTER, cluster.name, cluster)


def _subsets(declared: Service | ExternalService, extra: Sequence[Target]) -> Iterator[tuple[ServicePort, Labels]]:
    """Each port with all its instances, and with those that carry the labels of a subset."""
    for port in declared.spec.ports:
        yield port, ()
        yield from ((port, one.labels) for one in extra if one.labels and not one.missing and one.port == port.port)


def app_cluster(port: ServicePort, address: str, app_port: int) -> Resource:
    """The own app, in the protocol that it speaks."""
    cluster = static(app_name(port), socket_address(address, app_port))
    if port.protocol in ("http2", "grpc"):
        options = http_protocol_options_pb2.HttpProtocolOptions()
        options.explicit_http_config.http2_protocol_options.CopyFrom(http2_options())
        cluster.typed_extension_protocol_options[backends.HTTP_OPTIONS].CopyFrom(tls.packed(options))
    return Resource.of(CLUSTER, cluster.name, cluster)


def load_assignments(
    state: MeshState, service: ServiceRef, caller: Workload, extra: Sequence[Target] = ()
) -> list[Resource]:
    """The live endpoints by zone, one assignment a port of the service and a subset (`extra`) of it. An instance that
    lacks a port is not in it."""
    declared = state.destination(service)
    if declared is None:
        return []
    policy = state.traffic_policy(service)
    # Nobody sends a request to a server whose key may be in foreign hands.
    revoked = isinstance(declared, Service) and service in state.revoked
    callers = state.endpoints(caller.service) if localities.prefers_local(policy) else []
    callers_by_zone = localities.zones_of(one for _, one in callers)
    result = []
    for port, labels in _subsets(declared, extra):
        if (
            isinstance(declared, ExternalService)
            and declared.is_outside(port)
            and outside.how_found(declared, port, caller) != "addresses"
        ):
            continue
        name = outbound_name(service, port.port, labels)
        assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
        by_zone: dict[Locality, list[tuple[str, int]]] = {}
        found = () if revoked else _addresses(state, declared, service, port, labels, caller)
        for zone, address, number in found:
            by_zone.setdefault(zone, []).append((address, number))
        counts = {zone: len(addresses) for zone, addresses in by_zone.items()}
        placed = localities.places(localities.zone_aware(policy), caller.locality, counts, callers_by_zone)
        for zone in sorted(by_zone, key=lambda zone: (placed[zone].priority, zone.region, zone.zone)):
            assignment.endpoints.append(_zone(zone, placed[zone], by_zone[zone]))
        result.append(Resource.of(ENDPOINTS, name, assignment))
    return result


def _server(declared: Service | ExternalService, service: ServiceRef, port: ServicePort, trust_domain: str) -> SpiffeId:
    """Whom a caller insists on."""
    if isinstance(declared, ExternalService):
        return SpiffeId.parse(declared.tls_of(port).spiffe_id or "")
    return SpiffeId.of_service(trust_domain, service)


def _addresses(
    state: MeshState,
    declared: Service | ExternalService,
    service: ServiceRef,
    port: ServicePort,
    labels: Labels,
    caller: Workload,
) -> Iterator[tuple[Locality, str, int]]:
    if isinstance(declared, ExternalService):
        if _distrusted(state, declared, port, caller) is not None:
            return  # what is connected from before is let go, too
        for endpoint in declared.addresses if not labels else ():  # they carry none
            yield Locality(), endpoint.address, port_on(endpoint, port.name, port.port, port.target_port)
        return
    for _, instance in state.endpoints(service):
        number = instance.ports.get(port.name)
        if number is not None and all(instance.labels.get(name) == value for name, value in labels):
            yield instance.locality, instance.address, number


def untrusted(state: MeshState, declared: Service | ExternalService | None, caller: Workload) -> Problem | None:
    """Why a server of an external service can't be verified; None: all can."""
    if not isinstance(declared, ExternalService):
        return None
    for port in declared.spec.ports:
        domain = _distrusted(state, declared, port, caller)
        if domain is not None:
            message = f"nobody of {domain} is trusted here: callers are answered 503"
            path = "$.spec.tls.spiffeId"
            return Problem(str(declared.ref), message, path, "see `meshadm federation status`")
        if declared.is_outside(port) and (reason := outside.unusable(declared, port, caller)):
            remedy = "give `caCertificates`, or `systemCa` or the files on this host: docs/egress.md"
            return Problem(str(declared.ref), f"{reason}: callers are answered 503", "$.spec.tls", remedy)
    return None


def _distrusted(state: MeshState, declared: ExternalService, port: ServicePort, caller: Workload) -> str | None:
    """The trust domain of the port's server where nobody of it can be believed now."""
    wanted = declared.tls_of(port)
    if wanted.spiffe_id is None:
        return None
    domain = SpiffeId.parse(wanted.spiffe_id).trust_domain
    return None if domain == caller.trust_domain or state.is_trusted(domain) else domain


def _zone(
    zone: Locality, placed: localities.Placed, addresses: Iterable[tuple[str, int]]
) -> endpoint_components_pb2.LocalityLbEndpoints:
    found = endpoint_components_pb2.LocalityLbEndpoints(priority=placed.priority)
    if zone != Locality():
        found.locality.CopyFrom(base_pb2.Locality(region=zone.region, zone=zone.zone))
    if placed.weight is not None:
        found.locality.SetInParent()  # Envoy passes over the weight of one that is not there
        found.load_balancing_weight.value = placed.weight
    for address, number in addresses:
        found.lb_endpoints.add().endpoint.address.CopyFrom(socket_address(address, number))
    return found
