"""`Mesh`: the one object that speaks for all of the mesh. Named `mesh`, in namespace `mesh-system`."""

from typing import Annotated

import msgspec

from schemas.objects.common import Object, Part, TrustDomain

# Below some seconds a renewal takes longer than it buys, and clocks that are a little off matter; what is shorter than
# 10 minutes is for trying out how identities end. Above 1 week a stolen key would matter.
SvidTtl = Annotated[int, msgspec.Meta(ge=15, le=7 * 24 * 3600)]


class MeshSpec(Part, frozen=True, kw_only=True):
    trust_domain: TrustDomain
    svid_ttl_seconds: SvidTtl = 3600
    """How long a workload's SVID lives; it is renewed at half of it."""


class Mesh(Object, frozen=True, kw_only=True, tag="Mesh"):
    spec: MeshSpec
