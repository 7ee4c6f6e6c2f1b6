"""Which resources a cluster or a listener makes Envoy subscribe to, read from the resource itself."""

from collections.abc import Iterator

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from dataplane.compile.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    SECRET,
    Resource,
    ResourceKey,
)


def children_of(resource: Resource) -> frozenset[ResourceKey]:
    """Endpoints, routes, filters and secrets over ADS that `resource` names; only clusters and listeners have any.

    A body that can't be decoded has none: Envoy will refuse it, in its own words.
    """
    try:
        if resource.key.type_url == CLUSTER:
            return frozenset(_of_cluster(cluster_pb2.Cluster.FromString(resource.body)))
        if resource.key.type_url == LISTENER:
            return frozenset(_of_listener(listener_pb2.Listener.FromString(resource.body)))
    except DecodeError:
        pass
    return frozenset()


def _over_ads(source: config_source_pb2.ConfigSource) -> bool:
    return source.WhichOneof("config_source_specifier") in ("ads", "self")


def _of_cluster(cluster: cluster_pb2.Cluster) -> Iterator[ResourceKey]:
    if cluster.type == cluster_pb2.Cluster.EDS and _over_ads(cluster.eds_cluster_config.eds_config):
        yield ResourceKey(ENDPOINTS, cluster.eds_cluster_config.service_name or cluster.name)
    if cluster.HasField("transport_socket"):
        yield from _of_transport_socket(cluster.transport_socket)
    for match in cluster.transport_socket_matches:
        yield from _of_transport_socket(match.transport_socket)


def _of_listener(listener: listener_pb2.Listener) -> Iterator[ResourceKey]:
    chains = [*listener.filter_chains]
    if listener.HasField("default_filter_chain"):
        chains.append(listener.default_filter_chain)
    for chain in chains:
        if chain.HasField("transport_socket"):
            yield from _of_transport_socket(chain.transport_socket)
        for network_filter in chain.filters:
            if _over_ads(network_filter.config_discovery.config_source):
                yield ResourceKey(EXTENSION, network_filter.name)
            yield from _of_network_filter(network_filter.typed_config)
    yield from _of_network_filter(listener.api_listener.api_listener)


def _of_network_filter(config: Any) -> Iterator[ResourceKey]:
    manager = http_connection_manager_pb2.HttpConnectionManager()
    if config.Is(manager.DESCRIPTOR):
        config.Unpack(manager)
        if manager.HasField("rds") and _over_ads(manager.rds.config_source):
            yield ResourceKey(ROUTES, manager.rds.route_config_name)


def _of_transport_socket(socket: base_pb2.TransportSocket) -> Iterator[ResourceKey]:
    for context in (tls_pb2.UpstreamTlsContext(), tls_pb2.DownstreamTlsContext()):
        if socket.typed_config.Is(context.DESCRIPTOR):
            socket.typed_config.Unpack(context)
            common = context.common_tls_context
            for secret in (
                *common.tls_certificate_sds_secret_configs,
                common.validation_context_sds_secret_config,
                common.combined_validation_context.validation_context_sds_secret_config,
            ):
                if secret.name and _over_ads(secret.sds_config):
                    yield ResourceKey(SECRET, secret.name)
