"""Which kinds of caller may call what. One table; an RPC that is not in it is refused. Pure."""

from collections.abc import Mapping

from controlplane.api.caller import Caller, CallerKind
from schemas.errors import PermissionDenied

_ADMINS = frozenset({CallerKind.ROOT_LOCAL, CallerKind.OPERATOR})
_SIDECARS = frozenset({CallerKind.SIDECAR})

ALLOWED: Mapping[str, frozenset[CallerKind]] = {
    "/mesh.v1.Config/Apply": _ADMINS,
    "/mesh.v1.Config/Get": _ADMINS,
    "/mesh.v1.Config/List": _ADMINS,
    "/mesh.v1.Config/Watch": _ADMINS,
    # Whoever has an identity renews it: a token would let it become another service.
    "/mesh.v1.Identity/Join": frozenset({CallerKind.ANONYMOUS}),
    "/mesh.v1.Identity/Renew": _SIDECARS,
    "/mesh.v1.Tokens/Create": _ADMINS,
    # For itself alone: namespace and service come from its identity.
    "/mesh.v1.Sidecars/Register": _SIDECARS,
    "/mesh.v1.Sidecars/Deregister": _SIDECARS,
    "/mesh.v1.Sidecars/Report": _SIDECARS,
    "/mesh.v1.Sidecars/List": _ADMINS,
    "/mesh.v1.Sidecars/Wait": _ADMINS,
}


def authorize(path: str, caller: Caller) -> None:
    """Raises PermissionDenied."""
    if caller.kind not in ALLOWED.get(path, frozenset()):
        raise PermissionDenied(f"{path} is not for a caller of kind {caller.kind.value} ({caller})")
