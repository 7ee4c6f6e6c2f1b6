"""Filters of access logs: which requests and connections a log, or a metric that is kept like one, is about."""

from typing import Literal

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as entry_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2

from dataplane.compile.buckets import takes_token
from dataplane.compile.telemetry import LogLevel, Side, log_key, metrics_key
from dataplane.compile.tls import packed

Carries = Literal["requests", "connections", "both"]
"""What comes through a listener. A connection is one of bytes, or an HTTP CONNECT."""

# Details of Envoy's JWT filter; and of the route that answers what is not of a token's form (tokens).
_BY_TOKENS = 'response.code_details.startsWith("jwt_authn_access_denied") || response.code_details == "direct_response"'
_BY_LIMITS = 'response.code_details == "local_rate_limited"'
_LIMITED = "RL"  # Envoy's response flag

_Comparison = accesslog_pb2.ComparisonFilter
_Grpc = accesslog_pb2.GrpcStatusFilter
# gRPC statuses that stand for a 5xx: none of them is the caller's fault (google.rpc.Code's HTTP mapping).
_GRPC_FAILURES = (
    _Grpc.UNKNOWN, _Grpc.DEADLINE_EXCEEDED, _Grpc.UNIMPLEMENTED, _Grpc.INTERNAL, _Grpc.UNAVAILABLE, _Grpc.DATA_LOSS,
)  # fmt: skip

# What may be a denial, or refused by a limit, by its status, which is the cheapest to ask for: Envoy takes 400, 401
# and 403, and 429, for these.
_DENIALS = (_Grpc.INTERNAL, _Grpc.UNAUTHENTICATED, _Grpc.PERMISSION_DENIED)
_LIMITS = (_Grpc.UNAVAILABLE, _Grpc.RESOURCE_EXHAUSTED)

# Envoy's response flags, but for those of whom a caller has itself to thank (it went away: DC, DR; rate limits) and of
# failures on purpose (DI, FI). A tunnel that its client closes first ends with DC.
_FAILURES = (
    "UH", "UF", "UO", "NR", "NC", "URX", "UT", "LR", "UR", "UC", "UPE", "UMSDR", "DPE", "SI", "IH", "NFCF", "DT", "OM",
    "DF",
)  # fmt: skip


def at_its_end(into: accesslog_pb2.AccessLogFilter) -> None:
    """What lasts is also told of while it is open, to the agent: open_streams."""
    into.log_type_filter.types.extend([entry_pb2.DownstreamEnd, entry_pb2.TcpConnectionEnd])


def is_logged(into: accesslog_pb2.AccessLogFilter, side: Side, *, http: bool) -> None:
    """At its end, what is sampled and one of: failed, above a status, slow. Not what `is_denial` and `is_limited` are
    about.

    Each look into the runtime costs the request. Where everything is logged, one says so; where little is, most
    requests have no reason, and are not asked whether they are sampled.
    """
    default = LogLevel()
    end, chosen = (into.and_filter.filters.add() for _ in range(2))
    at_its_end(end)
    everything, some = (chosen.or_filter.filters.add() for _ in range(2))
    _share(everything, log_key(side, "everything"), default.everything)
    reasons = some.and_filter.filters.add().or_filter.filters
    status = reasons.add().status_code_filter.comparison
    status.op, status.value.default_value = _Comparison.GE, default.min_status
    status.value.runtime_key = log_key(side, "min_status")
    duration = reasons.add().duration_filter.comparison
    duration.op, duration.value.default_value = _Comparison.GE, default.min_duration_ms
    duration.value.runtime_key = log_key(side, "min_duration_ms")
    _broke(reasons.add(), reasons.add())
    _share(some.and_filter.filters.add(), log_key(side, "sampled"), default.some)
    if http and side == "server":
        _is_no_denial(into.and_filter.filters.add())


def _share(into: accesslog_pb2.AccessLogFilter, key: str, default: int) -> None:
    """Per cent of requests: by the request's id, where that is a UUID."""
    into.runtime_filter.runtime_key = key
    into.runtime_filter.percent_sampled.numerator = default


def _all_or_none(into: accesslog_pb2.AccessLogFilter, key: str) -> None:
    """0 or 100 per cent: of chance, since to read the request's id costs more."""
    _share(into, key, 100)
    into.runtime_filter.use_independent_randomness = True


def is_denial(into: accesslog_pb2.AccessLogFilter, side: Side) -> None:
    """At its end, what the rules of this sidecar refused, or for a path that no policy is asked about, or for a bad
    token. Not sampled: somebody will ask why."""
    end, asked, reasons, enabled = (into.and_filter.filters.add() for _ in range(4))
    at_its_end(end)
    asked.grpc_status_filter.statuses.extend(_DENIALS)
    denied_here(reasons.or_filter.filters.add())
    _by_details(reasons.or_filter.filters.add(), _BY_TOKENS)
    _all_or_none(enabled, log_key(side, "denied"))


def is_limited(into: accesslog_pb2.AccessLogFilter, side: Side, buckets: str) -> None:
    """At its end, what a rate limit of this sidecar refused: what is asked for, and, where it has the directory
    `buckets`, some of it in any case. Not all: a caller may go on for days, and each line drives another one out."""
    limited, end, enabled, chosen = (into.and_filter.filters.add() for _ in range(4))
    limited.response_flag_filter.flags.append(_LIMITED)
    at_its_end(end)
    _all_or_none(enabled, log_key(side, "denied"))
    _share(chosen.or_filter.filters.add() if buckets else chosen, log_key(side, "limited"), LogLevel().limited)
    if buckets:
        takes_token(chosen.or_filter.filters.add(), "limited", buckets)


def _is_no_denial(into: accesslog_pb2.AccessLogFilter) -> None:
    """All that `is_denial` and `is_limited` are not about."""
    not_asked, all_of = (into.or_filter.filters.add() for _ in range(2))
    not_asked.grpc_status_filter.statuses.extend([*_DENIALS, *_LIMITS])
    not_asked.grpc_status_filter.exclude = True
    judged, others = (all_of.and_filter.filters.add() for _ in range(2))
    denied_here(judged, denied=False)
    judged.metadata_filter.match_if_key_not_found.value = True  # refused before anybody judged it
    _by_details(others, f"!({_BY_TOKENS} || {_BY_LIMITS})")


def _by_details(into: accesslog_pb2.AccessLogFilter, expression: str) -> None:
    """What was refused for its token is in no metadata, and a flag can't be asked for its absence."""
    into.extension_filter.name = "envoy.access_loggers.extension_filters.cel"
    into.extension_filter.typed_config.CopyFrom(packed(cel_pb2.ExpressionFilter(expression=expression)))


def denied_here(into: accesslog_pb2.AccessLogFilter, *, denied: bool = True) -> None:
    """What rules of this sidecar, or those for paths, have denied; or what they have let in."""
    matcher = into.metadata_filter.matcher
    matcher.filter = "envoy.filters.http.rbac"
    matcher.path.add(key="enforced_engine_result")
    matcher.value.string_match.exact = "denied" if denied else "allowed"  # filters of logs pass over `invert`
    into.metadata_filter.match_if_key_not_found.value = False


def is_counted(
    into: accesslog_pb2.AccessLogFilter,
    side: Side,
    *,
    carries: Carries,
    connection: bool = False,
    failed: bool = False,
) -> None:
    """A request at its end; of a listener that carries both, a request or a `connection`; where only what failed is
    asked for, that: 5xx, a gRPC status that stands for one, or a connection that broke.

    The first condition that does not hold ends the search: what most requests fail comes first, and what Envoy has to
    search the headers for last.
    """
    every = into.and_filter.filters
    if carries == "both":
        of_method(every.add(), "CONNECT", other=not connection)
    if failed:
        reasons = every.add().or_filter.filters
        status = reasons.add().status_code_filter.comparison
        status.op, status.value.default_value = _Comparison.GE, LogLevel().min_status
        status.value.runtime_key = "mesh.metrics.failed"  # which nobody sets; Envoy wants one
        _broke(reasons.add(), reasons.add())
    at_its_end(every.add())
    _all_or_none(every.add(), metrics_key(side))


def _broke(flags: accesslog_pb2.AccessLogFilter, status: accesslog_pb2.AccessLogFilter) -> None:
    flags.response_flag_filter.flags.extend(_FAILURES)
    # What is no gRPC has a gRPC status of its HTTP one for Envoy, a 200 that of a failure.
    content_type = status.and_filter.filters.add().header_filter.header
    content_type.name, content_type.string_match.prefix = "content-type", "application/grpc"
    status.and_filter.filters.add().grpc_status_filter.statuses.extend(_GRPC_FAILURES)


def of_method(into: accesslog_pb2.AccessLogFilter, method: str, *, other: bool = False) -> None:
    """Requests of that method; or all `other` ones."""
    header = into.header_filter.header
    header.name, header.string_match.exact, header.invert_match = ":method", method, other
