"""What becomes of calls to nobody that the mesh knows: refused with the reason, or passed on, as `Mesh` says.

Passed on means that Envoy resolves the name that the app wrote, and connects: HTTP by `Host`, anything else by CONNECT.
Nothing is added: no TLS, no identity. What can only be a name of the mesh is never passed on, or a service that has
gone would be looked for in DNS.
"""

import re
from collections.abc import Iterator

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import socket_option_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.clusters.dynamic_forward_proxy.v3 import cluster_pb2 as forward_cluster_pb2
from envoy.extensions.common.dynamic_forward_proxy.v3 import dns_cache_pb2
from envoy.extensions.filters.http.dynamic_forward_proxy.v3 import dynamic_forward_proxy_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import duration_pb2

from dataplane.compile import clusters, tls
from dataplane.compile.on_demand import SECOND_PASS
from dataplane.compile.resources import CLUSTER, Resource, ResourceKey
from dataplane.compile.stamps import stamp
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState

NAME = "outbound|passthrough"
DESTINATION = "passthrough"
"""Of all of it together, in logs and metrics: hosts are what somebody sends, and services have names of two labels."""
FILTER = "mesh.passthrough"

MARK = (1, 12, 4)  # SOL_SOCKET, SO_PRIORITY
"""Level, name and value of a socket option, by which the agent knows what leads outside: one that anybody may set and
read again. In Linux' default queue packets of this priority (socket(7)) wait with those of 0, which all others have."""

# Names that an app may have used in the last minutes: one that asks for new ones all the time must not fill memory.
MAX_NAMES = 1024

# What can't be a host of the internet: of one label, or below .mesh.
_ONLY_MESH = r"(?i)([^.:\[]+|.*\.mesh)(:[0-9]*)?"
# What a service may be called: of two labels it may be either.
_PERHAPS_MESH = r"(?i)([^.:\[]+(\.[^.:]+)?|.*\.mesh)(:[0-9]*)?"

KEY = ResourceKey(CLUSTER, NAME)

_Route = route_components_pb2.Route
_Match = route_components_pb2.RouteMatch
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def is_allowed(state: MeshState) -> bool:
    mesh = state.mesh()
    return mesh is not None and mesh.spec.outbound_traffic_policy.mode == "ALLOW_ANY"


def routes(state: MeshState, workload: Workload, no_service: str) -> Iterator[route_components_pb2.Route]:
    """The last routes of the proxy port. no_service: the answer where a service was meant.

    Two for each case, because a prefix does not match a CONNECT, and without a route the answer would say nothing.
    """
    text = f"{no_service}, nor has an ExternalService this host\n"
    if is_allowed(state):
        yield from _answer(503, text, _authority(_ONLY_MESH))
        itself = rf"{re.escape(_written(workload.local_address))}:{workload.proxy_port}"
        yield from _answer(502, "the sidecar's own proxy port\n", _authority(itself))
        yield from _passed_on()
        return
    yield from _answer(503, text, _authority(_PERHAPS_MESH))
    yield from _answer(
        502, "no ExternalService has this host, and the Mesh's outboundTrafficPolicy refuses all others\n"
    )


def http_filter() -> hcm_pb2.HttpFilter:
    """Finds the address of a name before the request goes on; for the routes of `_passed_on` alone, and asleep for all
    others."""
    config = dynamic_forward_proxy_pb2.FilterConfig(dns_cache_config=_cache())
    return hcm_pb2.HttpFilter(name=FILTER, typed_config=tls.packed(config), disabled=True)


def cluster() -> Resource:
    found = clusters.unlimited(NAME)
    stamp(found.metadata, destination=DESTINATION)
    found.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
    level, name, value = MARK
    prebind = socket_option_pb2.SocketOption.STATE_PREBIND
    found.upstream_bind_config.socket_options.add(level=level, name=name, int_value=value, state=prebind)
    found.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
    # "insecure": without a check of the server's name. There is no TLS here at all.
    config = forward_cluster_pb2.ClusterConfig(dns_cache_config=_cache(), allow_insecure_cluster_options=True)
    found.cluster_type.typed_config.CopyFrom(tls.packed(config))
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.use_downstream_protocol_config.http_protocol_options.SetInParent()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    found.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(tls.packed(options))
    return Resource.of(CLUSTER, NAME, found)


def _cache() -> dns_cache_pb2.DnsCacheConfig:
    """Filter and cluster share it, by its name and its content."""
    cache = dns_cache_pb2.DnsCacheConfig(name="mesh", dns_lookup_family=cluster_pb2.Cluster.V4_PREFERRED)
    cache.max_hosts.value = MAX_NAMES
    return cache


def _passed_on() -> Iterator[route_components_pb2.Route]:
    tunnel = _Route(match=_Match(connect_matcher=_Match.ConnectMatcher()))
    tunnel.route.upgrade_configs.add(upgrade_type="CONNECT").connect_config.SetInParent()
    request = _Route(match=_Match(prefix="/"))
    for route in (tunnel, request):
        route.route.cluster = NAME
        route.route.timeout.CopyFrom(duration_pb2.Duration())  # no limit that nobody asked for
        route.request_headers_to_remove.append(SECOND_PASS)
        route.typed_per_filter_config[FILTER].CopyFrom(tls.packed(dynamic_forward_proxy_pb2.PerRouteConfig()))
        yield route


def _authority(expression: str) -> route_components_pb2.HeaderMatcher:
    matcher = route_components_pb2.HeaderMatcher(name=":authority")
    matcher.string_match.safe_regex.regex = expression
    return matcher


def _answer(
    status: int, text: str, *headers: route_components_pb2.HeaderMatcher
) -> Iterator[route_components_pb2.Route]:
    for match in (_Match(connect_matcher=_Match.ConnectMatcher()), _Match(prefix="/")):
        route = _Route(match=match)
        route.match.headers.extend(headers)
        route.direct_response.status = status
        route.direct_response.body.inline_string = text
        yield route


def _written(address: str) -> str:
    """As it stands in a URL."""
    return f"[{address}]" if ":" in address else address
