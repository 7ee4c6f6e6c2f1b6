"""A rule ▸ what Envoy does with the requests that it is for: send them somewhere, redirect them, refuse them.

What leads to nothing that exists still has a cluster, without an instance (`clusters.missing_name`): its share of the
requests is answered 503 with the reason, and never given to the other backends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf import duration_pb2, wrappers_pb2

from dataplane.compile import clusters, unserved
from dataplane.compile.hashing import hash_of, hash_route
from dataplane.compile.outside import host_of
from dataplane.compile.route_filters import (
    Way,
    apply_filters,
    header_modifier,
    keep_backend,
    kept_backend,
    redirect_of,
    session_config,
)
from dataplane.compile.route_match import route_match
from dataplane.compile.tcp_times import time_route
from dataplane.compile.tls import packed
from dataplane.snapshot.state import MeshState
from routing.backends import Backend, Target, backends_of, is_outside, mirrors_of, target_of
from routing.table import Entry, Table
from schemas.durations import milliseconds
from schemas.names import ServiceRef
from schemas.objects.route_filters import BackendFilter, RequestMirror
from schemas.objects.route_parts import Retry, Timeouts
from schemas.objects.tcp_route import TCPRouteRule
from schemas.objects.traffic import BackendTrafficPolicy

Route = route_components_pb2.Route
RouteAction = route_components_pb2.RouteAction

# Only what never reached an app is tried again, so that it is safe for every method: no connection, a stream refused
# by a draining peer, a reset before the request was sent.
RETRY_ON = ("connect-failure", "refused-stream", "reset-before-request")
RETRIES = 2
# How often Envoy draws again when it drew an instance that has been tried; the last draw counts, whatever it is.
# Least-request takes the one with less to do of two that it draws: of two instances the dead one, which is idle, in
# three draws of four while the other is busy. 33 such draws in a row are 0.75^33, one retry in 13,000.
RESELECTIONS = 32
# What a rule that asks for retries means beside its codes: Gateway API's "connection errors" (HTTPRouteRetry).
_CONNECTION_ERRORS = ("reset",)
# Conditions of Envoy's that a lost connection meets. Of a gRPC call the called side's own answer to one is no 5xx.
_LOST = {"reset", "5xx", "gateway-error"}
_MILLION = 1_000_000


def http_routes(state: MeshState, table: Table, *, by_host: bool = False) -> list[route_components_pb2.Route]:
    """The routes of one HTTP port, first match first; what none of them matches is answered 404.

    by_host: for requests that name one of the `hosts` of an ExternalService, which is what its server expects.
    """
    if not table.routed:
        return [plain_route(state, table, by_host=by_host)]
    names = ", ".join(dict.fromkeys(str(entry.route) for entry in table.entries))
    refused = Route(name="no rule matches", match=route_components_pb2.RouteMatch(prefix="/"))
    refused.direct_response.status = 404
    refused.direct_response.body.inline_string = f"no rule of {names} matches\n"
    kept = table.service if by_host else None
    found = [one for entry in table.entries for one in _routes(state, entry, Way("http", table.port.port), kept)]
    return [*found, refused]


def gateway_routes(state: MeshState, entries: Sequence[Entry], way: Way) -> list[route_components_pb2.Route]:
    """The routes of a gateway's listener, first match first."""
    return [one for entry in entries for one in _routes(state, entry, way, None)]


def plain_route(state: MeshState, table: Table, *, by_host: bool = False) -> route_components_pb2.Route:
    """Everything to the service itself."""
    route = Route(match=route_components_pb2.RouteMatch(prefix="/"))
    route.route.cluster = clusters.outbound_name(table.service, table.port.port)
    host = host_of(state.destination(table.service), table.port.port)
    if host is not None and not by_host:
        route.route.host_rewrite_literal = host
    route.route.timeout.CopyFrom(duration_pb2.Duration())  # no limit that nobody asked for
    own = Target(table.service, table.port.port)
    route.route.retry_policy.CopyFrom(retry_policy(told=sidecars_tell(state, [own])))
    hash_route(route.route, state.traffic_policy(table.service))
    return route


def tcp_action(state: MeshState, table: Table) -> route_components_pb2.RouteAction:
    """For the CONNECT that a TCP connection travels in."""
    found = tcp_backends(state, table)
    told = sidecars_tell(state, [one.target for one in found])
    action = RouteAction(timeout=duration_pb2.Duration(), retry_policy=retry_policy(told=told))
    send_to(action, [Share(clusters.name_of(one.target), one.weight) for one in found])
    upgrade = action.upgrade_configs.add(upgrade_type="CONNECT")
    if lead_outside(state, found):
        upgrade.connect_config.SetInParent()  # it ends here; else the tunnel goes on to the other sidecar
    policy = state.traffic_policy(found[0].target.service)
    hash_route(action, policy, is_tcp=True)
    time_route(action, policy)
    return action


def lead_outside(state: MeshState, backends: Sequence[Backend]) -> bool:
    """Of a TCP port: whether those of its backends that exist are outside of the mesh; all are, or none."""
    return any(is_outside(one.target, state.destination) for one in backends)


def tcp_backends(state: MeshState, table: Table) -> tuple[Backend, ...]:
    """Where the connections to a TCP port go; never empty."""
    own = Backend(0, Target(table.service, table.port.port), 1)
    if not table.routed:
        return (own,)
    entry = table.entries[0]
    found = backends_of(entry.rule, entry.route.namespace, state.destination)
    reason = f"{entry} sends nothing anywhere: all weights are 0"
    return found or (Backend(0, Target(table.service, table.port.port, missing=reason), 1),)


def hashing(state: MeshState, backends: Iterable[Backend]) -> BackendTrafficPolicy | None:
    """One route has one hash: that of the first backend that has any."""
    policies = (state.traffic_policy(one.target.service) for one in backends)
    return next((policy for policy in policies if hash_of(policy) is not None), None)


@dataclass(frozen=True, slots=True)
class Share:
    """weight: above 0. host: what is sent as `Host`; None: what the caller wrote."""

    cluster: str
    weight: int
    filters: Sequence[BackendFilter] = ()
    host: str | None = None


def send_to(action: route_components_pb2.RouteAction, shares: Sequence[Share]) -> None:
    if len(shares) == 1 and not shares[0].filters:
        action.cluster = shares[0].cluster
        if shares[0].host is not None:
            action.host_rewrite_literal = shares[0].host
        return
    for given in shares:
        weight = wrappers_pb2.UInt32Value(value=given.weight)
        share = action.weighted_clusters.clusters.add(name=given.cluster, weight=weight)
        if given.host is not None:
            share.host_rewrite_literal = given.host
        for one in given.filters:
            if one.url_rewrite is not None and one.url_rewrite.hostname is not None:
                share.host_rewrite_literal = one.url_rewrite.hostname
            header_modifier(share, one)


def sidecars_tell(state: MeshState, targets: Iterable[Target]) -> bool:
    """Whether of all of these a sidecar reads the answers, and takes away what an app says in a sidecar's name.

    Those of another mesh are believed where an `ExternalService` says that they are there (`tls.mode: MESH`).
    """
    return all(one.missing or _sidecar_reads(state, one) for one in targets)


def _sidecar_reads(state: MeshState, target: Target) -> bool:
    found = state.destination(target.service)
    passing = found is not None and any(one.port == target.port and one.passes_bytes for one in found.spec.ports)
    return not passing and not is_outside(target, state.destination)


def retry_policy(
    retry: Retry | None = None, timeouts: Timeouts | None = None, *, told: bool
) -> route_components_pb2.RetryPolicy:
    """What never reached an app is always tried again; beside it what `retry` says.

    told: whether to believe answers that say how far a request came (`unserved`); only where sidecars alone can.
    """
    conditions = [*RETRY_ON, *(["retriable-headers"] if told else [])]
    policy = route_components_pb2.RetryPolicy(
        num_retries=wrappers_pb2.UInt32Value(value=RETRIES), host_selection_retry_max_attempts=RESELECTIONS
    )
    elsewhere = policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
    elsewhere.typed_config.CopyFrom(packed(previous_hosts_pb2.PreviousHostsPredicate()))
    if retry is not None:
        policy.num_retries.value = retry.attempts
        conditions += retry.triggers or _CONNECTION_ERRORS
        if retry.codes:
            conditions.append("retriable-status-codes")
            policy.retriable_status_codes.extend(sorted(set(retry.codes)))
        if retry.backoff is not None or retry.max_backoff is not None:
            base = milliseconds(retry.backoff or "25ms")
            longest = milliseconds(retry.max_backoff) if retry.max_backoff is not None else 10 * base
            policy.retry_back_off.base_interval.FromMilliseconds(base)
            policy.retry_back_off.max_interval.FromMilliseconds(longest)
    if timeouts is not None and timeouts.backend_request is not None:
        limit = milliseconds(timeouts.backend_request)
        if limit:
            policy.per_try_timeout.FromMilliseconds(limit)
    if told:
        policy.retriable_headers.extend(unserved.retriable(reset=not _LOST.isdisjoint(conditions)))
    policy.retry_on = ",".join(dict.fromkeys(conditions))
    return policy


# -- one entry


def _routes(state: MeshState, entry: Entry, way: Way, kept: ServiceRef | None) -> list[route_components_pb2.Route]:
    """One; before it, where sessions are kept among several backends, one for the sessions of each of them.

    kept: whose `Host` the request has already.
    """
    route = _route(state, entry, way, kept)
    session = None if isinstance(entry.rule, TCPRouteRule) else entry.rule.session_persistence
    shares = list(route.route.weighted_clusters.clusters) if route.HasField("route") else []
    if session is None or len(shares) < 2:
        return [route]
    found = []
    for share in shares:
        one = Route()
        one.CopyFrom(route)
        one.name += f" of {share.name}"
        one.match.headers.append(kept_backend(share.name, session))
        one.route.weighted_clusters.Clear()
        one.route.weighted_clusters.clusters.append(share)
        found.append(one)
    for share in route.route.weighted_clusters.clusters:
        keep_backend(share, session)
    return [*found, route]


def _route(state: MeshState, entry: Entry, way: Way, kept: ServiceRef | None) -> route_components_pb2.Route:
    rule = entry.rule
    assert not isinstance(rule, TCPRouteRule)  # noqa: S101  (a TCP port has no HTTP routes)
    kind = "preflight" if entry.preflight else "match"
    route = Route(name=f"{entry} {kind} {entry.match_index}", match=route_match(entry.condition))
    redirect = next((found for one in rule.filters if (found := getattr(one, "request_redirect", None))), None)
    backends = backends_of(rule, entry.route.namespace, state.destination)
    if redirect is not None:
        route.redirect.CopyFrom(redirect_of(redirect, entry.condition.path, way))
    elif not backends:
        # Gateway API: 500 where no backend is left.
        route.direct_response.status = 500
        route.direct_response.body.inline_string = f"{entry} sends nothing anywhere: all weights are 0\n"
    else:
        _forward(state, entry, route.route, backends, kept)
    apply_filters(route, rule.filters, entry.condition.path)
    if rule.session_persistence is not None and backends:
        session_config(route, rule.session_persistence)
    return route


def _forward(
    state: MeshState,
    entry: Entry,
    action: route_components_pb2.RouteAction,
    backends: Sequence[Backend],
    kept: ServiceRef | None,
) -> None:
    rule = entry.rule
    assert not isinstance(rule, TCPRouteRule)  # noqa: S101  (a TCP port has no HTTP routes)
    rewritten = any((found := getattr(one, "url_rewrite", None)) and found.hostname for one in rule.filters)
    shares = []
    for one in backends:
        service = one.target.service
        is_written = rewritten or service == kept
        host = None if is_written else host_of(state.destination(service), one.target.port)
        shares.append(Share(clusters.name_of(one.target), one.weight, one.filters, host))
    send_to(action, shares)
    whole = milliseconds(rule.timeouts.request) if rule.timeouts.request is not None else 0
    action.timeout.CopyFrom(duration_pb2.Duration())  # no limit that nobody asked for
    action.timeout.FromMilliseconds(whole)
    told = sidecars_tell(state, [one.target for one in backends])
    action.retry_policy.CopyFrom(retry_policy(rule.retry, rule.timeouts, told=told))
    hash_route(action, hashing(state, backends))
    for _, mirror in mirrors_of(rule):
        target = target_of(mirror.backend_ref, entry.route.namespace, state.destination)
        if target.missing:
            continue
        copy = action.request_mirror_policies.add(cluster=clusters.name_of(target))
        copy.runtime_fraction.default_value.CopyFrom(_mirrored(mirror))
        # A copy has the `Host` of what it is a copy of: policies and servers tell requests by it. Envoy adds "-shadow".
        copy.disable_shadow_host_suffix_append = True
        host = host_of(state.destination(target.service), target.port)
        as_written = target.service == kept and all(one.host is None for one in shares)
        if host is not None and not rewritten and not as_written:
            copy.host_rewrite_literal = host


def _mirrored(mirror: RequestMirror) -> percent_pb2.FractionalPercent:
    share = 1.0
    if mirror.percent is not None:
        share = mirror.percent / 100
    elif mirror.fraction is not None:
        share = mirror.fraction.numerator / mirror.fraction.denominator
    return percent_pb2.FractionalPercent(
        numerator=round(share * _MILLION), denominator=percent_pb2.FractionalPercent.MILLION
    )
