"""What Envoy counts of requests and connections, by who called whom; kept by its stats access logger.

The labels are configuration, or what a certificate says: nothing that somebody sends. How many there are is bounded: a
peer of another trust domain is ``other``, of statuses only the class is told, and all listeners share one scope, in
which no more than `MAX_SERIES` come to be. Envoy makes each label anew at each request, so what is the same for all
that a side counts is none of its: the side is in the name, and who this workload is adds `dataplane.envoy.stats`.

The logger's message is written as plain values (``xds.type.v3.TypedStruct``): Envoy knows fields of it (`stats_scope`,
`rules`) that the Python package of its API doesn't yet.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/access_loggers/stats/v3/stats.proto
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from xds.type.v3 import typed_struct_pb2

from dataplane.compile.log_filters import Carries, is_counted
from dataplane.compile.stamps import NAMESPACE
from dataplane.compile.telemetry import Side
from dataplane.compile.tls import packed
from dataplane.compile.workload import Workload

MAX_SERIES = 1000
"""Of each kind of metric in a sidecar. A service has a handful of callers, callees and routes; four classes of status
each. A histogram takes some 3 KiB of Envoy's memory, and 16 lines of what is scraped."""

PREFIX = "mesh"
"""Of the names in Envoy."""
OTHER = "other"
"""Who calls from another trust domain."""
PLAINTEXT = "plaintext"
"""Who calls without a certificate."""

DURATION, ERRORS = "request_duration", "request_errors"
CONNECTIONS, RECEIVED, SENT = "connections", "connection_received_bytes", "connection_sent_bytes"

_TYPE = "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config"
_INPUT = "type.googleapis.com/envoy.extensions.matching.common_inputs.stats.v3.StatTagValueInput"
_WORD = {"safe_regex": {"google_re2": {}, "regex": "[A-Z_-]*"}}
_TRANSFORM = "type.googleapis.com/envoy.extensions.matching.actions.transform_stat.v3.TransformStat"


def request_metrics(
    workload: Workload, side: Side, carries: Carries, *, plaintext: bool = False
) -> list[accesslog_pb2.AccessLog]:
    """A function of the workload's settings alone: whether they count goes by the runtime. plaintext: of who shows no
    certificate."""
    return list(_request_metrics(workload.trust_domain, side, carries, plaintext=plaintext))


@lru_cache(maxsize=8)  # a listener for each bound port; all of them count alike
def _request_metrics(
    trust_domain: str, side: Side, carries: Carries, *, plaintext: bool
) -> tuple[accesslog_pb2.AccessLog, ...]:
    def stat(name: str, *more: dict[str, Any]) -> dict[str, Any]:
        return _stat(f"{side}_{name}", [_peer(trust_domain, side, plaintext=plaintext), *more])

    route = [_tag("route", "%ROUTE_NAME%")] if side == "client" else []
    # Of a status its first digit. What ended without one, ends without one here.
    code = _tag("code", "%RESP(:STATUS):1%")
    # Of failures alone, which are few. An app may send any number; Envoy has words for those that mean something.
    status = _tag("grpc_status", "%GRPC_STATUS(SNAKE_STRING)%") | {"rules": _only(_WORD)}
    logs = []
    if carries != "connections":
        every, failed = accesslog_pb2.AccessLogFilter(), accesslog_pb2.AccessLogFilter()
        is_counted(every, side, carries=carries)
        is_counted(failed, side, carries=carries, failed=True)
        duration = {
            "stat": stat(DURATION, *route, code),
            "unit": "Milliseconds",
            "value_format": "%DURATION%",
        }
        logs += [
            _log(every, {"histograms": [duration]}),
            _log(failed, {"counters": [{"stat": stat(ERRORS, *route, status), "value_fixed": "1"}]}),
        ]
    if carries != "requests":
        ended = accesslog_pb2.AccessLogFilter()
        is_counted(ended, side, carries=carries, connection=True)
        counters = [
            {"stat": stat(CONNECTIONS), "value_fixed": "1"},
            {"stat": stat(RECEIVED), "value_format": "%BYTES_RECEIVED%"},
            {"stat": stat(SENT), "value_format": "%BYTES_SENT%"},
        ]
        logs.append(_log(ended, {"counters": counters}))
    return tuple(logs)


def counter(
    only: accesslog_pb2.AccessLogFilter, name: str, tags: Mapping[str, str], *, scope: str, limit: int
) -> accesslog_pb2.AccessLog:
    """Counts what `only` lets through by the values of `tags`, no more than `limit` of them in that `scope`."""
    said = [_tag(one, value) for one, value in tags.items()]
    return _log(only, {"counters": [{"stat": _stat(name, said), "value_fixed": "1"}]}, scope, limit)


def _log(
    only: accesslog_pb2.AccessLogFilter, stats: dict[str, Any], prefix: str = PREFIX, limit: int = MAX_SERIES
) -> accesslog_pb2.AccessLog:
    config = typed_struct_pb2.TypedStruct(type_url=_TYPE)
    # One scope for all of a prefix: they share it where all its fields are the same.
    scope = {"prefix": prefix, "max_counters": limit, "max_histograms": limit, "sharing_name": prefix}
    config.value.update({"stats_scope": scope, **stats})
    log = accesslog_pb2.AccessLog(name="envoy.access_loggers.stats", typed_config=packed(config))
    log.filter.CopyFrom(only)
    return log


def _peer(trust_domain: str, side: Side, *, plaintext: bool) -> dict[str, Any]:
    if side == "client":
        return _tag("destination", f"%METADATA(CLUSTER:{NAMESPACE}:destination)%")
    if plaintext:
        return _tag("source", PLAINTEXT)
    return _tag("source", "%DOWNSTREAM_PEER_URI_SAN%") | {"rules": _only({"prefix": f"spiffe://{trust_domain}/ns/"})}


def _tag(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value_format": value}


def _stat(name: str, tags: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "tags": tags}


def _only(known: dict[str, Any]) -> dict[str, Any]:
    """Any value but what is `known` (a ``StringMatcher``) becomes `OTHER`: nobody counts how many identities somebody
    else's CA makes."""
    of_ours = {"input": {"name": "tag", "typed_config": {"@type": _INPUT}}, "value_match": known}
    becomes = {"name": OTHER, "typed_config": {"@type": _TRANSFORM, "update_tag": {"new_tag_value": OTHER}}}
    matcher = {
        "predicate": {"not_matcher": {"single_predicate": of_ours}},
        "on_match": {"action": becomes},
    }
    return {"matcher_list": {"matchers": [matcher]}}
