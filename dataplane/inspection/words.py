"""Resources ▸ what they do, a line or a few each. Pure; says nothing that the messages don't say."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from envoy.config.rbac.v3 import rbac_pb2 as config_rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from dataplane.compile import chains, one_identity, passing, tls
from dataplane.compile.inbound import ALLOW, DENY, listener_name
from dataplane.compile.plaintext import CHAIN as PLAINTEXT
from dataplane.compile.reading import read_for
from dataplane.compile.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET, ResourceKey
from dataplane.compile.tracing import TRACED
from dataplane.compile.workload import Workload
from dataplane.inspection.cluster_words import cluster_words
from dataplane.inspection.differ import address, placed_addresses
from dataplane.inspection.numbers import span
from dataplane.inspection.origin import origins
from dataplane.inspection.route_words import route_words
from dataplane.snapshot.state import MeshState

# Sections, in the order in which a request meets them.
SECTIONS = {
    "listeners": LISTENER,
    "routes": ROUTES,
    "connections": EXTENSION,
    "clusters": CLUSTER,
    "endpoints": ENDPOINTS,
    "secrets": SECRET,
}


class Described(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    does: tuple[str, ...]
    origin: tuple[str, ...]
    """The objects that it came from."""


def described(
    messages: Mapping[ResourceKey, Any], state: MeshState, workload: Workload
) -> dict[str, tuple[Described, ...]]:
    """By section."""
    words = {
        LISTENER: _listener,
        ROUTES: _routes,
        EXTENSION: _connections,
        CLUSTER: cluster_words,
        ENDPOINTS: _endpoints,
        SECRET: _secret,
    }
    return {
        section: tuple(
            Described(
                name=key.name,
                does=(*words[type_url](messages[key]), *_why_read(state, workload, key)),
                origin=tuple(origins(state, workload, key)),
            )
            for key in sorted(messages)
            if key.type_url == type_url
        )
        for section, type_url in SECTIONS.items()
    }


def _why_read(state: MeshState, workload: Workload, key: ResourceKey) -> Iterator[str]:
    """Of a port whose bytes could be passed on."""
    own = state.service(workload.service)
    port = next((one for one in own.spec.ports if listener_name(one) == key.name), None) if own is not None else None
    if key.type_url == LISTENER and port is not None and port.passes_bytes:
        found = read_for(state, workload, port)
        yield f"reads HTTP of all callers for {', '.join(found)}" if found else "passes bytes on: nothing asks for HTTP"


def _listener(listener: Any) -> Iterator[str]:
    inside = listener.HasField("internal_listener")
    parts = ["takes spans, and sends them on" if inside else f"on {address(listener.address)}"]
    chosen, hosts = chains.chosen(listener), chains.server_names(listener)
    for chain in listener.filter_chains:
        if chosen and chain.name not in chosen:
            continue  # what is open goes on in it
        if chain.name.removesuffix(TRACED) == PLAINTEXT:
            parts.append("takes plaintext too, from whoever speaks first")
        if chain.name.endswith(TRACED):
            parts.append("makes spans")
        if chain.name == passing.CHAIN:
            parts.append(f"from callers that offer {tls.BYTES_ALPN}")
        if chain.name in hosts:
            parts.append(f"for {hosts[chain.name]}")
        if chain.HasField("transport_socket"):
            context = tls_pb2.DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value)
            slots = len(context.common_tls_context.tls_certificate_sds_secret_configs)
            mutual = context.require_client_certificate.value
            parts.append("takes mTLS only" if mutual else f"takes TLS, as {chain.name}|0 to {slots - 1}")
        for one in chain.filters:
            if one.typed_config.Is(hcm_pb2.HttpConnectionManager.DESCRIPTOR):
                manager = hcm_pb2.HttpConnectionManager.FromString(one.typed_config.value)
                upgrades = {one.upgrade_type for one in manager.upgrade_configs}
                takes = " and CONNECT" if "CONNECT" in upgrades else ""
                parts.append(f"reads HTTP{takes}, by routes {manager.rds.route_config_name}")
            elif one.name == one_identity.FILTER:
                parts.append("from who has exactly one identity")
            elif one.typed_config.Is(tcp_proxy_pb2.TcpProxy.DESCRIPTOR):
                parts.append(_passes(tcp_proxy_pb2.TcpProxy.FromString(one.typed_config.value)))
            elif one.HasField("config_discovery"):
                judges = one.config_discovery.type_urls[0].endswith(network_rbac_pb2.RBAC.DESCRIPTOR.full_name)
                parts.append(f"{'judged' if judges else 'passes bytes,'} by connections {one.name}")
    yield ", ".join(parts)


def _connections(filter_: Any) -> Iterator[str]:
    if filter_.typed_config.Is(network_rbac_pb2.RBAC.DESCRIPTOR):
        rules = network_rbac_pb2.RBAC.FromString(filter_.typed_config.value).rules
        verb = "denies" if rules.action == config_rbac_pb2.RBAC.DENY else "allows"
        yield f"{verb}: {', '.join(sorted(rules.policies)) or 'nothing'}"
    else:
        yield _passes(tcp_proxy_pb2.TcpProxy.FromString(filter_.typed_config.value))


def _passes(proxy: Any) -> str:
    shares = [f"{one.name} (weight {one.weight})" for one in proxy.weighted_clusters.clusters]
    tunnel = f" in a CONNECT to {proxy.tunneling_config.hostname}" if proxy.tunneling_config.hostname else ""
    times = ""
    if proxy.HasField("idle_timeout"):
        times += f", closed after {span(proxy.idle_timeout)} without a byte"
    if proxy.HasField("max_downstream_connection_duration"):
        times += f", ended after {span(proxy.max_downstream_connection_duration)}"
    return f"passes bytes to {', '.join(shares) or proxy.cluster}{tunnel}{times}"


def _routes(configuration: Any) -> Iterator[str]:
    for host in configuration.virtual_hosts:
        for name, verb in ((DENY, "denies"), (ALLOW, "allows")):
            if ALLOW in host.typed_per_filter_config:  # an own port; what has no DENY denies nothing
                rules = rbac_pb2.RBACPerRoute.FromString(host.typed_per_filter_config[name].value).rbac.rules
                yield f"{verb}: {', '.join(sorted(rules.policies)) or 'nothing'}"
        for route in host.routes:
            yield f"{', '.join(host.domains)} {route_words(route)}"


def _endpoints(assignment: Any) -> Iterator[str]:
    yield from sorted(placed_addresses(assignment)) or ["nobody: callers are answered 503"]


def _secret(secret: Any) -> Iterator[str]:
    yield "own certificate and key" if secret.HasField("tls_certificate") else "whom to trust"
