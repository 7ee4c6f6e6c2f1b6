"""The one builder of HTTP connection managers: no listener kind can lack a protection that another has."""

from collections.abc import Sequence

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from google.protobuf import duration_pb2, wrappers_pb2

from dataplane.compile.open_streams import add_reports
from dataplane.compile.tls import ads_source, packed

_Manager = hcm_pb2.HttpConnectionManager

# Envoy's HTTP/2 default is 2^31-1 streams and a 256 MiB window a connection: one peer could hold all memory.
# 1,024 streams and 1 MiB / 2 MiB windows keep a loopback or LAN path full.
HTTP2_MAX_STREAMS = 1024
HTTP2_STREAM_WINDOW_BYTES = 1024 * 1024
HTTP2_CONNECTION_WINDOW_BYTES = 2 * 1024 * 1024
# Seconds. A peer that opens a request and never finishes its headers holds a stream no longer than this.
REQUEST_HEADERS_TIMEOUT_S = 10
# Seconds. Long enough for quiet gRPC streams and long polls; a stream that a dead peer left behind still ends.
STREAM_IDLE_TIMEOUT_S = 3600
# Protocols that HTTP/1.1 connections may be upgraded to: WebSocket (RFC 6455), and what container engines use. Envoy
# knows no "all"; h2c is not among them, which nobody needs: apps may speak HTTP/2 at once.
UPGRADES = ("websocket", "tcp", "spdy/3.1")


def http2_options() -> protocol_pb2.Http2ProtocolOptions:
    return protocol_pb2.Http2ProtocolOptions(
        allow_connect=True,  # how TCP goes between sidecars; where no route takes a CONNECT it is refused all the same
        max_concurrent_streams=wrappers_pb2.UInt32Value(value=HTTP2_MAX_STREAMS),
        initial_stream_window_size=wrappers_pb2.UInt32Value(value=HTTP2_STREAM_WINDOW_BYTES),
        initial_connection_window_size=wrappers_pb2.UInt32Value(value=HTTP2_CONNECTION_WINDOW_BYTES),
    )


def connection_manager(
    *,
    name: str,
    inbound: bool,
    filters: Sequence[hcm_pb2.HttpFilter] = (),
    takes_connect: bool = False,
    access_logs: Sequence[accesslog_pb2.AccessLog] = (),
) -> listener_components_pb2.Filter:
    """A network filter that serves the RouteConfiguration `name`.

    inbound: from other sidecars over mTLS, else from the own app. takes_connect: HTTP CONNECT is for us to answer.
    """
    manager = _Manager(
        stat_prefix=name,
        codec_type=_Manager.AUTO,
        rds=hcm_pb2.Rds(route_config_name=name, config_source=ads_source()),
        http2_protocol_options=http2_options(),
        # What authorization judges must be what the app will see (RFC 3986, 6.2.2).
        normalize_path=wrappers_pb2.BoolValue(value=True),
        merge_slashes=True,
        path_with_escaped_slashes_action=_Manager.REJECT_REQUEST,
        request_headers_timeout=duration_pb2.Duration(seconds=REQUEST_HEADERS_TIMEOUT_S),
        stream_idle_timeout=duration_pb2.Duration(seconds=STREAM_IDLE_TIMEOUT_S),
        use_remote_address=wrappers_pb2.BoolValue(value=True),
        skip_xff_append=True,
        # The identity header is ours alone to set: what a peer or the app sends under its name is dropped.
        forward_client_cert_details=_Manager.SANITIZE_SET if inbound else _Manager.SANITIZE,
        server_header_transformation=_Manager.PASS_THROUGH,
        generate_request_id=wrappers_pb2.BoolValue(value=not inbound),
        preserve_external_request_id=True,
        http_filters=[*filters, _router()],
        access_log=access_logs,
        # Over HTTP/2 they travel as extended CONNECT (RFC 8441), and arrive as what they were.
        upgrade_configs=[_Manager.UpgradeConfig(upgrade_type=one) for one in UPGRADES],
    )
    # WSGI and CGI fold '_' and '-' into one name: `X_Forwarded_Client_Cert` would pass for the identity header.
    manager.common_http_protocol_options.headers_with_underscores_action = (
        protocol_pb2.HttpProtocolOptions.REJECT_REQUEST
    )
    if inbound:
        manager.set_current_client_cert_details.uri = True
        add_reports(manager, name)
    else:
        manager.http_protocol_options.allow_absolute_url.value = True
        manager.local_reply_config.CopyFrom(_reasons())
    if takes_connect:
        manager.upgrade_configs.add(upgrade_type="CONNECT")
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=packed(manager)
    )


def _reasons() -> hcm_pb2.LocalReplyConfig:
    """Who calls what is not there is told what, and which object says so: `clusters.missing_cluster`."""
    mapper = hcm_pb2.ResponseMapper()
    mapper.filter.response_flag_filter.flags.append("UH")
    mapper.body_format_override.text_format_source.inline_string = (
        "%LOCAL_REPLY_BODY%: %UPSTREAM_CLUSTER%%METADATA(CLUSTER:mesh:reason)%\n"
    )
    mapper.body_format_override.omit_empty_values = True
    return hcm_pb2.LocalReplyConfig(mappers=[mapper])


def _router() -> hcm_pb2.HttpFilter:
    router = router_pb2.Router(suppress_envoy_headers=True)
    return hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router))
