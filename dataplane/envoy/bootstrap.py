"""Envoy's bootstrap: the little that is static. Everything else comes over ADS. Pure, with deterministic bytes.

Field names are those of envoy.config.bootstrap.v3.Bootstrap.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from dataplane.compile.open_streams import AGENT_CLUSTER
from dataplane.compile.request_metrics import PREFIX as METRICS
from dataplane.compile.telemetry import LAYER
from routing.headers import UNSERVED
from schemas.errors import InvalidInput, Problem

XDS_CLUSTER = AGENT_CLUSTER

MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path holds 108 with its final NUL (unix(7))

# What Envoy needs beside its downstream connections: listeners, admin, ADS, files, connections to be closed yet.
RESERVED_DESCRIPTORS = 512
# Downstream connections that fit into the 1,024 descriptors that every Linux gives, and then some for a tiny limit.
MIN_CONNECTIONS = 64

# Below this much heap Envoy would refuse requests that any host can take; it idles with some 10 MiB.
MIN_HEAP_BYTES = 128 * 1024 * 1024
# What Envoy may take of the memory that it shares with the app.
_HEAP_SHARE = 0.5
# Parts of the heap at which to give memory back; end connections after their request; refuse requests (503).
_SHRINK_HEAP, _END_KEEPALIVE, _REFUSE_REQUESTS = 0.85, 0.90, 0.95
# Seconds between two looks at the heap: often enough for what grows by requests, and next to no work when idle.
_HEAP_EVERY_S = 1
# Streams that a client opens and takes back within a second, before it is disconnected (CVE-2023-44487); more than
# half of all that it opened must be of this kind.
_PREMATURE_RESETS = 500
# Requests of one connection that are begun before others have their turn: who sends hundreds at once waits, not all.
_REQUESTS_A_TURN = 64

# Of a header in several lines Envoy would ask each for itself, and be content with one: an ALLOW would let in who adds
# a line to that which the app reads. Routes and policies are about the lines joined by commas (RFC 9110, 5.3).
_LINES_ARE_JOINED = {
    f"envoy.reloadable_features.{name}": False
    for name in ("match_headers_individually", "rbac_match_headers_individually")
}

# Envoy's default for a lost ADS stream is 0.5 s, growing to 30 s. The agent is on the same host and back at once.
_ADS_RETRY = {"base_interval": "0.1s", "max_interval": "1s"}

# Of a request, up to which it counts for each bucket of the histogram. A call on one network takes a millisecond; what
# takes a minute has long met some timeout. Each is a line of what is scraped, for every series.
LATENCY_BUCKETS_MS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 60_000)
# Envoy's default sends every five spans on their own; and what there is after a second, for who waits for a trace.
SPANS = {"tracing": {"opentelemetry": {"min_flush_spans": 512, "flush_interval_ms": 1000}}}

_HTTP_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class BootstrapInput:
    """node_id: ``sidecar/<ns>/<instance>`` or alike, unique in the mesh; cluster: the service, for statistics.

    ads_socket, admin_socket: absolute paths. max_connections: downstream connections at once, see `connection_limit`.
    max_heap_bytes: see `heap_limit`.
    delta: incremental ADS; False: state of the world.
    """

    node_id: str
    cluster: str
    ads_socket: str
    admin_socket: str
    max_connections: int
    max_heap_bytes: int = MIN_HEAP_BYTES
    delta: bool = True


def connection_limit(descriptors: int) -> int:
    """Downstream connections for that many file descriptors (RLIMIT_NOFILE).

    A proxied connection holds two: accepting more would end in EMFILE for connections that are already open.
    """
    return max(MIN_CONNECTIONS, (descriptors - RESERVED_DESCRIPTORS) // 2)


def heap_limit(memory: int) -> int:
    """Bytes of heap for a host, or a unit, with so many bytes of memory."""
    return max(MIN_HEAP_BYTES, int(memory * _HEAP_SHARE))


def bootstrap(given: BootstrapInput) -> dict[str, Any]:
    """The bootstrap as plain JSON values. Raises InvalidInput for a socket path that no socket can have."""
    for what, path in (("ADS socket", given.ads_socket), ("admin socket", given.admin_socket)):
        if not path.startswith("/") or len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            raise InvalidInput(
                Problem(
                    f"{what} {path!r}",
                    f"expected an absolute path of at most {MAX_SOCKET_PATH_BYTES} bytes",
                    remedy="choose a shorter runtimeDir",
                )
            )
    ads: dict[str, Any] = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "node": {"id": given.node_id, "cluster": given.cluster},
        "admin": {
            # 0600: the admin interface can end Envoy and shows its configuration.
            "address": {"pipe": {"path": given.admin_socket, "mode": 0o600}},
            "ignore_global_conn_limit": True,  # readiness and drain must be asked under full load too
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if given.delta else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": XDS_CLUSTER,
                            "retry_policy": {"retry_back_off": _ADS_RETRY},
                        }
                    }
                ],
            },
            # initial_fetch_timeout 0: without configuration Envoy is not ready, however long it takes.
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": [_xds_cluster(given.ads_socket)]},
        # Envoy refuses a regular expression of more than 100 instructions by default, and with it a whole route table.
        # What routes may hold is bounded where they are checked (routing/expressions.py): well below this.
        # How much is logged changes while Envoy runs, by one resource of ADS (dataplane/compile/telemetry.py).
        "layered_runtime": {
            "layers": [
                {"name": "mesh", "static_layer": {**_runtime(), **SPANS}},
                {"name": LAYER, "rtds_layer": {"name": LAYER, "rtds_config": ads}},
            ]
        },
        # Asked for in each response. For any other header Envoy makes an index of all that the response has.
        "inline_headers": [{"inline_header_name": UNSERVED, "inline_header_type": "RESPONSE_HEADER"}],
        # Statistics are computed when they are read; nothing is pushed, so no timer either.
        "stats_flush_on_admin": True,
        "stats_config": {
            "histogram_bucket_settings": [{"match": {"prefix": f"{METRICS}."}, "buckets": list(LATENCY_BUCKETS_MS)}],
            # Of each listener's requests, by nobody's name: `request_metrics` has them by source and destination.
            "stats_matcher": {"exclusion_list": {"patterns": [{"suffix": ".downstream_rq_time"}]}},
        },
        # By which spans get to the collector (dataplane/compile/tracing.py).
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
                },
            }
        ],
        # A cluster's hundreds of statistics come to be with its first request: memory for what is used.
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "overload_manager": {
            "refresh_interval": f"{_HEAP_EVERY_S}s",
            "resource_monitors": [
                _monitor(
                    "global_downstream_max_connections",
                    "downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=given.max_connections,
                ),
                _monitor("fixed_heap", "fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=given.max_heap_bytes),
            ],
            "actions": [
                _when_heap("shrink_heap", _SHRINK_HEAP),
                _when_heap("disable_http_keepalive", _END_KEEPALIVE),
                _when_heap("stop_accepting_requests", _REFUSE_REQUESTS),
            ],
        },
    }


def _runtime() -> dict[str, Any]:
    return {
        "re2": {"max_program_size": {"error_level": 100_000}},
        "overload": {
            "premature_reset_total_stream_count": _PREMATURE_RESETS,
            "premature_reset_min_stream_lifetime_seconds": 1,
        },
        "http": {"max_requests_per_io_cycle": _REQUESTS_A_TURN},
        **_LINES_ARE_JOINED,
    }


def _monitor(name: str, config: str, **values: Any) -> dict[str, Any]:
    return {
        "name": f"envoy.resource_monitors.{name}",
        "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.resource_monitors.{config}", **values},
    }


def _when_heap(action: str, part: float) -> dict[str, Any]:
    trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": part}}
    return {"name": f"envoy.overload_actions.{action}", "triggers": [trigger]}


def _xds_cluster(socket: str) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": socket}}}}
    return {
        "name": XDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": XDS_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            _HTTP_PROTOCOL_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_PROTOCOL_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def render(values: dict[str, Any]) -> bytes:
    """JSON with sorted keys: equal input, equal bytes."""
    return json.dumps(values, sort_keys=True, indent=1).encode() + b"\n"


def digest(rendered: bytes) -> str:
    """Names a rendered bootstrap: 16 hex digits."""
    return hashlib.blake2b(rendered, digest_size=8).hexdigest()
