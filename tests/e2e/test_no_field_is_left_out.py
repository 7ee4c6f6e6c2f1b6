"""Each field of the kinds for traffic is asked for with real requests: in a table of these tests, or in another one."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from schemas.objects import AnyObject
from schemas.objects.common import Part
from schemas.objects.external import ExternalServiceSpec
from schemas.objects.gateway import GatewaySpec
from schemas.objects.grpc_route import GRPCRouteSpec
from schemas.objects.health import AppHealthCheck
from schemas.objects.http_route import HTTPRouteSpec
from schemas.objects.mesh import MeshSpec
from schemas.objects.rate_limit import RateLimitPolicySpec
from schemas.objects.service import ServiceSpec
from schemas.objects.tcp_route import TCPRouteSpec
from schemas.objects.telemetry import TelemetrySpec
from schemas.objects.traffic import BackendTrafficPolicySpec
from tests.e2e import (
    test_health,
    test_outside,
    test_policy_fields,
    test_retry_fields,
    test_route_fields,
    test_route_parents,
)
from tests.e2e.fields import fields_of, said_in
from tests.e2e.mesh import API, REPORTS, WEB

_ENVOYS = Path(__file__).parents[1] / "dataplane" / "compile"
SPECS: dict[str, type[Part]] = {
    "HTTPRoute": HTTPRouteSpec,
    "GRPCRoute": GRPCRouteSpec,
    "TCPRoute": TCPRouteSpec,
    "BackendTrafficPolicy": BackendTrafficPolicySpec,
    "RateLimitPolicy": RateLimitPolicySpec,
    "Gateway": GatewaySpec,
    "ExternalService": ExternalServiceSpec,
    "Service": ServiceSpec,
    "AppHealthCheck": AppHealthCheck,
    "Telemetry": TelemetrySpec,
    "Mesh": MeshSpec,
}


def objects() -> Iterable[AnyObject]:
    """All that the tables put into the mesh."""
    for table in (test_route_fields.TABLE, test_retry_fields.TABLE, test_retry_fields.BY_HTTP):
        yield from table.routes()
    yield from test_route_parents.UNREACHABLE.routes()
    yield from test_route_parents.HOSTS
    yield from test_route_parents.CONSUMERS
    yield from test_route_parents.TO_ANOTHER_NAMESPACE
    yield from test_route_parents.TCP_ROUTES
    yield from test_route_parents.REFUSING
    yield from test_outside.objects("192.0.2.1")
    yield from (WEB, API, REPORTS)
    yield from map(test_policy_fields.policy_of, test_policy_fields.CASES)
    yield from test_policy_fields.limits()


def _below(path: str, *fields: str) -> set[str]:
    return {f"{path}.{field}" for field in fields}


_BACKENDS, _LIMITS = "test_backends_envoy.py", "test_rate_limits_envoy.py"
_GATEWAY, _OUTSIDE, _ROUTES = "test_gateway_envoy.py", "test_outside_envoy.py", "test_routes_envoy.py"
_LOG, _TRACES = "test_access_log.py", "test_traces.py"
_JUDGED, _E2E = "../../authz/test_differential.py", "../../e2e"
_REFUSED = "../../routing/test_check.py::test_a_fault_has_the_path_of_its_field"
_NO_PARENT = "../../controlplane/domain/test_gateway_rules.py::test_routes_that_attach_nowhere"
_BREAKER, _HASH = "BackendTrafficPolicy.circuitBreaker", "BackendTrafficPolicy.loadBalancer.consistentHash"
_BALANCER, _ZONES = "BackendTrafficPolicy.loadBalancer", "BackendTrafficPolicy.loadBalancer.zoneAware"
_PASSIVE, _TIMEOUT = "BackendTrafficPolicy.healthCheck.passive", "BackendTrafficPolicy.timeout"
_TARGETS = ("targetRefs", "targetRefs.name", "targetRefs.kind=Service")
_LIMIT, _LISTENER = "RateLimitPolicy.rules", "Gateway.listeners"
_WORDS = ("path", "path.replaceFullPath", "path.replacePrefixMatch", "path.type=ReplaceFullPath",
          "path.type=ReplacePrefixMatch")  # fmt: skip

ELSEWHERE: dict[str, set[str]] = {
    # What a replica refuses reaches no request.
    _REFUSED: _below("HTTPRoute.rules.backendRefs.filters.urlRewrite", *_WORDS)
    | _below("GRPCRoute.rules.backendRefs.filters.urlRewrite", *_WORDS),
    _NO_PARENT: {"TCPRoute.parentRefs.kind=Gateway"},
    f"{_BACKENDS}::test_round_robin_takes_turns": {
        "BackendTrafficPolicy.loadBalancer",
        *_below("BackendTrafficPolicy", *_TARGETS),
        f"{_BALANCER}.type=RoundRobin",
    },
    f"{_BACKENDS}::test_random_does_not": {f"{_BALANCER}.type=Random"},
    f"{_BACKENDS}::test_least_request_spares_who_is_busy": {f"{_BALANCER}.type=LeastRequest"},
    f"{_BACKENDS}::test_who_is_new_gets_little_at_first": {f"{_BALANCER}.slowStart", f"{_BALANCER}.slowStart.window"},
    f"{_BACKENDS}::test_a_header_keeps_its_instance": {
        f"{_BALANCER}.type=ConsistentHash",
        _HASH,
        *_below(_HASH, "type=Header", "header", "header.name", "tableSize", "ringHash", "ringHash.minimumRingSize"),
    },
    f"{_BACKENDS}::test_a_cookie_is_given_and_kept": _below(
        _HASH, "type=Cookie", "cookie", "cookie.name", "cookie.ttl"
    ),
    f"{_BACKENDS}::test_a_source_keeps_its_instance": {f"{_HASH}.type=SourceIP"},
    f"{_BACKENDS}::test_requests_stay_in_the_zone_and_leave_it_when_it_fails": {
        _ZONES,
        *_below(_ZONES, "preferLocal", "preferLocal.force", "preferLocal.force.minEndpointsInZoneThreshold"),
    },
    f"{_BACKENDS}::test_a_zone_gives_away_what_is_too_much": _below(
        _ZONES, "preferLocal.minEndpointsThreshold", "preferLocal.percentageEnabled"
    ),
    f"{_BACKENDS}::test_time_outside_is_bounded": {f"{_PASSIVE}.maxEjectionTime"},
    f"{_BACKENDS}::test_failover_goes_from_zone_to_zone": _below(
        _ZONES, "failover", "failover.zones", "failover.zones.from", "failover.zones.to"
    ),
    f"{_BACKENDS}::test_parallel_requests": {_BREAKER, f"{_BREAKER}.maxParallelRequests"},
    f"{_BACKENDS}::test_connections_and_pending_requests": _below(_BREAKER, "maxConnections", "maxPendingRequests"),
    f"{_BACKENDS}::test_connections_of_an_instance": _below(_BREAKER, "perEndpoint", "perEndpoint.maxConnections"),
    f"{_BACKENDS}::test_streams_of_a_connection": _below("BackendTrafficPolicy", "http2", "http2.maxConcurrentStreams"),
    f"{_BACKENDS}::test_requests_of_a_connection": {f"{_BREAKER}.maxRequestsPerConnection"},
    f"{_BACKENDS}::test_retries": _below(
        _BREAKER, "maxParallelRetries", "retryBudget", "retryBudget.percent", "retryBudget.minRetryConcurrency"
    ),
    f"{_BACKENDS}::test_consecutive_5xx_errors": {
        "BackendTrafficPolicy.healthCheck",
        _PASSIVE,
        *_below(_PASSIVE, "consecutive5XxErrors", "maxEjectionPercent", "baseEjectionTime"),
    },
    f"{_BACKENDS}::test_consecutive_gateway_errors": {f"{_PASSIVE}.consecutiveGatewayErrors"},
    f"{_BACKENDS}::test_local_origin_failures": _below(
        _PASSIVE, "consecutiveLocalOriginFailures", "splitExternalLocalOriginErrors"
    ),
    f"{_BACKENDS}::test_success_rate": _below(
        _PASSIVE, "successRateStdevFactor", "successRateMinimumHosts", "successRateRequestVolume", "interval"
    ),
    f"{_BACKENDS}::test_failure_percentage": _below(
        _PASSIVE, "failurePercentageThreshold", "failurePercentageMinimumHosts", "failurePercentageRequestVolume"
    ),
    f"{_BACKENDS}::test_one_at_least_where_asked": {f"{_PASSIVE}.alwaysEjectOneEndpoint"},
    f"{_BACKENDS}::test_panic_calls_who_is_left_out": {"BackendTrafficPolicy.healthCheck.panicThreshold"},
    f"{_BACKENDS}::test_idle_connections_are_closed": {
        _TIMEOUT, *_below(_TIMEOUT, "http", "http.connectionIdleTimeout")
    },
    f"{_BACKENDS}::test_connections_end_after_a_time": {f"{_TIMEOUT}.http.maxConnectionDuration"},
    f"{_BACKENDS}::test_connect_timeout": _below(_TIMEOUT, "tcp", "tcp.connectTimeout"),
    f"{_BACKENDS}::test_keepalive": _below(
        "BackendTrafficPolicy", "tcpKeepalive", "tcpKeepalive.probes", "tcpKeepalive.idleTime", "tcpKeepalive.interval"
    ),
    f"{_LIMITS}::test_through_both_sidecars_http_grpc_and_tcp": {
        _LIMIT,
        *_below("RateLimitPolicy", *_TARGETS),
        *_below(_LIMIT, "limit", "limit.requests"),
    },
    f"{_LIMITS}::test_each_caller_has_a_bucket_and_is_told_what_is_left": _below(
        _LIMIT, "limit.unit=Hour", "per=Client"
    ),
    f"{_LIMITS}::test_all_callers_together": {f"{_LIMIT}.per=All"},
    f"{_LIMITS}::test_one_port_only": {f"{_LIMIT}.ports"},
    f"{_LIMITS}::test_some_callers_only": _below(_LIMIT, "from", "from.identities", "from.namespaces"),
    f"{_LIMITS}::test_only_what_matches_is_limited_and_told_so": _below(
        f"{_LIMIT}", "matches", "matches.path", "matches.path.value", "matches.path.type=Exact",
        "matches.path.type=PathPrefix", "matches.method", "matches.headers", "matches.headers.name",
        "matches.headers.value", "matches.headers.type=Exact",
    ),
    f"{_GATEWAY}::test_a_request_comes_in_by_the_gateways_own_identity": {
        *_below("Gateway", "service", "listeners"),
        *_below(_LISTENER, "name", "port", "protocol=HTTPS", "tls", "tls.mode=Terminate", "tls.certificateRefs",
                "tls.certificateRefs.certificate", "tls.certificateRefs.key"),
        "HTTPRoute.parentRefs.kind=Gateway",
    },
    f"{_GATEWAY}::test_grpc": {"GRPCRoute.parentRefs.kind=Gateway"},
    f"{_GATEWAY}::test_plain_http_is_sent_to_https": _below(_LISTENER, "protocol=HTTP", "tls.httpsRedirect"),
    f"{_GATEWAY}::test_host_names_of_listeners_and_routes": {f"{_LISTENER}.hostname"},
    f"{_GATEWAY}::test_proxies_in_front_are_believed_as_far_as_they_are_said_to_be": {"Gateway.xffTrustedHops"},
    f"{_GATEWAY}::test_who_may_attach": _below(
        f"{_LISTENER}.allowedRoutes", "kinds", "kinds.kind=GRPCRoute", "kinds.kind=HTTPRoute", "namespaces",
        "namespaces.from=All",
        "namespaces.from=Names", "namespaces.from=Same", "namespaces.names",
    ) | {f"{_LISTENER}.allowedRoutes"},
    f"{_OUTSIDE}::test_tls_begins_at_the_sidecar": {
        *_below("ExternalService", "hosts", "resolution=DNS", "tls.mode=SIMPLE"),
    },
    f"{_OUTSIDE}::test_a_host_that_moves": {"ExternalService.endpoints.ports"},
    f"{_OUTSIDE}::test_a_bound_port_and_routes": {"ExternalService.resolution=DNS_ROUND_ROBIN"},
    f"{_OUTSIDE}::test_a_server_is_verified": _below(
        "ExternalService.tls", "sni", "subjectAltNames", "caCertificates"
    ),
    f"{_OUTSIDE}::test_the_own_identity_is_shown": {"ExternalService.tls.mode=MUTUAL"},
    f"{_OUTSIDE}::test_a_certificate_from_files_is_shown": _below(
        "ExternalService.tls", "clientCertificate", "clientCertificate.certificate", "clientCertificate.key"
    ),
    f"{_OUTSIDE}::test_plain_and_opaque": {"ExternalService.ports.tls"},
    "../../e2e_federation/test_two_meshes.py::test_the_server_must_be_exactly_who_was_meant": _below(
        "ExternalService.tls", "mode=MESH", "spiffeId"
    ),
    f"{_E2E}/test_identities.py::test_a_rogue_endpoint_with_another_services_identity_is_refused": {
        "Service.dependencies.namespace"
    },
    f"{_E2E}/test_names.py::test_the_address_stands_in_the_object": _below(
        "Service", "virtualAddress", "virtualAddress.ipv4", "virtualAddress.ipv6"
    ),
    f"{_E2E}/test_names.py::test_every_protocol_by_name": _below("Mesh", "virtualAddresses", "virtualAddresses.ipv4"),
    f"{_E2E}/test_traffic.py::test_the_app_sees_its_caller_as_the_ca_attested_it": {"Mesh.trustDomain"},
    "test_real_envoy.py::test_nothing_is_allowed_without_a_policy": {"Mesh.authorization.defaultAction=DENY"},
    f"{_JUDGED}::test_the_offline_verdict_is_what_envoy_answers": _below("Mesh.authorization", "defaultAction=ALLOW")
    | {"Mesh.authorization"},
    f"{_JUDGED}::test_who_is_denied_is_told_by_which_rule_if_the_mesh_says_so": {"Mesh.denialHeader"},
    f"{_OUTSIDE}::test_everything_else_outside": _below(
        "Mesh", "outboundTrafficPolicy", "outboundTrafficPolicy.mode=ALLOW_ANY",
        "outboundTrafficPolicy.mode=REGISTRY_ONLY",
    ),
    f"{_LOG}::test_each_side_has_its_level": {
        *_below("Telemetry", *_TARGETS, "accessLogging"),
        *_below("Telemetry.accessLogging", "filter", "filter.minStatusCode", "match", "match.mode=CLIENT",
                "match.mode=SERVER"),
    },
    f"{_LOG}::test_slow_ones_alone": _below(
        "Telemetry.accessLogging", "filter.minDuration", "match.mode=CLIENT_AND_SERVER"
    ),
    f"{_LOG}::test_both_sides_sample_the_same_requests": {"Telemetry.accessLogging.randomSamplingPercentage"},
    f"{_LOG}::test_a_level_changes_on_open_connections": {"Telemetry.accessLogging.disabled"},
    "test_request_metrics.py::test_counting_is_switched_off_and_on_by_side": {
        "Telemetry.metrics",
        *_below("Telemetry.metrics", "disabled", "match", "match.mode=CLIENT", "match.mode=SERVER",
                "match.mode=CLIENT_AND_SERVER"),
    },
    f"{_TRACES}::test_both_sidecars_tell_of_a_request": {
        "Telemetry.tracing",
        *_below("Telemetry.tracing", "provider", "provider.address", "provider.protocol=grpc", "customTags",
                "customTags.name", "customTags.literal", "customTags.requestHeader"),
    },
    f"{_TRACES}::test_a_part_is_sampled": {"Telemetry.tracing.randomSamplingPercentage"},
    f"{_TRACES}::test_by_http": _below("Telemetry.tracing.provider", "protocol=http", "path"),
    f"{_TRACES}::test_nothing_is_exported_where_nothing_is_said": {"Telemetry.tracing.disabled"},
    f"{_TRACES}::test_to_a_collector_outside_of_the_mesh": _below(
        "Telemetry.tracing.provider.backendRef", "kind=ExternalService", "namespace"
    ),
    f"{_TRACES}::test_to_a_collector_by_the_ways_of_the_mesh": _below(
        "Telemetry.tracing.provider", "backendRef", "backendRef.kind=Service", "backendRef.name", "backendRef.port"
    ),
}  # fmt: skip
"""A test, from the folder of those with real Envoys -> fields that it is about."""


_NOT_ASKED = (
    "ExternalService.ports.tls.",  # as below ExternalService.tls: `tls_of` gives the one or the other
    "ExternalService.ports.identityHeader",  # as of a Service: the server's sidecar acts on it
    "Service.healthCheck",  # AppHealthCheck, above
    "Mesh.virtualAddresses.ipv6",  # hosts that run tests have no such network: a golden file has the addresses
    "Mesh.svidTtlSeconds",  # the CA's: no request goes by it
    "ExternalService.virtualAddress",  # a replica gives it, and keeps it: tests of names ask for that
)


def test_no_field_is_left_out() -> None:
    said = {path for one in objects() for path in said_in(type(one).__name__, one.spec)}
    for how in (test_health.CHECK, test_health.GRPC_CHECK, test_health.TCP_CHECK):
        said |= said_in("AppHealthCheck", msgspec.convert(how, AppHealthCheck))
    named = set().union(*ELSEWHERE.values())
    demanded = {
        path for kind, spec in SPECS.items() for path in fields_of(kind, spec) if not path.startswith(_NOT_ASKED)
    }
    left_out, unknown = sorted(demanded - said - named), sorted(named - demanded)
    assert not left_out, "fields that no test asks for: add a row, or name the test"
    assert not unknown, "there are no such fields"


@pytest.mark.parametrize("test", ELSEWHERE)
def test_there_is_such_a_test(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((_ENVOYS / file).resolve().read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
