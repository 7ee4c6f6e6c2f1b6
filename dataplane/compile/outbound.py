"""Outbound: how the app reaches others. The proxy port (HTTP by host, anything by CONNECT) and the bound ports.

Both lead to the same clusters, so that load balancing, mTLS and the check of the server's identity are the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import duration_pb2

from dataplane.compile import clusters, on_demand, passthrough, tls, unserved
from dataplane.compile.access_log import access_logs
from dataplane.compile.apart import apart
from dataplane.compile.hashing import hash_tcp, source_filter
from dataplane.compile.http import connection_manager
from dataplane.compile.resources import LISTENER, ROUTES, Resource
from dataplane.compile.route_actions import RETRIES, http_routes, lead_outside, tcp_action, tcp_backends
from dataplane.compile.route_filters import dormant_filters
from dataplane.compile.scope import BoundPort, Scope, bound_target
from dataplane.compile.stamps import newest, stamp
from dataplane.compile.tcp_times import time_tcp
from dataplane.compile.tracing import KEEP, Tracer, add_chains, set_up, tag, traced
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from routing.names import HOST_SUFFIX, default_port, host_names
from routing.table import Table, concerns, table
from schemas.errors import Problem
from schemas.names import ServiceRef
from schemas.objects.external import ExternalService
from schemas.objects.service import Service, ServicePort

PROXY = "outbound|proxy"
SELF = "outbound|self"


def bound_name(bound: BoundPort) -> str:
    return f"outbound|bound|{bound.bind_port}"


def proxy_listener(state: MeshState, workload: Workload, *, closed: bool = False) -> Resource:
    """closed: tunnels that are open end with the drain time, since their filter chain is another one now.

    What leads outside the agent ends when it is no longer allowed. Where it can't, the filter for it stands there only
    while it is, so that the drain time ends it, with all else.
    """
    listener = _listener(PROXY, workload, workload.proxy_port)
    filters = [on_demand.hold_filter(), *dormant_filters()]
    if (workload.ends_open or passthrough.is_allowed(state)) and not closed:
        filters.append(passthrough.http_filter())
    logs = access_logs(workload, "client", http=True, carries="both")

    def chain(tracer: Tracer | None) -> listener_components_pb2.FilterChain:
        manager = connection_manager(
            name=PROXY, inbound=False, takes_connect=True, filters=filters, access_logs=logs, tracer=tracer
        )
        return listener_components_pb2.FilterChain(filters=[source_filter(workload), manager])

    name, tracer = "closed" if closed else "http", partial(set_up, workload, "client")
    add_chains(listener, name, chain, tracer, spans=traced(state, workload))
    return Resource.of(LISTENER, PROXY, listener)


def self_cluster(workload: Workload) -> Resource:
    """The own proxy port, for what comes out of tunnels."""
    return clusters.static_cluster(SELF, workload.local_address, workload.proxy_port)


def proxy_routes(
    state: MeshState, workload: Workload, scope: Scope, hosts: Mapping[tuple[ServiceRef, int], Sequence[str]]
) -> Resource:
    """hosts: the domains that ExternalServices have beside their names in the mesh, by service and port."""
    configuration = route_pb2.RouteConfiguration(name=PROXY)
    configuration.validate_clusters.value = False  # the order of pushes sees to it
    for ref in scope.services(state):
        service = state.destination(ref)
        if service is not None:
            for host in _virtual_hosts(state, service, ref, workload.service, hosts):
                _stamp(state, host, ref, workload.service)
                configuration.virtual_hosts.append(host)
    if scope.on_demand:
        for host in configuration.virtual_hosts:
            host.request_headers_to_remove.append(on_demand.SECOND_PASS)
    _finish(state, workload, configuration)
    unknown = configuration.virtual_hosts.add(name="unknown", domains=["*"])
    if scope.on_demand:
        unknown.routes.append(on_demand.fallback(_connect_match(), upgrade="CONNECT"))
        unknown.routes.append(on_demand.fallback(route_components_pb2.RouteMatch(prefix="/")))
        text = "no such service in the mesh"
    else:
        text = f"no such service in the mesh, or {workload.service} does not depend on it"
    unknown.routes.extend(passthrough.routes(state, workload, text))
    return Resource.of(ROUTES, PROXY, configuration)


def _stamp(state: MeshState, host: route_components_pb2.VirtualHost, service: ServiceRef, caller: ServiceRef) -> None:
    stamp(host.metadata, revision=_decided(state, service, caller))


def _decided(state: MeshState, service: ServiceRef, caller: ServiceRef) -> int:
    """The revision of the newest object by which requests of `caller` to `service` are routed."""
    routes = [route for route in state.routes_for(service) if concerns(route, service, caller)]
    return newest(state, [state.destination(service), *routes])


def _finish(state: MeshState, workload: Workload, configuration: route_pb2.RouteConfiguration) -> None:
    configuration.request_headers_to_remove.append(KEEP)
    unserved.keep_from_apps(configuration)
    tag(state, workload, configuration.virtual_hosts)


def bound_resources(state: MeshState, workload: Workload, bound: BoundPort) -> list[Resource] | Problem:
    """Listener (and route) of one bound port; a Problem, and no listener, where it leads nowhere."""
    port = _taken(state, workload, bound) or bound_target(state, bound)
    if isinstance(port, Problem):
        return port
    listener = _listener(bound_name(bound), workload, bound.bind_port)
    return entrance(state, workload, listener, bound.service, port)


def entrance(
    state: MeshState, workload: Workload, listener: listener_pb2.Listener, service: ServiceRef, port: ServicePort
) -> list[Resource]:
    """What leads from `listener`, which has its name and address, to that port of `service` and to nothing else."""
    name = listener.name
    routes = table_of(state, service, port, workload.service)
    if port.protocol == "tcp":
        # Apart from the listener, which so no change of an object touches: new connections go by the new filter, and
        # those that are open go on by theirs.
        passes, proxy = apart(name, tls.packed(_tcp_proxy(state, workload, name, routes)))
        listener.filter_chains.add(filters=[source_filter(workload), passes])
        return [Resource.of(LISTENER, name, listener), proxy]
    logs = access_logs(workload, "client", http=True)

    def chain(tracer: Tracer | None) -> listener_components_pb2.FilterChain:
        manager = connection_manager(
            name=name, inbound=False, filters=dormant_filters(), access_logs=logs, tracer=tracer
        )
        return listener_components_pb2.FilterChain(filters=[source_filter(workload), manager])

    add_chains(listener, "http", chain, partial(set_up, workload, "client"), spans=traced(state, workload))
    configuration = route_pb2.RouteConfiguration(name=name)
    configuration.validate_clusters.value = False
    host = configuration.virtual_hosts.add(name=name, domains=["*"])
    _stamp(state, host, service, workload.service)
    host.routes.extend(http_routes(state, routes))
    _finish(state, workload, configuration)
    return [Resource.of(LISTENER, name, listener), Resource.of(ROUTES, name, configuration)]


def _tcp_proxy(state: MeshState, workload: Workload, name: str, table: Table) -> tcp_proxy_pb2.TcpProxy:
    """To the backends of a TCP port."""
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=name)
    found = tcp_backends(state, table)
    if len(found) == 1:
        proxy.cluster = clusters.name_of(found[0].target)
    for one in found if len(found) > 1 else ():
        proxy.weighted_clusters.clusters.add(name=clusters.name_of(one.target), weight=one.weight)
    if not lead_outside(state, found):
        proxy.tunneling_config.hostname = f"{table.service}.{HOST_SUFFIX}:{table.port.port}"
    proxy.max_connect_attempts.value = 1 + RETRIES
    policy = state.traffic_policy(found[0].target.service)
    hash_tcp(proxy, policy)
    time_tcp(proxy, policy)
    revision = _decided(state, table.service, workload.service)
    proxy.access_log.extend(access_logs(workload, "client", http=False, revision=revision))
    return proxy


def _taken(state: MeshState, workload: Workload, bound: BoundPort) -> Problem | None:
    """Envoy refuses the later of two listeners with one address, and that could be the proxy port or the way in."""
    own = state.service(workload.service)
    inbound = {workload.inbound_ports.get(port.name, port.port) for port in own.spec.ports} if own else set()
    subject, remedy = f"bound port {bound.bind_port}", "choose another `bindPort`"
    if bound.bind_port == workload.proxy_port:
        return Problem(subject, "is the sidecar's proxy port", remedy=remedy)
    if bound.bind_port in inbound and workload.inbound_address in (workload.local_address, "0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
        return Problem(subject, f"is where {workload.service} itself is reached", remedy=remedy)
    return None


def _listener(name: str, workload: Workload, port: int) -> listener_pb2.Listener:
    return listener_pb2.Listener(
        name=name, address=clusters.socket_address(workload.local_address, port), traffic_direction="OUTBOUND"
    )


def table_of(state: MeshState, service: ServiceRef, port: ServicePort, caller: ServiceRef) -> Table:
    return table(service, port, caller, state.routes_for(service))


def _virtual_hosts(
    state: MeshState,
    service: Service | ExternalService,
    ref: ServiceRef,
    caller: ServiceRef,
    hosts: Mapping[tuple[ServiceRef, int], Sequence[str]],
) -> Iterator[route_components_pb2.VirtualHost]:
    """One a port, by its names in the mesh; one more for the host names that it has outside."""
    names = host_names(ref, caller)
    default = default_port(service)
    for port in service.spec.ports:
        cluster = clusters.outbound_name(ref, port.port)
        domains = [f"{name}:{port.port}" for name in names]
        if port is default:
            domains += names
        routes = table_of(state, ref, port, caller)
        host = route_components_pb2.VirtualHost(name=cluster, domains=domains)
        host.routes.extend(_port_routes(state, routes, by_host=False))
        yield host
        if named := hosts.get((ref, port.port)):
            outside = route_components_pb2.VirtualHost(name=f"{cluster}|hosts", domains=named)
            outside.routes.extend(_port_routes(state, routes, by_host=True))
            yield outside


def _port_routes(state: MeshState, table: Table, *, by_host: bool) -> Iterator[route_components_pb2.Route]:
    """by_host: as for `http_routes`."""
    tunnel = route_components_pb2.Route(match=_connect_match())
    port = table.port
    if port.protocol == "tcp":
        tunnel.route.CopyFrom(tcp_action(state, table))
        yield tunnel
        text = f"port {port.port} of {table.service} is a TCP port: use CONNECT, or a bound port\n"
        yield _answer(route_components_pb2.RouteMatch(prefix="/"), 400, text)
        return
    # It ends here: what is in it is HTTP. Where routes are to judge that, it enters the proxy port once more.
    tunnel.route.cluster = SELF if table.routed else clusters.outbound_name(table.service, port.port)
    tunnel.route.timeout.CopyFrom(duration_pb2.Duration())
    tunnel.route.upgrade_configs.add(upgrade_type="CONNECT").connect_config.SetInParent()
    yield tunnel
    yield from http_routes(state, table, by_host=by_host)


def _connect_match() -> route_components_pb2.RouteMatch:
    return route_components_pb2.RouteMatch(connect_matcher=route_components_pb2.RouteMatch.ConnectMatcher())


def _answer(match: route_components_pb2.RouteMatch, status: int, text: str) -> route_components_pb2.Route:
    route = route_components_pb2.Route(match=match)
    route.direct_response.status = status
    route.direct_response.body.inline_string = text
    return route
