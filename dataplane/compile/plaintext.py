"""Ports that take plaintext too (`PeerAuthentication`), for callers that have no sidecar yet.

Plaintext comes to a chain of its own, without any identity: no rule by identity lets it in, and no header that says one
passes. Which chain a connection comes to is told by its first bytes. The inspector of those stands in every inbound
listener, so that a port becomes permissive, and strict again, by its chains alone: Envoy changes those in place, and no
mTLS connection notices. Rules are in the route, or apart from the chain: no change of theirs ends a connection here.

A caller has to speak first: who waits for the server's greeting is never told apart, and goes after `HANDSHAKE_S`. So
what comes over TCP can be judged before anything is connected to the app.

Who comes in plaintext is counted by address, in one scope with a limit: an address is whatever can reach the host.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as entry_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2

from dataplane.compile import passing
from dataplane.compile.authorization import Judging
from dataplane.compile.chains import prefer
from dataplane.compile.request_metrics import counter
from dataplane.compile.resources import Resource
from dataplane.compile.tls import packed
from dataplane.compile.tracing import TRACED, Tracer

CHAIN = "plaintext"
_RAW = "raw_buffer"
"""What Envoy calls a connection that is not TLS."""

SEEN = "mesh_plaintext"
"""Envoy's scope of who has been seen."""
EVERYONE = "mesh_plaintext_all"
"""The same whoever it is: what comes above `MAX_SOURCES` is counted there alone."""
MAX_PORTS = 64  # that a Service has
# Addresses, of all ports together, that are told apart until Envoy starts anew.
MAX_SOURCES = 200

_Chain = Callable[[Tracer | None], listener_components_pb2.FilterChain]


def tell_apart(listener: listener_pb2.Listener) -> None:
    """By the first bytes: TLS with what its hello says, or plaintext."""
    inspector = listener_components_pb2.ListenerFilter(name="envoy.filters.listener.tls_inspector")
    inspector.typed_config.CopyFrom(packed(tls_inspector_pb2.TlsInspector()))
    listener.listener_filters.append(inspector)
    listener.listener_filters_timeout.seconds = passing.HANDSHAKE_S


def stat_prefix(name: str) -> str:
    """name: of the listener."""
    return f"{name}|{CHAIN}"


def add_http(listener: listener_pb2.Listener, chain: _Chain, tracer: Tracer, *, spans: bool) -> None:
    """Beside the chains for mTLS, which `tracing.add_chains` has made; as those, with and without a tracer."""
    for suffix, of in (("", None), (TRACED, tracer)):
        made = chain(of)
        made.name = CHAIN + suffix
        listener.filter_chains.append(made)
    _prefer(listener, CHAIN + (TRACED if spans else ""))


def add_tcp(
    listener: listener_pb2.Listener,
    cluster: str,
    judging: Judging,
    access_logs: Iterable[accesslog_pb2.AccessLog],
) -> list[Resource]:
    """Bytes, which between sidecars would come in a CONNECT. Gives what judges them, apart from the chain."""
    chain = listener.filter_chains.add(name=CHAIN)
    filters, rules = passing.judging(listener.name, judging, stat_prefix(listener.name), judging.audit)
    chain.filters.extend(filters)
    chain.filters.append(passing.proxy(stat_prefix(listener.name), listener.name, cluster, access_logs))
    _prefer(listener, CHAIN)
    return rules


def _prefer(listener: listener_pb2.Listener, name: str) -> None:
    prefer(listener, name, where=network_inputs_pb2.TransportProtocolInput(), is_=_RAW)


@lru_cache(maxsize=64)  # one a port
def seen(port: int) -> tuple[accesslog_pb2.AccessLog, ...]:
    """Counts signs of life of each address: requests and connections when they begin, and what lasts again and again.

    port: of the Service.
    """
    of = accesslog_pb2.AccessLogFilter()
    of.log_type_filter.types.extend(
        (entry_pb2.DownstreamStart, entry_pb2.DownstreamPeriodic, entry_pb2.TcpPeriodic, entry_pb2.TcpConnectionEnd)
    )
    tags = {"port": str(port), "source": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}
    return (
        counter(of, "seen", {"port": str(port)}, scope=EVERYONE, limit=MAX_PORTS),
        counter(of, "seen", tags, scope=SEEN, limit=MAX_SOURCES),
    )
