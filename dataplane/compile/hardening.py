"""What every HTTP listener of ours holds against hostile or broken clients: one place, for all kinds of listeners.

Every HTTP connection manager is made by `http.connection_manager`, which calls `harden`. What Envoy would do by default
anyway is written out where we rely on it: a default may change.
"""

from collections.abc import Iterator
from functools import cache

from envoy.config.core.v3 import protocol_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.type.matcher.v3 import path_pb2, regex_pb2, string_pb2
from google.protobuf import duration_pb2, wrappers_pb2

from dataplane.compile.tls import packed
from schemas.http_requests import REFUSED, REFUSED_METHODS, REFUSED_METHODS_SAY, RefusedPath

_Manager = hcm_pb2.HttpConnectionManager
_UInt32 = wrappers_pb2.UInt32Value

# Envoy's HTTP/2 default is 2^31-1 streams and a 256 MiB window a connection: one peer could hold all memory.
# 1,024 streams and 1 MiB / 2 MiB windows keep a loopback or LAN path full. The windows, and the listener's buffers of
# 1 MiB, are what bounds the memory of a request's body: its length is the app's to bound.
HTTP2_MAX_STREAMS = 1024
HTTP2_STREAM_WINDOW_BYTES = 1024 * 1024
HTTP2_CONNECTION_WINDOW_BYTES = 2 * 1024 * 1024
# Frames that wait for a client that does not read. The second: answers to PING, SETTINGS and resets, which cost the
# client nothing to ask for (CVE-2019-9512, -9514, -9515). Who makes more is disconnected.
HTTP2_MAX_OUTBOUND_FRAMES = 10_000
HTTP2_MAX_OUTBOUND_CONTROL_FRAMES = 1_000
# Frames that carry nothing (CVE-2019-9518), re-order (CVE-2019-9513), or say how much more may come (CVE-2019-9517).
HTTP2_MAX_EMPTY_FRAMES = 1
HTTP2_MAX_PRIORITY_FRAMES = 100  # a stream
HTTP2_MAX_WINDOW_UPDATES = 10  # a data frame sent
# Names and values together, and how many: what app servers take at most is less or alike.
MAX_HEADERS_KIB = 60
MAX_HEADERS = 100
# Seconds. A peer that opens a request and never finishes its headers holds a stream no longer than this.
REQUEST_HEADERS_TIMEOUT_S = 10
# Seconds. Long enough for quiet gRPC streams and long polls; a stream that a dead peer left behind still ends.
STREAM_IDLE_TIMEOUT_S = 3600
# Seconds without any request. Callers keep connections for reuse; what nobody uses for so long is nobody's any more.
CONNECTION_IDLE_TIMEOUT_S = 3600
# Seconds for what is left to be sent on a connection that is closed for what came over it.
DELAYED_CLOSE_S = 1

# Of strangers' connections: their number is not ours to choose, so each may hold less (Envoy, "Configuring Envoy as an
# edge proxy").
EDGE_MAX_STREAMS = 100
EDGE_STREAM_WINDOW_BYTES = 64 * 1024
EDGE_CONNECTION_WINDOW_BYTES = 1024 * 1024
# Seconds without any request, and within a request without a byte.
EDGE_CONNECTION_IDLE_TIMEOUT_S = 900
EDGE_STREAM_IDLE_TIMEOUT_S = 300
# By which proxies tell of clients. Apps believe them.
FORWARDED_HEADERS = (
    "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-forwarded-scheme",
    "x-forwarded-ssl", "x-real-ip", "x-client-ip", "true-client-ip",
)  # fmt: skip

PATHS = "mesh.paths"
_NAMED = "path|"
# RE2 is not asked about these. The most frequent first: each costs what comes before it.
_COMMON_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")


def http2_options() -> protocol_pb2.Http2ProtocolOptions:
    return protocol_pb2.Http2ProtocolOptions(
        allow_connect=True,  # how TCP goes between sidecars; where no route takes a CONNECT it is refused all the same
        max_concurrent_streams=_UInt32(value=HTTP2_MAX_STREAMS),
        initial_stream_window_size=_UInt32(value=HTTP2_STREAM_WINDOW_BYTES),
        initial_connection_window_size=_UInt32(value=HTTP2_CONNECTION_WINDOW_BYTES),
        max_outbound_frames=_UInt32(value=HTTP2_MAX_OUTBOUND_FRAMES),
        max_outbound_control_frames=_UInt32(value=HTTP2_MAX_OUTBOUND_CONTROL_FRAMES),
        max_consecutive_inbound_frames_with_empty_payload=_UInt32(value=HTTP2_MAX_EMPTY_FRAMES),
        max_inbound_priority_frames_per_stream=_UInt32(value=HTTP2_MAX_PRIORITY_FRAMES),
        max_inbound_window_update_frames_per_data_frame_sent=_UInt32(value=HTTP2_MAX_WINDOW_UPDATES),
    )


def harden(manager: hcm_pb2.HttpConnectionManager) -> None:
    """Set all protections, and put the filter that refuses paths and methods before those that are there."""
    # What authorization judges must be what the app will see (RFC 3986, 6.2.2).
    manager.normalize_path.value = True
    manager.merge_slashes = True
    manager.path_with_escaped_slashes_action = _Manager.REJECT_REQUEST
    manager.http_filters.insert(0, _refusing_filter())
    manager.local_reply_config.mappers.extend(_refusals())
    # Whom it comes from is no reason to believe headers that steer Envoy (`x-envoy-…`): they are dropped.
    nobody = manager.internal_address_config.cidr_ranges.add(address_prefix="255.255.255.255")
    nobody.prefix_len.value = 32
    manager.max_request_headers_kb.value = MAX_HEADERS_KIB
    manager.request_headers_timeout.CopyFrom(duration_pb2.Duration(seconds=REQUEST_HEADERS_TIMEOUT_S))
    manager.stream_idle_timeout.CopyFrom(duration_pb2.Duration(seconds=STREAM_IDLE_TIMEOUT_S))
    manager.delayed_close_timeout.CopyFrom(duration_pb2.Duration(seconds=DELAYED_CLOSE_S))
    common = manager.common_http_protocol_options
    common.idle_timeout.CopyFrom(duration_pb2.Duration(seconds=CONNECTION_IDLE_TIMEOUT_S))
    common.max_headers_count.value = MAX_HEADERS
    # WSGI and CGI fold '_' and '-' into one name: `X_Forwarded_Client_Cert` would pass for the identity header.
    common.headers_with_underscores_action = protocol_pb2.HttpProtocolOptions.REJECT_REQUEST
    # Both lengths in one message are how requests are smuggled (RFC 9112, 6.3).
    manager.http_protocol_options.allow_chunked_length = False
    manager.http2_protocol_options.CopyFrom(http2_options())


def against_strangers(manager: hcm_pb2.HttpConnectionManager, trusted_hops: int) -> None:
    """Beside what `harden` has set: of a listener for anybody. trusted_hops: of proxies in front of it."""
    manager.http_protocol_options.allow_absolute_url.value = False
    http2 = manager.http2_protocol_options
    http2.allow_connect = False
    http2.max_concurrent_streams.value = EDGE_MAX_STREAMS
    http2.initial_stream_window_size.value = EDGE_STREAM_WINDOW_BYTES
    http2.initial_connection_window_size.value = EDGE_CONNECTION_WINDOW_BYTES
    manager.common_http_protocol_options.idle_timeout.seconds = EDGE_CONNECTION_IDLE_TIMEOUT_S
    manager.stream_idle_timeout.seconds = EDGE_STREAM_IDLE_TIMEOUT_S
    del manager.upgrade_configs[:]
    manager.upgrade_configs.add(upgrade_type="websocket")
    if trusted_hops:
        return
    # Nobody is in front of us: what a client says of the way that its request took is made up.
    mutation = header_mutation_pb2.HeaderMutation()
    for name in FORWARDED_HEADERS:
        mutation.mutations.add(remove=name)
    early = manager.early_header_mutation_extensions.add(name="envoy.http.early_header_mutation.header_mutation")
    early.typed_config.CopyFrom(packed(mutation))


@cache  # the same in every listener, and of many parts; whoever puts it into a message copies it
def _refusing_filter() -> hcm_pb2.HttpFilter:
    """Refuses what Envoy's normalisation leaves and apps do not agree upon. `_refusals` makes 400 of its 403."""
    refuses = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY)
    strange = rbac_pb2.Permission.Set(rules=[*_uncommon(), rbac_pb2.Permission(header=_of_method())])
    refused = {"method": rbac_pb2.Permission(and_rules=strange)}
    for one in REFUSED:
        # RE2 is asked only about paths in which there is anything to find: most have none of it.
        both = rbac_pb2.Permission.Set(rules=_path_conditions(one))
        refused[_NAMED + one.name] = rbac_pb2.Permission(and_rules=both)
    for name, permission in refused.items():
        policy = rbac_pb2.Policy(permissions=[permission], principals=[rbac_pb2.Principal(any=True)])
        refuses.policies[name].CopyFrom(policy)
    return hcm_pb2.HttpFilter(name=PATHS, typed_config=packed(http_rbac_pb2.RBAC(rules=refuses)))


def _path_conditions(refused: RefusedPath) -> Iterator[rbac_pb2.Permission]:
    for matcher in (
        string_pb2.StringMatcher(contains=refused.hint),
        string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=refused.expression)),
    ):
        yield rbac_pb2.Permission(url_path=path_pb2.PathMatcher(path=matcher))


def _uncommon() -> Iterator[rbac_pb2.Permission]:
    for method in _COMMON_METHODS:
        matcher = route_components_pb2.HeaderMatcher(name=":method")
        matcher.string_match.exact = method
        yield rbac_pb2.Permission(not_rule=rbac_pb2.Permission(header=matcher))


def _of_method() -> route_components_pb2.HeaderMatcher:
    regex = regex_pb2.RegexMatcher(regex=REFUSED_METHODS)
    return route_components_pb2.HeaderMatcher(name=":method", string_match=string_pb2.StringMatcher(safe_regex=regex))


@cache
def _refusals() -> tuple[hcm_pb2.ResponseMapper, ...]:
    """By path and method again: what the filter says of its doing is not known yet when Envoy makes the answer."""
    found = []
    for one in REFUSED:
        mapper = hcm_pb2.ResponseMapper(status_code=_UInt32(value=400))
        path = mapper.filter.header_filter.header
        path.name, path.string_match.safe_regex.regex = ":path", rf"{one.expression}(\?.*)?"
        mapper.body.inline_string = f"the path has {one.says}\n"
        found.append(mapper)
    mapper = hcm_pb2.ResponseMapper(status_code=_UInt32(value=400))
    mapper.filter.header_filter.header.CopyFrom(_of_method())
    mapper.body.inline_string = f"{REFUSED_METHODS_SAY}\n"
    return (*found, mapper)
