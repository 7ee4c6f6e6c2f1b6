"""The objects that operators write, one module a kind. `KINDS` is the list that all else goes by."""

from schemas.objects.authorization import AuthorizationPolicy
from schemas.objects.common import API_VERSION, Metadata, Object, TargetRef
from schemas.objects.external import ExternalService
from schemas.objects.federation import TrustBundle
from schemas.objects.gateway import Gateway
from schemas.objects.grpc_route import GRPCRoute
from schemas.objects.http_route import HTTPRoute
from schemas.objects.mesh import Mesh
from schemas.objects.peer_authentication import PeerAuthentication
from schemas.objects.rate_limit import RateLimitPolicy
from schemas.objects.request_authentication import RequestAuthentication
from schemas.objects.service import Service
from schemas.objects.tcp_route import TCPRoute
from schemas.objects.telemetry import Telemetry
from schemas.objects.traffic import BackendTrafficPolicy

AnyRoute = HTTPRoute | GRPCRoute | TCPRoute
AnyObject = (
    Mesh
    | Service
    | AnyRoute
    | BackendTrafficPolicy
    | AuthorizationPolicy
    | RequestAuthentication
    | PeerAuthentication
    | RateLimitPolicy
    | ExternalService
    | Gateway
    | TrustBundle
    | Telemetry
)

KINDS: dict[str, type[AnyObject]] = {
    kind.__name__: kind
    for kind in (
        Mesh,
        Service,
        HTTPRoute,
        GRPCRoute,
        TCPRoute,
        BackendTrafficPolicy,
        AuthorizationPolicy,
        RequestAuthentication,
        PeerAuthentication,
        RateLimitPolicy,
        ExternalService,
        Gateway,
        TrustBundle,
        Telemetry,
    )
}

ROUTE_KINDS = (HTTPRoute.__name__, GRPCRoute.__name__, TCPRoute.__name__)
MESH_WIDE = frozenset({Mesh.__name__, TrustBundle.__name__})
"""Kinds of no namespace: they are stored in the mesh's own."""

__all__ = [
    "API_VERSION",
    "KINDS",
    "MESH_WIDE",
    "ROUTE_KINDS",
    "AnyObject",
    "AnyRoute",
    "AuthorizationPolicy",
    "BackendTrafficPolicy",
    "ExternalService",
    "GRPCRoute",
    "Gateway",
    "HTTPRoute",
    "Mesh",
    "Metadata",
    "Object",
    "PeerAuthentication",
    "RateLimitPolicy",
    "RequestAuthentication",
    "Service",
    "TCPRoute",
    "TargetRef",
    "Telemetry",
    "TrustBundle",
]  # fmt: skip
