"""By what a request is hashed: the half of consistent hashing that stands in routes and in TCP filters.

A caller that is not captured transparently comes from loopback, on every host the same. So its source is that address
together with the sidecar's own, which each connection is given as filter state.
"""

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from dataplane.compile.backends import duration
from dataplane.compile.tls import packed
from dataplane.compile.workload import Workload
from schemas.objects.traffic import BackendTrafficPolicy, ConsistentHash

SOURCE = "mesh.source"


def source_filter(workload: Workload) -> listener_components_pb2.Filter:
    """The first of every outbound filter chain: the connection's source, for `hash_route` and `hash_tcp`.

    Always there, because a listener that changed with a policy would drain its connections.
    """
    config = set_filter_state_pb2.Config()
    value = config.on_new_connection.add(object_key=SOURCE, factory_key="envoy.hashable_string")
    text = f"{workload.inbound_address} %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
    value.format_string.text_format_source.inline_string = text
    return listener_components_pb2.Filter(name="envoy.filters.network.set_filter_state", typed_config=packed(config))


def hash_of(policy: BackendTrafficPolicy | None) -> ConsistentHash | None:
    return policy.spec.load_balancer.consistent_hash if policy is not None else None


def hash_route(
    action: route_components_pb2.RouteAction, policy: BackendTrafficPolicy | None, *, is_tcp: bool = False
) -> None:
    """Add to a route to the service of `policy` by what it is hashed; nothing where it is not. A TCP connection has
    neither header nor cookie of its own: it goes by its source."""
    hashed = hash_of(policy)
    if hashed is None:
        return
    one = action.hash_policy.add()
    if hashed.header is not None and not is_tcp:
        one.header.header_name = hashed.header.name
    elif hashed.cookie is not None and not is_tcp:
        one.cookie.name = hashed.cookie.name
        if hashed.cookie.ttl is not None:
            one.cookie.ttl.CopyFrom(duration(hashed.cookie.ttl))
            one.cookie.path = "/"
    else:
        one.filter_state.key = SOURCE


def hash_tcp(proxy: tcp_proxy_pb2.TcpProxy, policy: BackendTrafficPolicy | None) -> None:
    """The same for a TCP filter."""
    if hash_of(policy) is not None:
        proxy.hash_policy.add().filter_state.key = SOURCE
