"""`Mesh`: the one object that speaks for all of the mesh. Named `mesh`, in namespace `mesh-system`."""

from typing import Annotated, Literal

import msgspec

from schemas.objects.common import Object, Part, TrustDomain

# Below some seconds a renewal takes longer than it buys, and clocks that are a little off matter; what is shorter than
# 10 minutes is for trying out how identities end. Above 1 week a stolen key would matter.
SvidTtl = Annotated[int, msgspec.Meta(ge=15, le=7 * 24 * 3600)]


class VirtualRanges(Part, frozen=True, kw_only=True):
    """Where services get their virtual addresses from; networks in CIDR form."""

    ipv4: Annotated[str, msgspec.Meta(max_length=18)] = "127.240.0.0/16"
    """The default is of loopback, so that a sidecar can listen there without any privilege or set-up of the host; it is
    apart from 127.0.0.0/16, where hosts have their own names and resolvers."""
    ipv6: Annotated[str, msgspec.Meta(max_length=43)] = "fd6d:6573:6800::/64"
    """The default is of the unique local addresses (RFC 4193), and routed nowhere."""


class OutboundTrafficPolicy(Part, frozen=True, kw_only=True):
    """What becomes of calls to what is neither a service of the mesh nor an ExternalService (Istio: MeshConfig)."""

    mode: Literal["REGISTRY_ONLY", "ALLOW_ANY"] = "REGISTRY_ONLY"
    """REGISTRY_ONLY: they are refused. ALLOW_ANY: they go where they are addressed to, as the app sends them."""


class Authorization(Part, frozen=True, kw_only=True):
    """What holds of calls that no AuthorizationPolicy is about."""

    default_action: Literal["DENY", "ALLOW"] = "DENY"
    """ALLOW: any workload of the mesh is let in whom no DENY refuses, so that ALLOW policies say nothing more."""


class MeshSpec(Part, frozen=True, kw_only=True):
    trust_domain: TrustDomain
    svid_ttl_seconds: SvidTtl = 3600
    """How long a workload's SVID lives; it is renewed at half of it."""
    virtual_addresses: VirtualRanges = VirtualRanges()
    """Can't change while any service has an address."""
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy()
    authorization: Authorization = Authorization()
    denial_header: bool = False
    """Whether who is denied is told by which rule, in the header `x-mesh-denied-by`; or, where none allows it, which
    ALLOW came nearest, in `x-mesh-nearest`."""


class Mesh(Object, frozen=True, kw_only=True, tag="Mesh"):
    spec: MeshSpec
