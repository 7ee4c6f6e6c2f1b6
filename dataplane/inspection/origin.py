"""Resource ▸ the objects that it came from, by its name (compile.clusters, compile.inbound, compile.outbound). Pure."""

from collections.abc import Iterable, Iterator, Sequence

from authz.peers import concerns
from authz.rules import applies
from dataplane.compile import rate_limits, tokens
from dataplane.compile.hashing import hash_of
from dataplane.compile.inbound import listener_name
from dataplane.compile.outbound import table_of
from dataplane.compile.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET, ResourceKey
from dataplane.compile.route_actions import hashing, tcp_backends
from dataplane.compile.scope import bound_target, scope_of
from dataplane.compile.tcp_times import times_of
from dataplane.compile.telemetry import asked_of_servers, tracing_of
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from routing.backends import Backend, Target, backends_of, targets_of
from routing.table import Table
from schemas.errors import InvalidInput, Problem
from schemas.names import SYSTEM_NAMESPACE, ServiceRef
from schemas.objects.mesh import Mesh
from schemas.objects.service import Service, ServicePort
from schemas.objects.traffic import BackendTrafficPolicy

SETTINGS = "the sidecar's settings"
IDENTITY = "the sidecar's identity"


def origins(state: MeshState, workload: Workload, key: ResourceKey) -> list[str]:
    """``Kind namespace/name`` of each object, or where else it comes from."""
    if key.type_url == SECRET and key.name.startswith("file|"):
        return ["files of this host"]
    if key.type_url == SECRET and key.name.startswith("gateway|"):
        return [*(str(one.ref) for one in state.gateways(workload.service)), "files of this host"]
    if key.type_url == SECRET:
        return [IDENTITY]
    kind, _, rest = key.name.partition("|")
    own = _service(state, workload.service)
    if kind == "app":
        return own
    if key.name == tokens.NO_KEYS:
        return [str(one.ref) for one in tokens.authentications_of(state, workload.service)]
    if kind == "inbound":
        name = key.name.rpartition("|")[0] if key.type_url == EXTENSION else key.name
        port = next((one for one in _ports(state, workload) if listener_name(one) == name), None)
        is_listener = key.type_url == LISTENER
        if not is_listener or (port is not None and port.passes_bytes):
            own += _policies(state, workload.service)
        if is_listener and port is not None and port.passes_bytes:
            own += [str(one.ref) for one in asked_of_servers(state.telemetries(workload.service))]
        return _once([*own, *_modes(state, workload), *_traces(state, workload)])
    if kind == "gateway":
        gateways = state.gateways(workload.service)
        routes = {str(route.ref) for one in gateways for route in state.routes_for_gateway(one)}
        return [*(str(one.ref) for one in gateways), *(sorted(routes) if key.type_url == ROUTES else [])]
    if kind == "telemetry":
        return [str(one.ref) for one in state.telemetries(workload.service) if one.spec.tracing is not None][:1]
    if kind == "missing":
        return _routes_to(state, rest)
    if kind != "outbound":
        return ["a request that the app made"]  # the detour of what was learnt
    if rest == "proxy" and key.type_url == ROUTES:
        routes = {str(route.ref) for service in state.routed() for route in state.routes_for(service)}
        return [SETTINGS, *sorted(routes)]
    if rest == "passthrough":
        return [f"{Mesh.__name__} {SYSTEM_NAMESPACE}/mesh"]
    if rest in ("proxy", "self"):
        return [SETTINGS, *(_traces(state, workload) if key.type_url == LISTENER else [])]
    if rest.startswith("bound|"):
        return _once([f"{one}, dependencies" for one in own] + _behind_bound(state, workload, key, rest))
    try:
        name, _, more = rest.removeprefix("virtual|").partition("|")
        service = ServiceRef.parse(name)
    except InvalidInput:
        return []
    if rest.startswith("virtual|"):
        ports = state.destination(service)
        port = next((one for one in ports.spec.ports if str(one.port) == more), None) if ports is not None else None
        return _once(_entrance(state, workload, key, service, port))
    found = _service(state, service)
    if key.type_url in (CLUSTER, ENDPOINTS):
        policy = state.traffic_policy(service)
        found += [str(policy.ref)] if policy is not None else []
        subset = more.partition("|")[2]
        found += _routes_with(state, service, subset) if subset else []
    return _once(found)


def _behind_bound(state: MeshState, workload: Workload, key: ResourceKey, rest: str) -> list[str]:
    """rest: ``bound|9101``. The own Service says where the port leads."""
    scope = scope_of(workload.service, state.service(workload.service))
    bound = next((one for one in scope.bound if f"bound|{one.bind_port}" == rest), None)
    if bound is None:
        return []
    port = bound_target(state, bound)
    return _entrance(state, workload, key, bound.service, None if isinstance(port, Problem) else port)


def _entrance(
    state: MeshState, workload: Workload, key: ResourceKey, service: ServiceRef, port: ServicePort | None
) -> list[str]:
    """Of what leads to one port of a service."""
    found = _service(state, service)
    if port is not None and key.type_url in (ROUTES, EXTENSION):
        table = table_of(state, service, port, workload.service)
        found += sorted({str(one.route) for one in table.entries})
        found += sorted({str(one.ref) for one in _read_of_backends(state, table)})
    return found + (_traces(state, workload) if port is None or port.protocol != "tcp" else [])


def _read_of_backends(state: MeshState, table: Table) -> Iterator[BackendTrafficPolicy]:
    """Those whose words stand in the routes, or in the TCP filter, that lead there."""
    if table.port.protocol == "tcp":
        policy = state.traffic_policy(tcp_backends(state, table)[0].target.service)
        if policy is not None and (hash_of(policy) is not None or any(times_of(policy))):
            yield policy
        return
    own = Backend(0, Target(table.service, table.port.port), 1)
    routed = [backends_of(one.rule, one.route.namespace, state.destination) for one in table.entries]
    for backends in routed if table.routed else [(own,)]:
        policy = hashing(state, backends)
        if policy is not None:
            yield policy


def _traces(state: MeshState, workload: Workload) -> list[str]:
    """What makes listeners make spans, and routes say what is in them."""
    found = tracing_of(state.telemetries(workload.service))
    return [str(found[0].ref)] if found is not None else []


def _routes_with(state: MeshState, service: ServiceRef, subset: str) -> list[str]:
    """The routes that ask for instances with these labels; subset: ``version=2,zone=a``."""
    return [
        str(route.ref)
        for route in state.routes_to(service)
        if any(
            one.service == service and ",".join(f"{name}={value}" for name, value in one.labels) == subset
            for _, one in targets_of(route, state.destination)
        )
    ]


def _ports(state: MeshState, workload: Workload) -> Sequence[ServicePort]:
    own = state.service(workload.service)
    return own.spec.ports if own is not None else ()


def _once(found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(found))


def _service(state: MeshState, service: ServiceRef) -> list[str]:
    declared = state.destination(service)
    return [str(declared.ref)] if declared is not None else [f"{Service.__name__} {service}, which is gone"]


def _routes_to(state: MeshState, rest: str) -> list[str]:
    """The routes that lead to a service that is not there; rest: ``orders.shop|8080``."""
    try:
        service = ServiceRef.parse(rest.partition("|")[0])
    except InvalidInput:
        return ["a route"]
    return [str(route.ref) for route in state.routes_to(service)] or ["a route"]


def _modes(state: MeshState, workload: Workload) -> list[str]:
    found = state.peer_authentications(workload.service.namespace)
    return [str(one.ref) for one in found if concerns(one, workload.service)]


def _policies(state: MeshState, service: ServiceRef) -> list[str]:
    found = [policy.ref for policy in state.authorization_policies(service.namespace) if applies(policy, service)]
    found += [policy.ref for policy in state.rate_limits(service.namespace) if rate_limits.targets(policy, service)]
    found += [one.ref for one in tokens.authentications_of(state, service)]
    return [str(ref) for ref in found]
