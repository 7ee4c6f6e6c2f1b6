"""The access log: one JSON object a line, of what the filter lets through. docs/observability.md has the fields.

No query of a URL is logged, and no header but those named here: both may hold secrets.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Literal

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import substitution_format_string_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2

from dataplane.compile.log_filters import Carries, is_denial, is_limited, is_logged
from dataplane.compile.rate_limits import LIMITED_BY
from dataplane.compile.request_metrics import PLAINTEXT, request_metrics
from dataplane.compile.stamps import NAMESPACE
from dataplane.compile.telemetry import Side
from dataplane.compile.tls import packed
from dataplane.compile.workload import Workload

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

# Before the names of what shadow rules say, so that those of AUDIT policies and those of near misses don't mix.
NEAREST_PREFIX = "nearest_"
ALWAYS_NEAREST = "nearest"
"""In a route's metadata: what `NEAREST` says of all that no rule allowed."""
_SHADOW = f"{NEAREST_PREFIX}shadow_effective_policy_id"
_SAID = "metadata.filter_metadata['envoy.filters.http.rbac']"
_SAID_OF_ALL = f"xds.route_metadata.filter_metadata['{NAMESPACE}']['{ALWAYS_NEAREST}']"
# Of any other end there is no such key, and so no text.
NEAREST = (
    "%CEL({'rbac_access_denied_matched_policy[none]': "
    f"'{_SHADOW}' in {_SAID} ? {_SAID}['{_SHADOW}'] : {_SAID_OF_ALL}}}[response.code_details])%"
)
"""Which ALLOW rule came nearest, of a request that none allowed."""


def access_logs(
    workload: Workload,
    side: Side,
    *,
    http: bool,
    carries: Carries = "requests",
    port: int | None = None,
    plaintext: bool = False,
    revision: int | None = None,
) -> list[accesslog_pb2.AccessLog]:
    """For an HTTP connection manager, or for a TCP proxy, which carries connections alone: what is counted, and, but
    where the workload logs nowhere, the log.

    A function of what makes the listener in any case: what is said at run time goes by the runtime. port: of the own
    service, that HTTP comes in by. plaintext: of who shows no certificate. revision: by which connections are decided,
    where nothing that Envoy knows of them says it.
    """
    logs = request_metrics(workload, side, carries if http else "connections", plaintext=plaintext)
    if workload.access_log:
        own = str(workload.identity)
        one = partial(_access_log, workload.access_log, own, side, http=http, port=port, plaintext=plaintext)
        logs.append(one(revision=revision))
        if http and side == "server":
            logs.append(one(revision=revision, apart="denials"))
            logs.append(one(revision=revision, apart="limited", buckets=workload.samples))
    return logs


# A listener for each bound port: those of HTTP log alike; and two for each port of a service.
@lru_cache(maxsize=64)
def _access_log(
    path: str,
    own: str,
    side: Side,
    *,
    http: bool,
    port: int | None,
    plaintext: bool,
    revision: int | None,
    apart: Literal["denials", "limited"] | None = None,
    buckets: str = "",
) -> accesslog_pb2.AccessLog:
    """apart: of what was denied here, or beyond a limit; None: of all else. Each has a field that costs the others
    nothing. buckets: as of `is_limited`."""
    file = file_pb2.FileAccessLog(path=path)
    fields: dict[str, str | int] = {**_fields(own, side, http=http)}
    if plaintext:
        fields["source"] = PLAINTEXT
    if port is not None:
        fields["port"] = port  # not by metadata of the route, which would be looked up at each request
    if revision is not None:
        fields["revision"] = revision
    if apart == "denials":
        fields["nearest"] = NEAREST
    elif apart == "limited":
        fields["rate_limit"] = LIMITED_BY
    file.log_format.CopyFrom(_format(fields))
    log = accesslog_pb2.AccessLog(name="envoy.access_loggers.file", typed_config=packed(file))
    if apart == "denials":
        is_denial(log.filter, side)
    elif apart == "limited":
        is_limited(log.filter, side, buckets)
    else:
        is_logged(log.filter, side, http=http)
    return log


def _fields(own: str, side: Side, *, http: bool) -> dict[str, str]:
    """own: the workload's SPIFFE ID."""
    fields = {**_ALWAYS, "side": side}
    if http:
        fields |= _HTTP | (_CLIENT_HTTP if side == "client" else _SERVER_HTTP)
    if side == "client":
        return fields | _CLIENT | {"source": own}
    return fields | _SERVER | {"destination": own}


def _format(fields: Mapping[str, str | int]) -> substitution_format_string_pb2.SubstitutionFormatString:
    made = substitution_format_string_pb2.SubstitutionFormatString(omit_empty_values=True)
    made.json_format.update(fields)
    return made
