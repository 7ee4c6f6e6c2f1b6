"""`Mesh`: the one object that speaks for all of the mesh. Named `mesh`, in namespace `mesh-system`."""

from typing import Annotated

import msgspec

from schemas.objects.common import Object, Part

# Below 1 minute a clock a few seconds off would matter; above 1 week a stolen key would.
SvidTtl = Annotated[int, msgspec.Meta(ge=60, le=7 * 24 * 3600)]


class MeshSpec(Part, frozen=True, kw_only=True):
    trust_domain: Annotated[
        str,
        msgspec.Meta(pattern=r"^[a-z0-9._-]{1,255}\Z", description="1 to 255 of a-z, 0-9, '.', '_' and '-'"),
    ]
    svid_ttl_seconds: SvidTtl = 3600
    """How long a workload's SVID lives; it is renewed at half of it."""


class Mesh(Object, frozen=True, kw_only=True, tag="Mesh"):
    spec: MeshSpec
