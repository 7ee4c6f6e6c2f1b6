"""The access log: one JSON object a line, of what the filter lets through. docs/observability.md has the fields.

No query of a URL is logged, and no header but those named here: both may hold secrets.
"""

from collections.abc import Mapping
from functools import lru_cache

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import substitution_format_string_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as entry_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2

from dataplane.compile.stamps import NAMESPACE
from dataplane.compile.telemetry import LogLevel, Side, log_key
from dataplane.compile.tls import packed
from dataplane.compile.workload import Workload

_Comparison = accesslog_pb2.ComparisonFilter
_Grpc = accesslog_pb2.GrpcStatusFilter
# gRPC statuses that stand for a 5xx: none of them is the caller's fault (google.rpc.Code's HTTP mapping).
_GRPC_FAILURES = (
    _Grpc.UNKNOWN, _Grpc.DEADLINE_EXCEEDED, _Grpc.UNIMPLEMENTED, _Grpc.INTERNAL, _Grpc.UNAVAILABLE, _Grpc.DATA_LOSS,
)  # fmt: skip

# Envoy's response flags, but for those of whom a caller has itself to thank (it went away: DC, DR; rate limits) and of
# failures on purpose (DI, FI). A tunnel that its client closes first ends with DC.
_FAILURES = (
    "UH", "UF", "UO", "NR", "NC", "URX", "UT", "LR", "UR", "UC", "UPE", "UMSDR", "DPE", "SI", "IH", "NFCF", "DT", "OM",
    "DF",
)  # fmt: skip

_ALWAYS = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "duration_ms": "%DURATION%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "downstream": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "upstream": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "termination": "%CONNECTION_TERMINATION_DETAILS%",
}
_HTTP = {
    "protocol": "%PROTOCOL%",
    "method": "%REQ(:METHOD)%",
    "authority": "%REQ(:AUTHORITY)%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "request_ms": "%REQUEST_DURATION%",
    "response_ms": "%RESPONSE_DURATION%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace_id": "%TRACE_ID%",
    "route": "%ROUTE_NAME%",
    "revision": f"%METADATA(VIRTUAL_HOST:{NAMESPACE}:revision)%",
}
_CLIENT = {
    "destination": f"%METADATA(CLUSTER:{NAMESPACE}:destination)%",
    "traffic_policy": f"%METADATA(CLUSTER:{NAMESPACE}:traffic_policy)%",
}
_CLIENT_HTTP = {"path": "%PATH(NQ:ORIG_OR_PATH)%"}
_SERVER = {"source": "%DOWNSTREAM_PEER_URI_SAN%"}
_SERVER_HTTP = {
    # As the app sees it. What a peer claims to have had before rewriting is not for us to repeat.
    "path": "%PATH(NQ:PATH)%",
    "authorization_audit": "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)%",
    "authorization_policy": "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%",
}


def access_logs(workload: Workload, side: Side, *, http: bool) -> list[accesslog_pb2.AccessLog]:
    """For an HTTP connection manager, or a TCP proxy; none where the workload logs nowhere.

    A function of the workload's settings alone: what is said at run time goes by the runtime.
    """
    if not workload.access_log:
        return []
    return [_access_log(workload.access_log, str(workload.identity), side, http=http)]


@lru_cache(maxsize=8)  # a listener for each bound port; all of them log alike
def _access_log(path: str, own: str, side: Side, *, http: bool) -> accesslog_pb2.AccessLog:
    file = file_pb2.FileAccessLog(path=path)
    file.log_format.CopyFrom(_format(_fields(own, side, http=http)))
    log = accesslog_pb2.AccessLog(name="envoy.access_loggers.file", typed_config=packed(file))
    log.filter.CopyFrom(_filter(side))
    return log


def _fields(own: str, side: Side, *, http: bool) -> dict[str, str]:
    """own: the workload's SPIFFE ID."""
    fields = {**_ALWAYS, "side": side}
    if http:
        fields |= _HTTP | (_CLIENT_HTTP if side == "client" else _SERVER_HTTP)
    if side == "client":
        return fields | _CLIENT | {"source": own}
    return fields | _SERVER | {"destination": own}


def _format(fields: Mapping[str, str]) -> substitution_format_string_pb2.SubstitutionFormatString:
    made = substitution_format_string_pb2.SubstitutionFormatString(omit_empty_values=True)
    made.json_format.update(fields)
    return made


def _filter(side: Side) -> accesslog_pb2.AccessLogFilter:
    """At its end, sampled, and one of: failed, above a status, slow."""
    default = LogLevel()
    result = accesslog_pb2.AccessLogFilter()
    end, sampled, chosen = (result.and_filter.filters.add() for _ in range(3))
    # What lasts is also told of while it is open, to the agent: open_streams.
    end.log_type_filter.types.extend([entry_pb2.DownstreamEnd, entry_pb2.TcpConnectionEnd])
    sampled.runtime_filter.runtime_key = log_key(side, "sampled")
    sampled.runtime_filter.percent_sampled.numerator = default.sampled
    reasons = chosen.or_filter.filters
    status = reasons.add().status_code_filter.comparison
    status.op, status.value.default_value = _Comparison.GE, default.min_status
    status.value.runtime_key = log_key(side, "min_status")
    duration = reasons.add().duration_filter.comparison
    duration.op, duration.value.default_value = _Comparison.GE, default.min_duration_ms
    duration.value.runtime_key = log_key(side, "min_duration_ms")
    reasons.add().response_flag_filter.flags.extend(_FAILURES)
    # What is no gRPC has a gRPC status of its HTTP one for Envoy, a 200 that of a failure.
    is_grpc = reasons.add().and_filter
    content_type = is_grpc.filters.add().header_filter.header
    content_type.name, content_type.string_match.prefix = "content-type", "application/grpc"
    is_grpc.filters.add().grpc_status_filter.statuses.extend(_GRPC_FAILURES)
    return result
