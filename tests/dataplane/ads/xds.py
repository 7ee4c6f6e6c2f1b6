"""Small xDS resources for the tests of the ADS server: plaintext and mTLS clusters, listeners, routes, endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import api_listener_pb2, listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from dataplane.compile.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET, Resource
from tests.support.pki import Leaf


def ads() -> Any:
    return config_source_pb2.ConfigSource(ads={}, resource_api_version=config_source_pb2.ApiVersion.V3)


def packed(message: Any) -> AnyMessage:
    result = AnyMessage()
    result.Pack(message, deterministic=True)
    return result


def cluster(name: str, *, endpoints: str = "", secret: str = "", timeout: float = 1.0, bad: bool = False) -> Resource:
    """An EDS cluster. `timeout` makes versions differ; `bad` is what Envoy refuses (no connect timeout above 0)."""
    message = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS)
    message.connect_timeout.FromNanoseconds(int(-1e9 if bad else timeout * 1e9))
    message.eds_cluster_config.eds_config.CopyFrom(ads())
    message.eds_cluster_config.service_name = endpoints
    if secret:
        context = tls_pb2.UpstreamTlsContext()
        config = context.common_tls_context.tls_certificate_sds_secret_configs.add(name=secret)
        config.sds_config.CopyFrom(ads())
        message.transport_socket.name = "envoy.transport_sockets.tls"
        message.transport_socket.typed_config.CopyFrom(packed(context))
    return Resource.of(CLUSTER, name, message)


def endpoints(name: str, *ports: int) -> Resource:
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    for port in ports:
        locality = message.endpoints.add()
        locality.load_balancing_weight.value = 1
        locality.locality.region = "here"
        address = locality.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = "127.0.0.1", port
    return Resource.of(ENDPOINTS, name, message)


def _manager(route: str, prefix: str) -> Any:
    manager = hcm_pb2.HttpConnectionManager(stat_prefix=prefix)
    manager.rds.route_config_name = route
    manager.rds.config_source.CopyFrom(ads())
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.CopyFrom(packed(router_pb2.Router()))
    return manager


def listener(name: str, port: int, route: str, *, prefix: str = "in", secret: str = "", bad: bool = False) -> Resource:
    """An HTTP listener on 127.0.0.1. `prefix` makes versions differ; `bad` is an address Envoy can't listen on."""
    message = listener_pb2.Listener(name=name)
    message.address.socket_address.address = "not an address" if bad else "127.0.0.1"
    message.address.socket_address.port_value = port
    chain = message.filter_chains.add()
    chain.filters.add(name="http").typed_config.CopyFrom(packed(_manager(route, prefix)))
    if secret:
        context = tls_pb2.DownstreamTlsContext()
        config = context.common_tls_context.tls_certificate_sds_secret_configs.add(name=secret)
        config.sds_config.CopyFrom(ads())
        chain.transport_socket.name = "envoy.transport_sockets.tls"
        chain.transport_socket.typed_config.CopyFrom(packed(context))
    return Resource.of(LISTENER, name, message)


def tcp_listener(name: str, port: int, extension: str) -> Resource:
    """On 127.0.0.1; what becomes of connections is said apart."""
    message = listener_pb2.Listener(name=name)
    message.address.socket_address.address = "127.0.0.1"
    message.address.socket_address.port_value = port
    only = message.filter_chains.add().filters.add(name=extension)
    only.config_discovery.config_source.CopyFrom(ads())
    only.config_discovery.type_urls.append(f"type.googleapis.com/{tcp_proxy_pb2.TcpProxy.DESCRIPTOR.full_name}")
    return Resource.of(LISTENER, name, message)


def extension(name: str, to: str, *, bad: bool = False) -> Resource:
    """Passes bytes to a cluster; `bad` is what Envoy refuses (no prefix of statistics)."""
    message = extension_pb2.TypedExtensionConfig(name=name)
    message.typed_config.CopyFrom(packed(tcp_proxy_pb2.TcpProxy(stat_prefix="" if bad else "x", cluster=to)))
    return Resource.of(EXTENSION, name, message)


def api_listener(name: str, route: str) -> Resource:
    """What a gRPC client asks for by the name in its `xds:///` target."""
    api = api_listener_pb2.ApiListener(api_listener=packed(_manager(route, "grpc")))
    return Resource.of(LISTENER, name, listener_pb2.Listener(name=name, api_listener=api))


def routes(name: str, to: Mapping[str, str], *, bad: bool = False) -> Resource:
    """Path prefix to cluster, in the order given, for every host."""
    message = route_pb2.RouteConfiguration(name=name)
    host = message.virtual_hosts.add(name="all", domains=["*", "*"] if bad else ["*"])
    for prefix, target in to.items():
        route = host.routes.add()
        route.match.prefix = prefix
        route.route.cluster = target
    return Resource.of(ROUTES, name, message)


def secret(name: str, leaf: Leaf) -> Resource:
    message = secret_pb2.Secret(name=name)
    message.tls_certificate.certificate_chain.inline_bytes = leaf.chain_pem
    message.tls_certificate.private_key.inline_bytes = leaf.key_pem
    return Resource.of(SECRET, name, message)
