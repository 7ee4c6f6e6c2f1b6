"""Envoy's own statistics ▸ metrics of ours: one naming scheme, names of services in place of identities. Pure.

What is counted, and that its labels are bounded, is `dataplane.compile.request_metrics`' matter.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from dataplane.compile import request_metrics as counted
from dataplane.compile.on_demand import DETOUR
from schemas.errors import InvalidInput
from schemas.names import SpiffeId
from telemetry.families import Family, Histogram, counters_by, gauge, gauges, histograms

# Envoy names its statistics so, and begins each name of the Prometheus format with `envoy_`.
_OWN = {
    "server_memory_allocated": ("envoy_memory_allocated_bytes", "Memory that Envoy has asked for."),
    "server_uptime": ("envoy_uptime_seconds", "Since Envoy has started; it outlives its agent."),
    "server_live": ("envoy_live", "1: Envoy serves; 0: it drains."),
    "tracing_opentelemetry_spans_sent": ("envoy_spans_sent", "Spans given to the collector."),
    "tracing_opentelemetry_spans_dropped": ("envoy_spans_dropped", "Spans of which too many waited."),
}
_ACTIVE = "http_downstream_cx_active"
# What is refused: name in Envoy, the label of it that names the listener, and why.
_DENIED = {
    "http_rbac_denied": ("envoy_http_conn_manager_prefix", "policy"),
    "rbac_denied": ("envoy_rbac_prefix", "policy"),
    "http_local_rate_limit_rate_limited": ("", "rate-limit"),
}
_LINE = re.compile(r"envoy_(\w+?)(?:\{(.*)\})? (\S+)")
_OUTLIERS = re.compile(r"cluster\.outbound\|([^|]+)\|.+\.outlier_detection\.ejections_(active|enforced_total): (\d+)")
_AUDITED = re.compile(r"http\.inbound\|([^.]+)\.rbac\.policy\.(.+)\.shadow_denied: (\d+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_CODES = {"1": "1xx", "2": "2xx", "3": "3xx", "4": "4xx", "5": "5xx"}
REQUEST_LABELS = ("side", "source", "destination", "route", "code")
ERROR_LABELS = (*REQUEST_LABELS[:-1], "grpc_status")
CONNECTION_LABELS = REQUEST_LABELS[:3]
AUDIT_LABELS = ("port", "rule")
DENIAL_LABELS = ("side", "port", "reason")
UNKNOWN = "unknown"

Labels = tuple[str, ...]


@dataclass(slots=True)
class Counted:
    """What Envoy has counted, by labels."""

    durations: dict[Labels, Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    errors: dict[Labels, float] = field(default_factory=lambda: defaultdict(float))
    connections: dict[str, dict[Labels, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    own: dict[str, float] = field(default_factory=dict)
    active: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    denied: dict[Labels, float] = field(default_factory=lambda: defaultdict(float))
    audited: dict[Labels, float] = field(default_factory=lambda: defaultdict(float))
    ejected: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Instances of each destination that outlier detection leaves out now."""
    ejections: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    series: int = 0
    """Histograms that Envoy keeps."""


def read(exposition: str, own: SpiffeId) -> Counted:
    """exposition: of `Admin.statistics`. own: whose Envoy it is, one end of all that it counts."""
    found = Counted()
    for line in exposition.splitlines():
        match = _LINE.fullmatch(line)
        if match is not None:
            labels = {name: _plain(value) for name, value in _LABEL.findall(match[2] or "")}
            _take(found, match[1], labels, float(match[3]), own)
        elif (outliers := _OUTLIERS.fullmatch(line)) is not None:  # of ports and subsets together
            (found.ejected if outliers[2] == "active" else found.ejections)[outliers[1]] += float(outliers[3])
        elif (audited := _AUDITED.fullmatch(line)) is not None:
            found.audited[audited[1], audited[2]] += float(audited[3])
    return found


def _take(found: Counted, name: str, labels: dict[str, str], value: float, own: SpiffeId) -> None:
    of, _, rest = name.partition("_")
    if of != counted.PREFIX:
        if name == _ACTIVE:
            side = "server" if labels.get("envoy_http_conn_manager_prefix", "").startswith("inbound") else "client"
            if not labels.get("envoy_http_conn_manager_prefix", "").startswith(("admin", "telemetry")):
                found.active[side] += value
        elif name in _DENIED:
            found.denied[_refuser(name, labels)] += value
        elif name in _OWN:
            found.own[name] = value
        return
    side, _, rest = rest.partition("_")
    itself = {"client": "source", "server": "destination"}.get(side)
    if itself is None:
        return
    if labels.get("destination") == DETOUR:
        return  # it comes again
    ends = labels | {itself: str(own)}
    both = (side, *(_service(ends.get(one, ""), own.trust_domain) for one in ("source", "destination")))
    route, grpc_status = ("" if (said := labels.get(one, "-")) == "-" else said for one in ("route", "grpc_status"))
    if rest.startswith(counted.DURATION):
        histogram = found.durations[*both, route, _CODES.get(labels.get("code", ""), "none")]
        match rest.removeprefix(f"{counted.DURATION}_"):
            case "bucket":
                histogram.add(labels["le"], value)
            case "sum":
                histogram.total += value
            case "count":
                found.series += 1
    elif rest == counted.ERRORS:
        found.errors[*both, route, grpc_status] += value
    elif both[2] != UNKNOWN:  # a tunnel that leads nowhere, or back to the proxy port, is no connection to anybody
        found.connections[rest][both] += value


def _refuser(name: str, labels: Mapping[str, str]) -> Labels:
    """Listeners are named ``inbound|http``, ``outbound|bound|9101``; network filters of one ``inbound|http|deny|``."""
    label, reason = _DENIED[name]
    way, _, rest = labels.get(label, "").partition("|")
    if way.startswith("outbound"):
        return "client", rest, reason
    return "server", rest.partition("|")[0], reason


@lru_cache(maxsize=2 * counted.MAX_SERIES)  # each stands in dozens of lines
def _service(identity: str, trust_domain: str) -> str:
    """``orders.shop`` of the own trust domain; else the identity that the configuration names, or `OTHER`. What is no
    identity is a word of the configuration: the name of an ExternalService, or who has none."""
    if identity in ("", "-"):
        return UNKNOWN
    if not identity.startswith("spiffe://"):
        return identity
    try:
        parsed = SpiffeId.parse(identity)
    except InvalidInput:
        return counted.OTHER
    service = parsed.service if parsed.trust_domain == trust_domain else None
    return str(service) if service is not None else identity


def _plain(value: str) -> str:
    return value.replace(r"\"", '"').replace(r"\n", "\n").replace(r"\\", "\\")


def families(found: Counted | None) -> Iterator[Family]:
    """None: Envoy has not answered."""
    yield gauge("envoy_up", "1: Envoy has answered this scrape.", float(found is not None))
    if found is None:
        return
    requests = {labels: float(one.count) for labels, one in found.durations.items()}
    yield counters_by("requests", "Requests that have ended.", REQUEST_LABELS, requests)
    about = "Of those, what failed: 5xx, a gRPC status that stands for one, no answer at all."
    yield counters_by("request_errors", about, ERROR_LABELS, found.errors)
    about = "From a request's first byte to the answer's last. Envoy counts milliseconds."
    yield histograms("request_duration_seconds", about, REQUEST_LABELS, found.durations, divisor=1000)
    of_connections = {
        counted.CONNECTIONS: "TCP connections that have ended.",
        counted.RECEIVED: "Bytes of those, from whom called.",
        counted.SENT: "Bytes of those, to whom called.",
    }
    for name, text in of_connections.items():
        yield counters_by(name, text, CONNECTION_LABELS, found.connections.get(name, {}))
    about = (
        "Refused requests, and connections where those are what is judged; at the client: paths that no app agrees on."
    )
    yield counters_by("denied", about, DENIAL_LABELS, found.denied)
    about = "Requests that a rule of an AUDIT policy would have refused, and did not."
    yield counters_by("audited", about, AUDIT_LABELS, found.audited)
    about = "Instances that are ejected now: they have failed too often, and get nothing for a while."
    yield gauges("ejected_instances", about, "destination", found.ejected)
    about_ejections = "How often an instance was ejected."
    by_destination: dict[Labels, float] = {(name,): number for name, number in found.ejections.items()}
    yield counters_by("ejections", about_ejections, ("destination",), by_destination)
    yield gauge("request_series", "Kinds of requests that Envoy keeps apart.", found.series)
    about_limit = "How many it keeps apart at most; what comes above that is not counted."
    yield gauge("request_series_limit", about_limit, counted.MAX_SERIES)
    yield gauges("envoy_http_connections_active", "Connections that speak HTTP with Envoy.", "side", found.active)
    yield from _own(found.own)


def _own(values: Mapping[str, float]) -> Iterable[Family]:
    for name, (ours, about) in _OWN.items():
        if name.startswith("tracing"):  # Envoy has no tracer before somebody wants spans
            yield counters_by(ours, about, (), {(): values.get(name, 0.0)})
        elif name in values:
            yield gauge(ours, about, values[name])
