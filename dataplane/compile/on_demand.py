"""Services that nobody declared: learnt from the first request to them, which waits meanwhile and is not lost.

    app ── GET http://orders/ ──▶ proxy listener: no virtual host is named so
                                    ▸ the fallback route names a cluster by the request's authority; Envoy has none of
                                      that name, holds the request and asks for it over ADS
                                    ▸ `orders` comes into scope; its endpoints, clusters and virtual hosts go to Envoy
                                    ▸ once those are acked, the *detour*: a cluster of the name that was asked for,
                                      which leads back to the proxy listener
        second pass ─────────────▶ proxy listener: the virtual host is there now, with all that belongs to it

The detour is what makes the first request like all later ones: Envoy goes on with the route that it had chosen, so a
cluster that led straight to the service would pass its routes by. A request that is on its second pass is marked, so
that it never goes round again; where no service is found it gets an answer that says so.
"""

import re
from collections.abc import Sized

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.on_demand.v3 import on_demand_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import any_pb2, duration_pb2

from dataplane.compile import clusters, tls
from dataplane.compile.resources import CLUSTER, Resource
from dataplane.compile.stamps import stamp
from dataplane.compile.workload import Workload
from routing.names import HOST_SUFFIX
from schemas.errors import InvalidInput
from schemas.names import ServiceRef

SECOND_PASS = "x-mesh-second-pass"  # noqa: S105  (a header)
"""Header of a request that has been held. An app that sets it skips the wait, and nothing else."""

DETOUR = "detour"
"""Where requests are said to go that are on their first pass. They come again, and are counted then."""

HOLD_S = 5
"""Seconds that a first request waits. Learning takes milliseconds; with etcd away it can't be done at all."""

MAX_LEARNT = 1024
"""Authorities. A service calls a few dozen others; an app that follows whatever links it meets must not fill memory."""

# What may be a service's name, with or without a port: all else is answered at once, without asking.
_AUTHORITY = r"[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+(\.mesh)?)?(:[0-9]+)?"
_FILTER = "envoy.filters.http.on_demand"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def full(learnt: Sized) -> bool:
    return len(learnt) >= MAX_LEARNT


def service_of(authority: str, caller: ServiceRef) -> ServiceRef | None:
    """The service that `caller` means by ``orders``, ``orders.shop`` or ``orders.shop.mesh``, with or without port.

    None for what can't be a service's name.
    """
    if not re.fullmatch(_AUTHORITY, authority):
        return None
    host = authority.partition(":")[0].lower()
    if host.count(".") == 2:
        host = host.removesuffix(f".{HOST_SUFFIX}")
    try:
        return ServiceRef.parse(host, caller.namespace)
    except InvalidInput:
        return None


def hold_filter() -> hcm_pb2.HttpFilter:
    """Holds a request whose route names a cluster that is not there, and asks for it; on routes of `fallback` alone."""
    hold = on_demand_pb2.OnDemand()
    hold.odcds.source.CopyFrom(tls.ads_source())
    hold.odcds.timeout.CopyFrom(duration_pb2.Duration(seconds=HOLD_S))
    return hcm_pb2.HttpFilter(name=_FILTER, typed_config=tls.packed(hold), disabled=True)


def detour(authority: str, workload: Workload) -> Resource:
    """The cluster that sends what was held for `authority` through the proxy listener once more."""
    cluster = clusters.static(authority, clusters.socket_address(workload.local_address, workload.proxy_port))
    stamp(cluster.metadata, destination=DETOUR)
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.use_downstream_protocol_config.http_protocol_options.SetInParent()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(tls.packed(options))
    return Resource.of(CLUSTER, authority, cluster)


def fallback(match: route_components_pb2.RouteMatch, *, upgrade: str | None = None) -> route_components_pb2.Route:
    """Where a request goes on its first pass; `match` without a mark of the second is what it is for."""
    route = route_components_pb2.Route()
    route.match.CopyFrom(match)
    route.match.headers.add(name=SECOND_PASS, present_match=True, invert_match=True)
    named = route.match.headers.add(name=":authority")
    named.string_match.safe_regex.regex = _AUTHORITY
    route.route.cluster_header = ":authority"
    route.route.timeout.CopyFrom(duration_pb2.Duration())
    if upgrade is not None:
        route.route.upgrade_configs.add(upgrade_type=upgrade)
    # As the filter says itself: one for all routes keeps what Envoy has subscribed to.
    awake = route_components_pb2.FilterConfig(config=any_pb2.Any())
    route.typed_per_filter_config[_FILTER].CopyFrom(tls.packed(awake))
    mark = route.request_headers_to_add.add()
    mark.header.key, mark.header.value = SECOND_PASS, "1"
    return route
