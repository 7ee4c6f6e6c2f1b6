"""A cluster of Envoy's ▸ who is there, its limits, whom it leaves out, and its connections, in words. Pure."""

from collections.abc import Iterator
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from dataplane.compile.backends import HTTP_OPTIONS
from dataplane.compile.clusters import CONNECT_TIMEOUT_S, NO_LIMIT
from dataplane.inspection.differ import placed_addresses
from dataplane.inspection.numbers import span

_LIMITS = {
    "max_connections": "connections",
    "max_pending_requests": "requests that wait",
    "max_requests": "requests at once",
    "max_retries": "retries at once",
}
# Who is left out: Envoy's conditions, with the field of what they count.
_CONDITIONS = {
    "consecutive_5xx": "{} times 5xx in a row",
    "consecutive_gateway_failure": "{} times 502, 503 or 504 in a row",
    "consecutive_local_origin_failure": "{} times no connection in a row",
}


def cluster_words(cluster: Any) -> Iterator[str]:
    yield ", ".join(_who(cluster))
    for text in (", ".join(_limits(cluster)), _left_out(cluster), ", ".join(_connections(cluster))):
        if text:
            yield text


def _who(cluster: Any) -> Iterator[str]:
    yield _protocol(cluster)
    yield cluster_pb2.Cluster.LbPolicy.Name(cluster.lb_policy)
    if cluster.HasField("transport_socket"):
        context = tls_pb2.UpstreamTlsContext.FromString(cluster.transport_socket.typed_config.value)
        yield _tls(context.common_tls_context)
    if cluster.type in (cluster_pb2.Cluster.STRICT_DNS, cluster_pb2.Cluster.LOGICAL_DNS):
        yield f"at what {', '.join(placed_addresses(cluster.load_assignment))} is in DNS"
    if cluster.type == cluster_pb2.Cluster.STATIC and not cluster.HasField("cluster_type"):
        yield f"at {', '.join(placed_addresses(cluster.load_assignment)) or 'no address'}"
    if cluster.HasField("cluster_type"):
        yield "at whatever address the request names"
    reason = cluster.metadata.filter_metadata["mesh"].fields["reason"].string_value
    if reason:
        yield reason


def _tls(context: Any) -> str:
    inside = context.HasField("combined_validation_context")
    validation = (
        context.combined_validation_context.default_validation_context if inside else context.validation_context
    )
    names = ", ".join(one.matcher.exact for one in validation.match_typed_subject_alt_names)
    if inside:
        return f"mTLS with exactly {names}"
    by = (
        f"the authorities in {validation.trusted_ca.filename}"
        if validation.trusted_ca.filename
        else "given authorities"
    )
    shows = "".join(f", shows {one.name}" for one in context.tls_certificate_sds_secret_configs)
    return f"TLS with {names}, verified by {by}{shows}"


def _options(cluster: Any) -> http_protocol_options_pb2.HttpProtocolOptions:
    return http_protocol_options_pb2.HttpProtocolOptions.FromString(
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].value
    )


def _protocol(cluster: Any) -> str:
    if HTTP_OPTIONS not in cluster.typed_extension_protocol_options:
        return "HTTP/1.1 or bytes"
    options = _options(cluster)
    if options.HasField("explicit_http_config"):
        return "HTTP/2" if options.explicit_http_config.HasField("http2_protocol_options") else "HTTP/1.1"
    return "the caller's HTTP"


def _limits(cluster: Any) -> Iterator[str]:
    for threshold in cluster.circuit_breakers.thresholds:
        for field, what in _LIMITS.items():
            if threshold.HasField(field) and getattr(threshold, field).value != NO_LIMIT:
                yield f"at most {getattr(threshold, field).value} {what}"
        if threshold.HasField("retry_budget"):
            budget = threshold.retry_budget
            least = budget.min_retry_concurrency.value
            yield f"retries at most {budget.budget_percent.value:g} % of what is under way, and {least} in any case"
    for threshold in cluster.circuit_breakers.per_host_thresholds:
        yield f"at most {threshold.max_connections.value} connections to each instance"
    if cluster.common_lb_config.HasField("healthy_panic_threshold"):
        least = cluster.common_lb_config.healthy_panic_threshold.value
        yield f"all are called with fewer than {least:g} % of them well"


def _left_out(cluster: Any) -> str:
    outliers = cluster.outlier_detection
    found = [
        text.format(getattr(outliers, field).value)
        for field, text in _CONDITIONS.items()
        if getattr(outliers, f"enforcing_{field}").value
    ]
    if outliers.enforcing_success_rate.value:
        found.append(f"success rate {outliers.success_rate_stdev_factor.value / 1000:g} deviations below the mean")
    if outliers.enforcing_failure_percentage.value:
        found.append(f"{outliers.failure_percentage_threshold.value} % failures")
    if not found:
        return ""
    how_long = f"{span(outliers.base_ejection_time)} to {span(outliers.max_ejection_time)}"
    return f"left out for {how_long}: {' or '.join(found)}; at most {outliers.max_ejection_percent.value} % of them"


def _connections(cluster: Any) -> Iterator[str]:
    if cluster.connect_timeout.ToMilliseconds() != CONNECT_TIMEOUT_S * 1000:
        yield f"connected within {span(cluster.connect_timeout)}"
    if cluster.upstream_connection_options.HasField("tcp_keepalive"):
        keepalive = cluster.upstream_connection_options.tcp_keepalive
        parts = (
            (keepalive.keepalive_time, "after {} s"),
            (keepalive.keepalive_interval, "each {} s"),
            (keepalive.keepalive_probes, "{} probes"),
        )
        said = ", ".join(text.format(one.value) for one, text in parts if one.value)
        yield f"TCP keep-alive ({said or 'as the kernel has it'})"
    if HTTP_OPTIONS not in cluster.typed_extension_protocol_options:
        return
    common = _options(cluster).common_http_protocol_options
    if common.HasField("idle_timeout"):
        yield f"connections closed after {span(common.idle_timeout)} without a request"
    if common.HasField("max_connection_duration"):
        yield f"replaced after {span(common.max_connection_duration)}"
    if common.HasField("max_requests_per_connection"):
        yield f"replaced after {common.max_requests_per_connection.value} requests"
