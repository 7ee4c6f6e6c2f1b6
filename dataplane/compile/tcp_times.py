"""How long TCP connections to a service may last, and be silent: where a `BackendTrafficPolicy` says so.

At the caller, who has a TCP filter for a bound port, and the route of a CONNECT for what comes by the proxy port.
"""

from typing import NamedTuple

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from dataplane.compile.backends import duration
from schemas.objects.traffic import BackendTrafficPolicy


class TcpTimes(NamedTuple):
    """As written in the policy; None: Envoy's own, an hour without a byte, and no end."""

    idle: str | None = None
    longest: str | None = None


def times_of(policy: BackendTrafficPolicy | None) -> TcpTimes:
    timeout = policy.spec.timeout if policy is not None else None
    if timeout is None or timeout.tcp is None:
        return TcpTimes()
    return TcpTimes(timeout.tcp.idle_timeout, timeout.tcp.max_connection_duration)


def time_tcp(proxy: tcp_proxy_pb2.TcpProxy, policy: BackendTrafficPolicy | None) -> None:
    times = times_of(policy)
    if times.idle is not None:
        proxy.idle_timeout.CopyFrom(duration(times.idle))
    if times.longest is not None:
        proxy.max_downstream_connection_duration.CopyFrom(duration(times.longest))


def time_route(action: route_components_pb2.RouteAction, policy: BackendTrafficPolicy | None) -> None:
    """The same for the CONNECT that a connection travels in."""
    times = times_of(policy)
    if times.idle is not None:
        action.idle_timeout.CopyFrom(duration(times.idle))
    if times.longest is not None:
        action.max_stream_duration.max_stream_duration.CopyFrom(duration(times.longest))
