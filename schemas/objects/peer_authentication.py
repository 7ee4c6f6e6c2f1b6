"""`PeerAuthentication`: whether a port takes mTLS alone, or plaintext too, while its callers move into the mesh.

Named as Istio's. What no object says is STRICT.
"""

from typing import Annotated, Literal

import msgspec

from schemas.objects.common import Object, Part, TargetRef

Mode = Literal["STRICT", "PERMISSIVE"]

# As text: keys are text in YAML, JSON and what is stored.
PortNumber = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])\Z",
        description="a port of the Service",
    ),
]


class MutualTls(Part, frozen=True, kw_only=True):
    mode: Mode
    """PERMISSIVE: mTLS and plaintext. Who comes in plaintext has no identity: no rule by identity lets it in."""


class PeerAuthenticationSpec(Part, frozen=True, kw_only=True):
    target_refs: tuple[TargetRef, ...] | None = None
    """The services it is for; absent: all of its namespace, and in mesh-system all of the mesh."""
    mtls: MutualTls | None = None
    """Absent: what a wider object says."""
    port_level_mtls: dict[PortNumber, MutualTls] = {}  # noqa: RUF012  (msgspec copies it)
    """By the Service's ports, not the app's; goes before `mtls`. Only with `targetRefs`."""


class PeerAuthentication(Object, frozen=True, kw_only=True, tag="PeerAuthentication"):
    spec: PeerAuthenticationSpec
