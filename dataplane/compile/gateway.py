"""Gateways: listeners for anybody, in the sidecars of the service that a `Gateway` names.

One Envoy listener a port. For HTTPS each listener of a Gateway is a filter chain, chosen by the name in the handshake,
with routes of its own; for HTTP they are virtual hosts of one route table. From there on it is like a call of the
service's own app: the same routes, clusters and identity.

What is open in a chain ends with it, and a chain that differs is another one. So host names and routes are not in it,
and certificates stand there by the listener's name: a change of them ends nothing.

A listener needs two who agree: the object, and the settings of the host. Without its certificate there is no chain, so
that nobody is answered by a name that we can't prove.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

from dataplane.compile import clusters, tls, unserved
from dataplane.compile.access_log import access_logs
from dataplane.compile.chains import choose_by_server_name
from dataplane.compile.hashing import source_filter
from dataplane.compile.http import Edge, connection_manager
from dataplane.compile.passing import HANDSHAKE_S
from dataplane.compile.resources import LISTENER, ROUTES, Resource
from dataplane.compile.route_actions import gateway_routes
from dataplane.compile.route_filters import Way, dormant_filters
from dataplane.compile.stamps import newest, stamp
from dataplane.compile.tracing import OF_STRANGERS
from dataplane.compile.workload import GatewayHost, KeyPair, Workload
from dataplane.snapshot.state import MeshState
from routing.backends import targets_of
from routing.gateways import Place, attached, covers, entries_at, gateway_of, names_listener, places, refusal
from schemas.errors import Problem
from schemas.gateway_faults import conflict
from schemas.objects import AnyRoute, Gateway
from schemas.objects.common import CertificateFiles
from schemas.objects.gateway import MAX_CERTIFICATES, Listener

# Bytes of a connection that wait for the other side; strangers' connections hold no more (Envoy's edge guide).
_BUFFER_BYTES = 32 * 1024
_NOT_FOUND = "not found\n"

_Append = base_pb2.HeaderValueOption


@dataclass(frozen=True, slots=True)
class _Port:
    """The listeners of one port, each for another host name, all of one protocol."""

    number: int
    places: tuple[Place, ...]


def gateway_resources(state: MeshState, workload: Workload) -> tuple[list[Resource], list[Problem]]:
    """Listeners and routes of all gateways in this sidecar, and what is wrong with them."""
    gateways = state.gateways(workload.service)
    if not gateways:
        return [], []
    if workload.gateway is None:
        remedy = "add `gateway` to the settings of the hosts that are to be one"
        text = "this sidecar is no gateway: its settings have no `gateway`"
        return [], [Problem(str(one.ref), text, "$.spec.service", remedy) for one in gateways]
    problems: list[Problem] = []
    resources: list[Resource] = []
    for port in _ports(gateways, problems):
        taken = _taken(state, workload, workload.gateway, port.number)
        if taken is not None:
            problems += [Problem(str(one), taken, "", "choose another port") for one in port.places]
            continue
        made = _https(state, workload, port, problems) if _is_https(port) else _http(state, workload, port)
        resources += made
    problems += [problem for gateway in gateways for problem in _route_problems(state, gateway)]
    return resources, sorted(set(problems))


def certificates_wanted(state: MeshState, workload: Workload) -> dict[CertificateFiles, str]:
    """The files that gateways in this sidecar ask for, each with who asks first."""
    found: dict[CertificateFiles, str] = {}
    for gateway in state.gateways(workload.service) if workload.gateway is not None else ():
        for listener in gateway.spec.listeners:
            for files in _certificates(listener):
                found.setdefault(files, str(Place(gateway, listener)))
    return found


def _ports(gateways: Iterable[Gateway], problems: list[Problem]) -> list[_Port]:
    """By number. What contradicts an earlier one, by the gateways' names, is left out."""
    found, left_out = places(gateways)
    for place, rival in left_out:
        text = f"{rival.gateway.ref}: {conflict(rival.listener, place.listener)}"
        problems.append(Problem(str(place), text, "", "choose another port or hostname"))
    ports: dict[int, list[Place]] = {}
    for place in found:
        ports.setdefault(place.listener.port, []).append(place)
    return [_Port(number, tuple(there)) for number, there in sorted(ports.items())]


def _taken(state: MeshState, workload: Workload, host: GatewayHost, number: int) -> str | None:
    """Envoy refuses the later of two listeners with one address; and one for all addresses would hide the way in."""
    listens = host.ports.get(number, number)
    own = state.service(workload.service)
    inbound = (
        {workload.inbound_ports.get(port.name, port.port) for port in own.spec.ports} if own is not None else set()
    )
    if listens in inbound and _meet(host.address, workload.inbound_address):
        return f"port {listens} is where {workload.service} itself is reached from inside of the mesh"
    if listens == workload.proxy_port and _meet(host.address, workload.local_address):
        return f"port {listens} is the sidecar's proxy port"
    return None


def _meet(listening: str, address: str) -> bool:
    return listening in (address, "0.0.0.0", "::")  # noqa: S104  (compared, not bound)


# -- HTTP


def _http(state: MeshState, workload: Workload, port: _Port) -> list[Resource]:
    name = f"gateway|{port.number}"
    listener = _listener(workload, port.number)
    # One chain for all of them: strangers are believed no more than any of its Gateways says.
    hops = min(one.gateway.spec.xff_trusted_hops for one in port.places)
    _chain(listener, workload, name, hops)
    configuration = _configuration(name)
    for place in port.places:
        configuration.virtual_hosts.append(_host(state, place, [place.listener.hostname or "*"], hops))
    return [Resource.of(LISTENER, listener.name, listener), Resource.of(ROUTES, name, configuration)]


# -- HTTPS


def _https(state: MeshState, workload: Workload, port: _Port, problems: list[Problem]) -> list[Resource]:
    listener = _listener(workload, port.number)
    inspector = listener_components_pb2.ListenerFilter(name="envoy.filters.listener.tls_inspector")
    inspector.typed_config.CopyFrom(tls.packed(tls_inspector_pb2.TlsInspector()))
    listener.listener_filters.append(inspector)
    result, chains = [], {}
    for place in port.places:
        known = [one for one in _certificates(place.listener) if one in workload.certificates]
        if not known:
            continue  # the agent says which file is missing
        problems += _other_names(place, [workload.certificates[one] for one in known])
        name = f"gateway|{port.number}|{place.gateway.metadata.name}|{place.listener.name}"
        hops = place.gateway.spec.xff_trusted_hops
        chain = _chain(listener, workload, name, hops)
        chain.name = chains[place.listener.hostname] = name
        secrets = [tls.pair_secret(*one) for one in _slots(name, [workload.certificates[one] for one in known])]
        result += secrets
        chain.transport_socket.CopyFrom(tls.public(one.key.name for one in secrets))
        chain.transport_socket_connect_timeout.seconds = HANDSHAKE_S
        configuration = _configuration(name)
        configuration.virtual_hosts.append(_host(state, place, [place.listener.hostname or "*"], hops))
        # Browsers use a connection for another host that its certificate is for as well: that one's listener is to
        # answer, with its own routes, and 421 makes them open a connection to it (RFC 9110, 15.5.20).
        others = [one.listener.hostname for one in port.places if _is_within(one.listener, place.listener)]
        elsewhere = [*(host for host in others if host is not None), *(["*"] if place.listener.hostname else [])]
        if elsewhere:
            host = configuration.virtual_hosts.add(name="elsewhere", domains=elsewhere)
            host.routes.append(_answer(421, "misdirected request\n"))
        result.append(Resource.of(ROUTES, name, configuration))
    if not listener.filter_chains:
        return []
    choose_by_server_name(listener, chains)
    return [Resource.of(LISTENER, listener.name, listener), *result]


def _slots(name: str, pairs: Sequence[KeyPair]) -> Iterator[tuple[str, KeyPair]]:
    """Names of secrets for that chain, and what they hold: always as many, so that a listener with other certificates,
    or more of them, has the same chain. Of several that fit a client Envoy shows the first."""
    for slot in range(MAX_CERTIFICATES):
        yield f"{name}|{slot}", pairs[slot] if slot < len(pairs) else pairs[0]


def _is_within(one: Listener, other: Listener) -> bool:
    """Whether a part of the hosts of `other` is for `one`, which is narrower."""
    if one is other or one.hostname is None:
        return False
    return other.hostname is None or covers(other.hostname, one.hostname)


def _other_names(place: Place, pairs: Sequence[KeyPair]) -> Iterator[Problem]:
    host = place.listener.hostname
    if host is None or any(name == host or covers_one(name, host) for pair in pairs for name in pair.names):
        return
    names = ", ".join(sorted({name for pair in pairs for name in pair.names})) or "no name"
    text = f"its certificate is for {names}: clients that ask for {host} will refuse it"
    yield Problem(str(place), text, "", "get a certificate for that name, or correct `hostname`")


def covers_one(pattern: str, host: str) -> bool:
    """Of certificates: a wildcard stands for one label (RFC 9525, 6.3)."""
    return pattern.startswith("*.") and host.partition(".")[2] == pattern[2:]


# -- parts


def _is_https(port: _Port) -> bool:
    return port.places[0].listener.protocol == "HTTPS"


def _certificates(listener: Listener) -> tuple[CertificateFiles, ...]:
    return listener.tls.certificate_refs if listener.tls is not None else ()


def _listener(workload: Workload, number: int) -> listener_pb2.Listener:
    host = workload.gateway or GatewayHost("127.0.0.1")
    listener = listener_pb2.Listener(
        name=f"gateway|{number}",
        address=clusters.socket_address(host.address, host.ports.get(number, number)),
        traffic_direction="INBOUND",
    )
    if host.address == "::":
        listener.address.socket_address.ipv4_compat = True
    listener.per_connection_buffer_limit_bytes.value = _BUFFER_BYTES
    return listener


def _chain(
    listener: listener_pb2.Listener, workload: Workload, routes: str, hops: int
) -> listener_components_pb2.FilterChain:
    chain = listener.filter_chains.add()
    manager = connection_manager(
        name=routes,
        inbound=False,
        filters=dormant_filters(),
        access_logs=access_logs(workload, "client", http=True),
        edge=Edge(trusted_hops=hops),
    )
    chain.filters.extend([source_filter(workload), manager])
    return chain


def _configuration(name: str) -> route_pb2.RouteConfiguration:
    configuration = route_pb2.RouteConfiguration(name=name, ignore_port_in_host_matching=True)
    configuration.validate_clusters.value = False  # the order of pushes sees to it
    configuration.request_headers_to_remove.extend(OF_STRANGERS)
    unserved.keep_from_apps(configuration)
    return configuration


def _host(state: MeshState, place: Place, domains: Sequence[str], hops: int) -> route_components_pb2.VirtualHost:
    """hops: how many proxies in front are believed."""
    routes = _attached(state, place)
    host = route_components_pb2.VirtualHost(name=str(place), domains=domains)
    stamp(host.metadata, revision=newest(state, [place.gateway, *routes]))
    entries = entries_at(place.gateway, place.listener, routes)
    host.routes.extend(gateway_routes(state, entries, Way(place.listener.protocol.lower(), place.listener.port)))
    if place.listener.tls is not None and place.listener.tls.https_redirect:
        route = route_components_pb2.Route(match=route_components_pb2.RouteMatch(prefix="/"))
        route.redirect.https_redirect = True
        number = _https_port(place)
        if (place.listener.port, number) != (80, 443):  # those stand in no URL
            route.redirect.port_redirect = number
        host.routes.append(route)
    else:
        host.routes.append(_answer(404, _NOT_FOUND))
    # The app's own sidecar, reached by mTLS, writes x-forwarded-proto anew: how the client came stands beside it.
    told = {"x-forwarded-scheme": "%REQ(X-FORWARDED-PROTO)%"}
    if not hops:
        told |= {"x-forwarded-host": "%REQ(:AUTHORITY)%", "x-forwarded-port": str(place.listener.port)}
    for name, value in told.items():
        option = host.request_headers_to_add.add(append_action=_Append.OVERWRITE_IF_EXISTS_OR_ADD)
        option.header.key, option.header.value = name, value
    return host


def _https_port(place: Place) -> int:
    """Where the gateway takes HTTPS: for that host name first."""
    found = [one for one in place.gateway.spec.listeners if one.protocol == "HTTPS"]
    found.sort(key=lambda one: (one.hostname != place.listener.hostname, one.port != 443))
    return found[0].port if found else 443


def _answer(status: int, text: str) -> route_components_pb2.Route:
    route = route_components_pb2.Route(match=route_components_pb2.RouteMatch(prefix="/"))
    route.direct_response.status = status
    route.direct_response.body.inline_string = text
    return route


def _attached(state: MeshState, place: Place) -> list[AnyRoute]:
    routes = state.routes_for_gateway(place.gateway)
    return [one for one in routes if attached(place.gateway, place.listener, one)]


def _route_problems(state: MeshState, gateway: Gateway) -> Iterator[Problem]:
    """Of the routes that name the gateway: which are for none of its listeners, and what leads nowhere."""
    for route in state.routes_for_gateway(gateway):
        for index, parent in enumerate(route.spec.parent_refs):
            if gateway_of(route, parent) != gateway.ref:
                continue
            named = [one for one in gateway.spec.listeners if names_listener(parent, one)]
            reasons = [refusal(gateway, one, route) for one in named]
            if not named:
                reasons = ["it has no such listener"]
            if all(reasons):
                text = f"is attached to no listener of {gateway.ref}: {reasons[0]}"
                yield Problem(str(route.ref), text, f"$.spec.parentRefs[{index}]", "correct the route or the listener")
                continue
            for path, target in targets_of(route, state.destination):
                if target.missing:
                    text = f"{target.missing}: its share of the requests is answered 503"
                    yield Problem(str(route.ref), text, path, "correct the route, or apply the service")
