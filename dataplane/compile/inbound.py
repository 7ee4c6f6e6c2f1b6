"""Inbound: one listener a port of the own service. It takes mTLS (`plaintext`: where that is asked for, not only that),
authorizes, and hands on to the app.

The rules of a port are in its RouteConfiguration: there Envoy applies a new policy to the next request of connections
that are already open, which a changed listener would not.

TCP comes as HTTP CONNECT, each connection a stream. Envoy's network RBAC judges only when the first byte arrives from
the peer (https://github.com/envoyproxy/envoy/issues/9023): by then the app is connected, and what it says first has
gone out to whoever listens. A CONNECT is judged before anything reaches the app.
"""

from collections.abc import Sequence
from functools import partial

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import duration_pb2

from authz.peers import concerns
from authz.rules import applies
from dataplane.compile import authorization, clusters, passing, plaintext, rate_limits, tls, tokens, unserved
from dataplane.compile.access_log import ALWAYS_NEAREST, NEAREST_PREFIX, access_logs
from dataplane.compile.http import connection_manager
from dataplane.compile.log_filters import Carries
from dataplane.compile.one_identity import one_identity
from dataplane.compile.open_streams import headers_kept, keep_headers
from dataplane.compile.reading import read_for
from dataplane.compile.resources import CLUSTER, LISTENER, ROUTES, Resource
from dataplane.compile.stamps import newest, stamp
from dataplane.compile.tracing import KEEP, Tracer, add_chains, set_up, tag, traced
from dataplane.compile.wording import Wording
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from schemas.names import ServiceRef
from schemas.objects.service import Service, ServicePort

DENY = "mesh.authorization.deny"
NEAREST = "mesh.authorization.nearest"
ALLOW = "mesh.authorization.allow"
HTTP = "http"
"""Name of the chain that reads HTTP."""


def listener_name(port: ServicePort) -> str:
    return f"inbound|{port.name}"


def holds_rules(state: MeshState, service: Service) -> bool:
    """Whether there are rules beside the listeners too: of connections whose bytes are passed on."""
    own = ServiceRef(service.metadata.namespace, service.metadata.name)
    return any(
        port.passes_bytes or (port.protocol == "tcp" and authorization.is_permissive(state, own, port))
        for port in service.spec.ports
    )


def inbound_listeners(state: MeshState, workload: Workload) -> list[Resource]:
    """Listener and app cluster of each port, and what judges connections whose bytes are passed on; nothing while the
    own Service does not exist.

    What is open in a chain ends with it, and a chain that differs is another one. So a chain is made of the Service and
    of nothing else in `state`: objects say only which chains there are, and which of them connections come to.
    """
    service = state.service(workload.service)
    if service is None:
        return []
    result = []
    for port in service.spec.ports:
        result.append(
            clusters.app_cluster(port, workload.app_address, workload.app_ports.get(port.name, port.app_port))
        )
        listener = listener_pb2.Listener(
            name=listener_name(port),
            address=clusters.socket_address(workload.inbound_address, workload.inbound_ports.get(port.name, port.port)),
            traffic_direction="INBOUND",
        )
        plaintext.tell_apart(listener)
        transport_socket = tls.downstream(workload.trust_domain)
        carries: Carries = "connections" if port.protocol == "tcp" else "requests"
        logs = access_logs(workload, "server", http=True, carries=carries, port=port.port)
        http = partial(_http_chain, port, transport_socket, logs, workload.samples)
        add_chains(listener, HTTP, http, partial(set_up, workload, "server"), spans=traced(state, workload))
        if port.passes_bytes:
            judging = authorization.rules_for(state, workload.service, workload.trust_domain, port)
            if not read_for(state, workload, port, judging):
                logs = access_logs(workload, "server", http=False)
                result += passing.add_chain(listener, clusters.app_name(port), judging, transport_socket, logs)
                passing.prefer_chain(listener)
        if authorization.is_permissive(state, workload.service, port):
            result += _add_plaintext(listener, state, workload, port)
        result.append(Resource.of(LISTENER, listener.name, listener))
    return result


def _add_plaintext(
    listener: listener_pb2.Listener, state: MeshState, workload: Workload, port: ServicePort
) -> list[Resource]:
    """The same rules; where HTTP is read, they come with the same route, else apart from the listener."""
    is_tcp = port.protocol == "tcp"
    told = None if is_tcp else port.port
    logs = [*access_logs(workload, "server", http=not is_tcp, port=told, plaintext=True), *plaintext.seen(port.port)]
    if is_tcp:
        judging = authorization.rules_for(state, workload.service, workload.trust_domain, port)
        return plaintext.add_tcp(listener, clusters.app_name(port), judging, logs)
    http = partial(_http_chain, port, None, logs, workload.samples)
    plaintext.add_http(listener, http, partial(set_up, workload, "server"), spans=traced(state, workload))
    return []


def _http_chain(
    port: ServicePort,
    transport_socket: base_pb2.TransportSocket | None,
    logs: Sequence[accesslog_pb2.AccessLog],
    samples: str,
    tracer: Tracer | None,
) -> listener_components_pb2.FilterChain:
    """transport_socket: None: for plaintext."""
    chain = listener_components_pb2.FilterChain(transport_socket=transport_socket)
    if transport_socket is not None:
        # A peer that connects and then says nothing holds a connection no longer than this.
        chain.transport_socket_connect_timeout.seconds = passing.HANDSHAKE_S
        chain.filters.append(one_identity(listener_name(port)))
    chain.filters.append(
        connection_manager(
            name=listener_name(port),
            inbound=True,
            plaintext=transport_socket is None,
            filters=[*tokens.filters(), *_authorization_filters(), headers_kept(), *rate_limits.filters()],
            takes_connect=port.protocol == "tcp",
            samples=samples,
            access_logs=logs,
            tracer=tracer,
        )
    )
    return chain


def inbound_routes(
    state: MeshState, workload: Workload, *, closed: bool = False, wording: Wording | None = None
) -> list[Resource]:
    """Route and rules of each port, apart from the listeners: policies change often, and touch nothing else.

    closed: to everybody, at the next request of connections that are open while their listener goes.
    """
    service = state.service(workload.service)
    if service is None:
        return []
    own, namespace = workload.service, workload.service.namespace
    policies = (one for one in state.authorization_policies(namespace) if applies(one, own))
    limiting = [one for one in state.rate_limits(namespace) if rate_limits.targets(one, own)]
    proving = tokens.authentications_of(state, own)
    taking = [one for one in state.peer_authentications(namespace) if concerns(one, own)]
    mesh = state.mesh()  # what holds by default
    revision = newest(state, [service, *policies, *limiting, *proving, *taking, mesh])
    proofs = tokens.proofs_by(proving, state.key_set)
    told = mesh is not None and mesh.spec.denial_header
    judged = authorization.headers_judged(state, own)
    wording = wording or Wording()
    wording.next_round()
    result = []
    for port in service.spec.ports:
        judging = None if closed else authorization.rules_for(state, own, workload.trust_domain, port, wording)
        host = _virtual_host(port, revision, judging or authorization.closed(), told=told)
        if port.protocol != "tcp":
            judges = [name for name in (DENY, NEAREST, ALLOW) if name in host.typed_per_filter_config]
            tokens.authenticate(host, proofs, judges)
            keep_headers(host, judged)
        rate_limits.limit(host, rate_limits.rules_of(limiting, own, port), workload.trust_domain)
        tag(state, workload, [host])
        configuration = route_pb2.RouteConfiguration(name=host.name, virtual_hosts=[host])
        configuration.request_headers_to_remove.append(KEEP)
        unserved.keep_from_apps(configuration)
        configuration.validate_clusters.value = False  # the order of pushes sees to it
        result.append(Resource.of(ROUTES, host.name, configuration))
    if not all(one.has_keys for one in proofs):
        result.append(Resource.of(CLUSTER, tokens.NO_KEYS, clusters.nobody(tokens.NO_KEYS)))
    return result


def _authorization_filters() -> list[hcm_pb2.HttpFilter]:
    """Their rules come with the route. The last is always there, and without any refuses everything; the others run
    where a route has something for them, since each costs every request. The one between decides nothing."""
    nothing = http_rbac_pb2.RBAC(
        rules=rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW), shadow_rules_stat_prefix=NEAREST_PREFIX
    )
    nearest = http_rbac_pb2.RBAC(shadow_rules_stat_prefix=NEAREST_PREFIX)
    return [
        hcm_pb2.HttpFilter(name=DENY, typed_config=tls.packed(http_rbac_pb2.RBAC()), disabled=True),
        hcm_pb2.HttpFilter(name=NEAREST, typed_config=tls.packed(nearest), disabled=True),
        hcm_pb2.HttpFilter(name=ALLOW, typed_config=tls.packed(nothing)),
    ]


def _add_nearest(to: http_rbac_pb2.RBACPerRoute, judging: authorization.Judging) -> None:
    if judging.nearest is not None:
        to.rbac.shadow_rules.CopyFrom(judging.nearest)
        to.rbac.shadow_rules_stat_prefix = NEAREST_PREFIX


def _virtual_host(
    port: ServicePort, revision: int, judging: authorization.Judging, *, told: bool
) -> route_components_pb2.VirtualHost:
    """told: whether who is denied is to be told which ALLOW came nearest. The filter that denies says so to the log
    alone: it has answered by the time that it names what its shadow rules found."""
    name = listener_name(port)
    host = route_components_pb2.VirtualHost(name=name, domains=["*"])
    stamp(host.metadata, revision=revision)
    allow = http_rbac_pb2.RBACPerRoute()
    allow.rbac.rules.CopyFrom(judging.allow)
    if not told:
        _add_nearest(allow, judging)
    host.typed_per_filter_config[ALLOW].Pack(allow, deterministic=True)
    if judging.deny.policies or judging.audit is not None:
        deny = http_rbac_pb2.RBACPerRoute()
        deny.rbac.rules.CopyFrom(judging.deny)
        if judging.audit is not None:
            # What it would refuse, rule by rule: in Envoy's statistics and in the access log.
            deny.rbac.shadow_rules.CopyFrom(judging.audit)
            deny.rbac.track_per_rule_stats = True
        host.typed_per_filter_config[DENY].Pack(deny, deterministic=True)
    if told and judging.nearest is not None:
        per_route = http_rbac_pb2.RBACPerRoute()
        _add_nearest(per_route, judging)
        host.typed_per_filter_config[NEAREST].Pack(per_route, deterministic=True)
    route = host.routes.add()
    if judging.always_nearest:
        stamp(route.metadata, **{ALWAYS_NEAREST: judging.always_nearest})
    route.route.cluster = clusters.app_name(port)
    if port.protocol == "tcp":
        route.match.connect_matcher.SetInParent()
        route.route.upgrade_configs.add(upgrade_type="CONNECT").connect_config.SetInParent()
    else:
        route.match.prefix = "/"
    # How long a request may take is the caller's to say.
    route.route.timeout.CopyFrom(duration_pb2.Duration())
    return host
