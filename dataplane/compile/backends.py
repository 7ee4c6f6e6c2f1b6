"""What a BackendTrafficPolicy makes of a cluster: load balancing, limits, who is left out, connections.

Between sidecars it is HTTP/2, which takes less CPU a request than HTTP/1.1 (`make bench ARGS=upstream_protocol`), and
TCP goes in it as CONNECT. A TCP connection is a stream there, so a limit of connections is one of streams for a TCP
port. The exception is a port of HTTP/1.1 whose bytes the app's sidecar passes on (`ServicePort.passes_bytes`).
"""

from envoy.config.cluster.v3 import cluster_pb2, outlier_detection_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import duration_pb2

from dataplane.compile.hardening import http2_options
from dataplane.compile.passing import ROTATE_S
from dataplane.compile.tls import packed
from schemas.durations import milliseconds
from schemas.objects.service import ServicePort
from schemas.objects.traffic import (
    BackendTrafficPolicy,
    BackendTrafficPolicySpec,
    CircuitBreaker,
    LoadBalancer,
    PassiveHealthCheck,
    RetryBudget,
    SlowStart,
    TcpKeepalive,
    Timeout,
)

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

# What holds for a service without a policy.
_DEFAULT_SPEC = BackendTrafficPolicySpec(target_refs=())
# Retries at most a fifth of what is in flight: retrying never becomes the load that it answers to.
_DEFAULT_RETRY_BUDGET = RetryBudget()
# Without a policy only those are left out that no connection can be made to: a host that is gone stays in discovery
# for as long as its lease, and longer when many are lost at once. All of them may be left out; below the panic
# threshold they are called all the same. Back after five seconds, at most half a minute: a host that restarts is short
# of both. What an instance answers is the app's affair.
_UNREACHABLE_ONLY = PassiveHealthCheck(
    consecutive_5xx_errors=0,
    consecutive_local_origin_failures=5,
    split_external_local_origin_errors=True,
    interval="5s",
    base_ejection_time="5s",
    max_ejection_time="30s",
    max_ejection_percent=100,
)

_Cluster = cluster_pb2.Cluster
_Outliers = outlier_detection_pb2.OutlierDetection


def apply_policy(
    cluster: cluster_pb2.Cluster, port: ServicePort, policy: BackendTrafficPolicy | None, *, outside: bool = False
) -> None:
    """`policy`, or what holds without one, on the cluster of one port of its service.

    cluster: with one threshold that limits nothing. outside: no sidecar is at the other end.
    """
    spec = policy.spec if policy is not None else _DEFAULT_SPEC
    _load_balancing(cluster, spec.load_balancer)
    breaker = spec.circuit_breaker or CircuitBreaker()
    _limits(cluster, breaker, is_tcp=port.protocol == "tcp" and not outside)
    check = spec.health_check
    cluster.outlier_detection.CopyFrom(_outliers((check and check.passive) or _UNREACHABLE_ONLY))
    if check is not None and check.panic_threshold is not None:
        cluster.common_lb_config.healthy_panic_threshold.value = check.panic_threshold
    if spec.tcp_keepalive is not None:
        _keepalive(cluster, spec.tcp_keepalive)
    if spec.timeout is not None and spec.timeout.tcp is not None and spec.timeout.tcp.connect_timeout is not None:
        cluster.connect_timeout.CopyFrom(duration(spec.timeout.tcp.connect_timeout))
    streams = spec.http2.max_concurrent_streams if spec.http2 is not None else None
    if not outside or port.protocol != "tcp":
        http1 = port.protocol == "http" and (outside or port.passes_bytes)
        options = _options(spec.timeout or Timeout(), breaker.max_requests_per_connection, streams, http1=http1)
        if port.passes_bytes and not outside:
            asked = options.common_http_protocol_options.max_connection_duration.ToMilliseconds()
            longest = min(asked or ROTATE_S * 1000, ROTATE_S * 1000)
            options.common_http_protocol_options.max_connection_duration.FromMilliseconds(longest)
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(packed(options))


def duration(text: str) -> duration_pb2.Duration:
    result = duration_pb2.Duration()
    result.FromMilliseconds(milliseconds(text))
    return result


# -- load balancing


def _load_balancing(cluster: cluster_pb2.Cluster, balancer: LoadBalancer) -> None:
    match balancer.type:
        case "LeastRequest":
            cluster.lb_policy = _Cluster.LEAST_REQUEST
            _slow_start(cluster.least_request_lb_config, balancer.slow_start)
        case "RoundRobin":
            cluster.lb_policy = _Cluster.ROUND_ROBIN
            _slow_start(cluster.round_robin_lb_config, balancer.slow_start)
        case "Random":
            cluster.lb_policy = _Cluster.RANDOM
        case "ConsistentHash":
            _ring_or_maglev(cluster, balancer)
    if balancer.zone_aware is not None and balancer.zone_aware.prefer_local is not None:
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()  # the weights come with the endpoints


def _slow_start(
    config: cluster_pb2.Cluster.LeastRequestLbConfig | cluster_pb2.Cluster.RoundRobinLbConfig, asked: SlowStart | None
) -> None:
    if asked is not None:
        config.slow_start_config.slow_start_window.CopyFrom(duration(asked.window))


def _ring_or_maglev(cluster: cluster_pb2.Cluster, balancer: LoadBalancer) -> None:
    """What is hashed is the routes' to say (hashing.py)."""
    hashed = balancer.consistent_hash
    if hashed is not None and hashed.ring_hash is not None:
        cluster.lb_policy = _Cluster.RING_HASH
        cluster.ring_hash_lb_config.minimum_ring_size.value = hashed.ring_hash.minimum_ring_size
        cluster.ring_hash_lb_config.maximum_ring_size.value = hashed.ring_hash.maximum_ring_size
        return
    cluster.lb_policy = _Cluster.MAGLEV
    if hashed is not None and hashed.table_size is not None:
        cluster.maglev_lb_config.table_size.value = hashed.table_size


# -- limits


def _limits(cluster: cluster_pb2.Cluster, breaker: CircuitBreaker, *, is_tcp: bool) -> None:
    threshold = cluster.circuit_breakers.thresholds[0]
    requests = breaker.max_parallel_requests
    if is_tcp and breaker.max_connections is not None:
        requests = breaker.max_connections if requests is None else min(requests, breaker.max_connections)
    elif breaker.max_connections is not None:
        threshold.max_connections.value = breaker.max_connections
    if requests is not None:
        threshold.max_requests.value = requests
    if breaker.max_pending_requests is not None:
        threshold.max_pending_requests.value = breaker.max_pending_requests
    if breaker.max_parallel_retries is not None:
        threshold.max_retries.value = breaker.max_parallel_retries
    else:
        budget = breaker.retry_budget or _DEFAULT_RETRY_BUDGET
        threshold.retry_budget.budget_percent.value = budget.percent
        threshold.retry_budget.min_retry_concurrency.value = budget.min_retry_concurrency
    if breaker.per_endpoint is not None and breaker.per_endpoint.max_connections is not None:
        per_host = cluster.circuit_breakers.per_host_thresholds.add()
        per_host.max_connections.value = breaker.per_endpoint.max_connections


# -- who is left out


def _outliers(check: PassiveHealthCheck) -> outlier_detection_pb2.OutlierDetection:
    """Each condition is either enforced or off: nothing is left to Envoy's defaults."""
    found = _Outliers(
        interval=duration(check.interval),
        base_ejection_time=duration(check.base_ejection_time),
        split_external_local_origin_errors=check.split_external_local_origin_errors,
    )
    found.max_ejection_percent.value = check.max_ejection_percent
    found.always_eject_one_host.value = check.always_eject_one_endpoint
    longest = max(milliseconds(check.max_ejection_time or "300s"), milliseconds(check.base_ejection_time))
    found.max_ejection_time.FromMilliseconds(longest)
    _condition(found, "consecutive_5xx", check.consecutive_5xx_errors)
    _condition(found, "consecutive_gateway_failure", check.consecutive_gateway_errors)
    split = check.consecutive_local_origin_failures if check.split_external_local_origin_errors else 0
    _condition(found, "consecutive_local_origin_failure", split)
    _rates(found, check)
    return found


def _condition(outliers: outlier_detection_pb2.OutlierDetection, field: str, count: int) -> None:
    getattr(outliers, f"enforcing_{field}").value = 100 if count else 0
    if count:
        getattr(outliers, field).value = count


def _rates(outliers: outlier_detection_pb2.OutlierDetection, check: PassiveHealthCheck) -> None:
    both = check.split_external_local_origin_errors
    by_rate, by_percentage = check.success_rate_stdev_factor is not None, check.failure_percentage_threshold is not None
    outliers.enforcing_success_rate.value = 100 if by_rate else 0
    outliers.enforcing_local_origin_success_rate.value = 100 if by_rate and both else 0
    outliers.enforcing_failure_percentage.value = 100 if by_percentage else 0
    outliers.enforcing_failure_percentage_local_origin.value = 100 if by_percentage and both else 0
    if check.success_rate_stdev_factor is not None:
        outliers.success_rate_stdev_factor.value = check.success_rate_stdev_factor
        outliers.success_rate_minimum_hosts.value = check.success_rate_minimum_hosts
        outliers.success_rate_request_volume.value = check.success_rate_request_volume
    if check.failure_percentage_threshold is not None:
        outliers.failure_percentage_threshold.value = check.failure_percentage_threshold
        outliers.failure_percentage_minimum_hosts.value = check.failure_percentage_minimum_hosts
        outliers.failure_percentage_request_volume.value = check.failure_percentage_request_volume


# -- connections


def _keepalive(cluster: cluster_pb2.Cluster, keepalive: TcpKeepalive) -> None:
    options = cluster.upstream_connection_options.tcp_keepalive
    options.SetInParent()
    if keepalive.probes is not None:
        options.keepalive_probes.value = keepalive.probes
    if keepalive.idle_time is not None:
        options.keepalive_time.value = _whole_seconds(keepalive.idle_time)
    if keepalive.interval is not None:
        options.keepalive_interval.value = _whole_seconds(keepalive.interval)


def _whole_seconds(text: str) -> int:
    """Rounded up: the kernel counts in seconds, and takes no 0."""
    return -(-milliseconds(text) // 1000)


def _options(
    timeout: Timeout, requests: int | None, streams: int | None, *, http1: bool
) -> http_protocol_options_pb2.HttpProtocolOptions:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    if http1:
        options.explicit_http_config.http_protocol_options.SetInParent()
    else:
        http2 = options.explicit_http_config.http2_protocol_options
        http2.CopyFrom(http2_options())
        if streams is not None:
            http2.max_concurrent_streams.value = streams
    common = options.common_http_protocol_options
    if timeout.http is not None and timeout.http.connection_idle_timeout is not None:
        common.idle_timeout.CopyFrom(duration(timeout.http.connection_idle_timeout))
    if timeout.http is not None and timeout.http.max_connection_duration is not None:
        common.max_connection_duration.CopyFrom(duration(timeout.http.max_connection_duration))
    if requests is not None:
        common.max_requests_per_connection.value = requests
    return options
