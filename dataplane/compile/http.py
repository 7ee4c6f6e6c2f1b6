"""The one builder of HTTP connection managers: no listener kind can lack a protection that another has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from google.protobuf import wrappers_pb2

from dataplane.compile import unserved
from dataplane.compile.access_log import NEAREST
from dataplane.compile.flow_samples import add_samples
from dataplane.compile.hardening import against_strangers, harden
from dataplane.compile.open_streams import add_reports
from dataplane.compile.telemetry import DENIAL_HEADER_KEY
from dataplane.compile.tls import ads_source, packed

_Manager = hcm_pb2.HttpConnectionManager

# Protocols that HTTP/1.1 connections may be upgraded to: WebSocket (RFC 6455), and what container engines use. What is
# upgraded nobody judges any more, so it is a list; requests for anything else are refused.
UPGRADES = ("websocket", "tcp", "spdy/3.1")
# What clients offer with any request, to be answered without it (RFC 9110, 7.8): TLS within the connection (RFC 2817;
# Apache's HttpClient does). Envoy passes over h2c by itself.
_PASSED_OVER = "TLS/"


DENIED_BY = "x-mesh-denied-by"
NEAREST_RULE = "x-mesh-nearest"
REQUEST_ID = "x-request-id"


@dataclass(frozen=True, slots=True)
class Edge:
    """Where clients come from outside of the mesh: `x-forwarded-for` gets their address, request ids are our own.

    trusted_hops: proxies of one's own before this one, whose `x-forwarded-*` are believed.
    """

    trusted_hops: int = 0


def connection_manager(
    *,
    name: str,
    inbound: bool,
    filters: Sequence[hcm_pb2.HttpFilter] = (),
    takes_connect: bool = False,
    access_logs: Sequence[accesslog_pb2.AccessLog] = (),
    samples: str = "",
    edge: Edge | None = None,
    plaintext: bool = False,
    tracer: Callable[[hcm_pb2.HttpConnectionManager], None] | None = None,
) -> listener_components_pb2.Filter:
    """A network filter that serves the RouteConfiguration `name`.

    inbound: from other sidecars over mTLS, else from the own app. takes_connect: HTTP CONNECT is for us to answer.
    samples: where their buckets are (compile/buckets.py); empty: none.
    edge: from outside of the mesh. plaintext: inbound, from whoever comes without mTLS, and so a stranger too.
    tracer: has it make spans (compile/tracing.py).
    """
    edge = Edge() if plaintext else edge
    manager = _Manager(
        stat_prefix=f"{name}|plaintext" if plaintext else name,
        codec_type=_Manager.AUTO,
        rds=hcm_pb2.Rds(route_config_name=name, config_source=ads_source()),
        use_remote_address=wrappers_pb2.BoolValue(value=True),
        skip_xff_append=edge is None,
        xff_num_trusted_hops=edge.trusted_hops if edge is not None else 0,
        # The identity header is ours alone to set: what a peer or the app sends under its name is dropped.
        forward_client_cert_details=_Manager.SANITIZE_SET if inbound else _Manager.SANITIZE,
        server_header_transformation=_Manager.PASS_THROUGH,
        generate_request_id=wrappers_pb2.BoolValue(value=True),
        preserve_external_request_id=edge is None,
        http_filters=[*filters, router()],
        access_log=access_logs,
        # Over HTTP/2 they travel as extended CONNECT (RFC 8441), and arrive as what they were.
        upgrade_configs=[_Manager.UpgradeConfig(upgrade_type=one) for one in UPGRADES],
    )
    manager.http_protocol_options.ignore_http_11_upgrade.add(prefix=_PASSED_OVER, ignore_case=True)
    harden(manager)
    if inbound:
        manager.set_current_client_cert_details.uri = True
        if not plaintext:
            unserved.tell(manager)
        manager.local_reply_config.mappers.extend([_denial(told=True), _denial(told=False)])
        add_reports(manager, name)
        if samples:
            add_samples(manager, name, samples)
    else:
        manager.http_protocol_options.allow_absolute_url.value = True
        if edge is None:  # what is inside is nobody's business outside
            manager.local_reply_config.mappers.append(_reason())
    if edge is not None:
        against_strangers(manager, edge.trusted_hops)
    if plaintext:  # who sends is to be known when a request begins, not only when it ends
        manager.access_log_options.flush_access_log_on_new_request = True
    if tracer is not None:
        tracer(manager)
    if takes_connect:
        manager.upgrade_configs.add(upgrade_type="CONNECT")
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=packed(manager)
    )


def _denial(*, told: bool) -> hcm_pb2.ResponseMapper:
    """Who is denied gets the id by which `meshadm why` finds the request; and is told by which rule, if the mesh says
    so, in Envoy's words, with ``namespace/name[rule]``, or where none allowed it, which came nearest. The first mapper
    that matches counts."""
    mapper = hcm_pb2.ResponseMapper()
    denied = mapper.filter
    if told:
        denied, asked = (mapper.filter.and_filter.filters.add() for _ in range(2))
        asked.runtime_filter.runtime_key = DENIAL_HEADER_KEY
        for name, value in ((DENIED_BY, "%RESPONSE_CODE_DETAILS%"), (NEAREST_RULE, NEAREST)):
            header = mapper.headers_to_add.add().header
            header.key, header.value = name, value
    # 401, and 403 for a wrong audience, is what a bad token gets.
    for op, bound in ((accesslog_pb2.ComparisonFilter.GE, 401), (accesslog_pb2.ComparisonFilter.LE, 403)):
        status = denied.and_filter.filters.add().status_code_filter.comparison
        status.op, status.value.default_value = op, bound
        status.value.runtime_key = "mesh.denied_status"  # never set; Envoy demands a name
    request_id = mapper.headers_to_add.add().header
    request_id.key, request_id.value = REQUEST_ID, "%REQ(X-REQUEST-ID)%"
    return mapper


def _reason() -> hcm_pb2.ResponseMapper:
    """Who calls what is not there is told what, and which object says so: `clusters.missing_cluster`."""
    mapper = hcm_pb2.ResponseMapper()
    mapper.filter.response_flag_filter.flags.append("UH")
    mapper.body_format_override.text_format_source.inline_string = (
        "%LOCAL_REPLY_BODY%: %UPSTREAM_CLUSTER%%METADATA(CLUSTER:mesh:reason)%\n"
    )
    mapper.body_format_override.omit_empty_values = True
    return mapper


def router() -> hcm_pb2.HttpFilter:
    router = router_pb2.Router(suppress_envoy_headers=True)
    # Answers by status and time for each cluster, made anew at each request: `request_metrics` counts what is read.
    router.dynamic_stats.value = False
    return hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router))
