"""`Mesh`: the one object that speaks for all of the mesh. Named `mesh`, in namespace `mesh-system`."""

from typing import Annotated

import msgspec

from schemas.objects.common import Object, Part, TrustDomain

# Below 1 minute a clock a few seconds off would matter; above 1 week a stolen key would.
SvidTtl = Annotated[int, msgspec.Meta(ge=60, le=7 * 24 * 3600)]


class MeshSpec(Part, frozen=True, kw_only=True):
    trust_domain: TrustDomain
    svid_ttl_seconds: SvidTtl = 3600
    """How long a workload's SVID lives; it is renewed at half of it."""


class Mesh(Object, frozen=True, kw_only=True, tag="Mesh"):
    spec: MeshSpec
