"""`Gateway`: where requests from outside of the mesh come in: ports, host names and certificates (Gateway API v1).

It runs in the sidecars of one service; there is no class of gateways to choose from, so `service` stands where Gateway
API has `gatewayClassName`. HTTPRoutes and GRPCRoutes attach to its listeners by `parentRefs` of kind Gateway.
"""

from typing import Annotated, Literal

import msgspec

from schemas.objects.common import CertificateFiles, Name, Object, Part, Port
from schemas.objects.route_parts import Hostname

MAX_CERTIFICATES = 4  # of a listener

GatewayGroup = Literal["", "core", "gateway.networking.k8s.io"]


class ListenerTls(Part, frozen=True, kw_only=True):
    mode: Literal["Terminate"] = "Terminate"
    certificate_refs: Annotated[tuple[CertificateFiles, ...], msgspec.Meta(max_length=MAX_CERTIFICATES)] = ()
    """Files of the gateway's host: of several the client takes the one that it understands (RSA, ECDSA)."""
    https_redirect: bool = False
    """Of a listener for HTTP: what no route takes is sent to the same URL with https (Istio: ServerTLSSettings)."""


class RouteNamespaces(Part, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Whose routes may attach."""

    from_: Literal["Same", "All", "Names"] = "Same"
    """Same: of the gateway's own namespace. Names: of `names`; namespaces have no labels to select by."""
    names: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)] = ()


class RouteGroupKind(Part, frozen=True, kw_only=True):
    group: GatewayGroup = ""
    kind: Literal["HTTPRoute", "GRPCRoute"]


class AllowedRoutes(Part, frozen=True, kw_only=True):
    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: Annotated[tuple[RouteGroupKind, ...], msgspec.Meta(max_length=8)] = ()
    """Both where absent."""


class Listener(Part, frozen=True, kw_only=True):
    name: Name
    hostname: Hostname | None = None
    """Only requests for that host; all where absent. A request goes to the listener with the most specific name."""
    port: Port
    protocol: Literal["HTTP", "HTTPS"]
    tls: ListenerTls | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpec(Part, frozen=True, kw_only=True):
    service: Name
    """Of the same namespace: its sidecars listen, where their settings say that they are a gateway."""
    listeners: Annotated[tuple[Listener, ...], msgspec.Meta(min_length=1, max_length=64)]
    xff_trusted_hops: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0
    """Proxies in front of the gateway whose `x-forwarded-for` is believed (Istio: numTrustedProxies). 0: what a client
    sends under that name, and its relatives, is dropped."""


class Gateway(Object, frozen=True, kw_only=True, tag="Gateway"):
    spec: GatewaySpec
