"""Resource ▸ the objects that it came from, by its name (compile.clusters, compile.inbound, compile.outbound). Pure."""

from authz.peers import concerns
from authz.rules import applies
from dataplane.compile import rate_limits, tokens
from dataplane.compile.resources import CLUSTER, ENDPOINTS, ROUTES, SECRET, ResourceKey
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from schemas.errors import InvalidInput
from schemas.names import SYSTEM_NAMESPACE, ServiceRef
from schemas.objects.mesh import Mesh
from schemas.objects.service import Service

SETTINGS = "the sidecar's settings"
IDENTITY = "the sidecar's identity"


def origins(state: MeshState, workload: Workload, key: ResourceKey) -> list[str]:
    """``Kind namespace/name`` of each object, or where else it comes from."""
    if key.type_url == SECRET and key.name.startswith("file|"):
        return ["files of this host"]
    if key.type_url == SECRET:
        return [IDENTITY]
    kind, _, rest = key.name.partition("|")
    own = _service(state, workload.service)
    if kind == "app":
        return own
    if key.name == tokens.NO_KEYS:
        return [str(one.ref) for one in tokens.authentications_of(state, workload.service)]
    if kind == "inbound":
        return [*own, *(_policies(state, workload.service) if key.type_url == ROUTES else []), *_modes(state, workload)]
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
        return [SETTINGS]
    if rest.startswith("bound|"):
        return [f"{own[0]}, dependencies"] if own else []
    try:
        service = ServiceRef.parse(rest.removeprefix("virtual|").partition("|")[0])
    except InvalidInput:
        return []
    policy = state.traffic_policy(service) if key.type_url in (CLUSTER, ENDPOINTS) else None
    return _service(state, service) + ([str(policy.ref)] if policy is not None else [])


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
