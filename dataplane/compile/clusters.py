"""Upstreams: other sidecars by service port, and the own app; and the endpoints of the former."""

from collections.abc import Iterator

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import duration_pb2, wrappers_pb2

from dataplane.compile import tls
from dataplane.compile.http import http2_options
from dataplane.compile.resources import CLUSTER, ENDPOINTS, Resource
from dataplane.snapshot.state import MeshState
from schemas.names import ServiceRef, SpiffeId
from schemas.objects.external import ExternalService
from schemas.objects.service import Service, ServicePort

# Seconds. On one network a connection takes milliseconds; two leaves room for one lost SYN (RFC 6298: 1 s).
CONNECT_TIMEOUT_S = 2
# Envoy's default of 1,024 connections and requests a cluster would be a limit that nobody asked for.
NO_LIMIT = 2**32 - 1
# Retries at most a fifth of what is in flight: retrying never becomes the load that it answers to.
RETRY_BUDGET_PERCENT = 20.0
RETRY_MIN_CONCURRENCY = 10

_LB_POLICIES = {"LeastRequest": cluster_pb2.Cluster.LEAST_REQUEST, "RoundRobin": cluster_pb2.Cluster.ROUND_ROBIN}
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def outbound_name(service: ServiceRef, port: int) -> str:
    return f"outbound|{service}|{port}"


def app_name(port: ServicePort) -> str:
    return f"app|{port.name}"


def socket_address(address: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port))


def outbound_clusters(state: MeshState, service: ServiceRef, trust_domain: str) -> list[Resource]:
    """One cluster a port of the service; none where the service does not exist."""
    declared = state.destination(service)
    if declared is None:
        return []
    server = _server(declared, service, trust_domain)
    policy = state.traffic_policy(service)
    lb_policy = _LB_POLICIES[policy.spec.load_balancer.type if policy else "LeastRequest"]
    result = []
    for port in declared.spec.ports:
        cluster = _cluster(outbound_name(service, port.port))
        cluster.type = cluster_pb2.Cluster.EDS
        cluster.eds_cluster_config.eds_config.CopyFrom(tls.ads_source())
        cluster.lb_policy = lb_policy
        cluster.transport_socket.CopyFrom(tls.upstream(server))
        # An instance leaves when its sidecar says so or its lease ends: nothing here checks health that could keep it.
        cluster.ignore_health_on_host_removal = True
        threshold = cluster.circuit_breakers.thresholds[0]
        threshold.retry_budget.budget_percent.value = RETRY_BUDGET_PERCENT
        threshold.retry_budget.min_retry_concurrency.value = RETRY_MIN_CONCURRENCY
        _speak_http2(cluster)  # between sidecars always; TCP goes in CONNECT tunnels
        result.append(Resource.of(CLUSTER, cluster.name, cluster))
    return result


def app_cluster(port: ServicePort, address: str, app_port: int) -> Resource:
    """The own app, in the protocol that it speaks."""
    cluster = _cluster(app_name(port))
    cluster.type = cluster_pb2.Cluster.STATIC
    cluster.load_assignment.cluster_name = cluster.name
    host = cluster.load_assignment.endpoints.add().lb_endpoints.add()
    host.endpoint.address.CopyFrom(socket_address(address, app_port))
    if port.protocol in ("http2", "grpc"):
        _speak_http2(cluster)
    return Resource.of(CLUSTER, cluster.name, cluster)


def load_assignments(state: MeshState, service: ServiceRef) -> list[Resource]:
    """The live endpoints, one assignment a port of the service. An instance that lacks a port is not in it."""
    declared = state.destination(service)
    if declared is None:
        return []
    result = []
    for port in declared.spec.ports:
        name = outbound_name(service, port.port)
        assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
        locality = endpoint_components_pb2.LocalityLbEndpoints()
        for address, number in _addresses(state, declared, service, port):
            locality.lb_endpoints.add().endpoint.address.CopyFrom(socket_address(address, number))
        if locality.lb_endpoints:
            assignment.endpoints.append(locality)
        result.append(Resource.of(ENDPOINTS, name, assignment))
    return result


def _server(declared: Service | ExternalService, service: ServiceRef, trust_domain: str) -> SpiffeId:
    """Whom a caller insists on."""
    if isinstance(declared, ExternalService):
        return SpiffeId.parse(declared.spec.tls.spiffe_id)
    return SpiffeId.of_service(trust_domain, service)


def _addresses(
    state: MeshState, declared: Service | ExternalService, service: ServiceRef, port: ServicePort
) -> Iterator[tuple[str, int]]:
    if isinstance(declared, ExternalService):
        for endpoint in declared.spec.endpoints:
            yield endpoint.address, (endpoint.ports or {}).get(port.name, port.port)
        return
    for _, instance in state.endpoints(service):
        number = instance.ports.get(port.name)
        if number is not None:
            yield instance.address, number


def _cluster(name: str) -> cluster_pb2.Cluster:
    cluster = cluster_pb2.Cluster(name=name, connect_timeout=duration_pb2.Duration(seconds=CONNECT_TIMEOUT_S))
    unlimited = wrappers_pb2.UInt32Value(value=NO_LIMIT)
    cluster.circuit_breakers.thresholds.add(
        max_connections=unlimited, max_pending_requests=unlimited, max_requests=unlimited
    )
    return cluster


def _speak_http2(cluster: cluster_pb2.Cluster) -> None:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.explicit_http_config.http2_protocol_options.CopyFrom(http2_options())
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(tls.packed(options))
