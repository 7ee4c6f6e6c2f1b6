"""Which roles may call what. One table; an RPC that is not in it is refused. Pure.

What an operator's role is, is said by a record in etcd (`controlplane.api.operators`), never by its certificate.
"""

import enum
from collections.abc import Iterable, Mapping

from controlplane.api.caller import Caller, CallerKind
from schemas.errors import PermissionDenied


class Role(enum.Enum):
    ROOT_LOCAL = "root-local"
    ADMIN = "admin"
    EDITOR = "editor"
    """Reads all, and writes in its own namespaces: what it writes is checked by `authorize_namespaces` as well."""
    VIEWER = "viewer"
    NONE = "none"
    SIDECAR = "sidecar"
    CONTROL_PLANE = "control-plane"
    ANONYMOUS = "anonymous"


_ADMINS = frozenset({Role.ROOT_LOCAL, Role.ADMIN})
_EDITORS = _ADMINS | {Role.EDITOR}
_VIEWERS = _EDITORS | {Role.VIEWER}
_SIDECARS = frozenset({Role.SIDECAR})
_ANONYMOUS = frozenset({Role.ANONYMOUS})

ALLOWED: Mapping[str, frozenset[Role]] = {
    "/mesh.v1.Config/Apply": _EDITORS,
    "/mesh.v1.Config/Get": _VIEWERS,
    "/mesh.v1.Config/List": _VIEWERS,
    "/mesh.v1.Config/Watch": _VIEWERS,
    # Whoever has an identity renews it: a token would let it become another service.
    "/mesh.v1.Identity/Challenge": _ANONYMOUS,
    "/mesh.v1.Identity/Join": _ANONYMOUS,
    "/mesh.v1.Identity/Login": _ANONYMOUS,
    "/mesh.v1.Identity/RenewLogin": frozenset({Role.ADMIN, Role.EDITOR, Role.VIEWER}),
    "/mesh.v1.Identity/Renew": _SIDECARS,
    "/mesh.v1.Identity/RenewBatch": _SIDECARS,
    # For the workload behind the sidecar: the caller's own identity, whatever it asks.
    "/mesh.v1.Identity/IssueX509": _SIDECARS,
    "/mesh.v1.Identity/IssueJwt": _SIDECARS,
    # For the services of an editor's namespaces; for operators by admins only.
    "/mesh.v1.Tokens/Create": _EDITORS,
    "/mesh.v1.Tokens/List": _VIEWERS,
    "/mesh.v1.Tokens/Revoke": _EDITORS,
    # Of the identities of an editor's namespaces.
    "/mesh.v1.Revocations/List": _VIEWERS,
    "/mesh.v1.Revocations/EtcdList": _VIEWERS,
    "/mesh.v1.Revocations/Revoke": _EDITORS,
    "/mesh.v1.Revocations/Restore": _EDITORS,
    # Who may what is for those who may all.
    "/mesh.v1.Operators/List": _ADMINS,
    "/mesh.v1.Operators/Grant": _ADMINS,
    "/mesh.v1.Operators/Revoke": _ADMINS,
    "/mesh.v1.Attestors/List": _VIEWERS,
    "/mesh.v1.Attestors/Put": _ADMINS,
    "/mesh.v1.Attestors/Delete": _ADMINS,
    "/mesh.v1.Attestors/Where": _VIEWERS,
    # For itself alone: namespace and service come from its identity.
    "/mesh.v1.Sidecars/Register": _SIDECARS,
    "/mesh.v1.Sidecars/Deregister": _SIDECARS,
    "/mesh.v1.Sidecars/Report": _SIDECARS,
    "/mesh.v1.Sidecars/List": _VIEWERS,
    "/mesh.v1.Sidecars/Wait": _VIEWERS,
    # Of the sidecars of an editor's namespaces: Envoy's loggers write headers, with what is secret in them.
    "/mesh.v1.Sidecars/SetLogLevel": _EDITORS,
    # Access logs are among the answers: whom what is asked of, and when.
    "/mesh.v1.Questions/Ask": _VIEWERS,
    # For itself alone, as a report.
    "/mesh.v1.Questions/Answer": _SIDECARS,
    # What is seen of CA keys is public, and monitoring asks for it; who steers the CA can become anybody.
    "/mesh.v1.Authority/Status": _VIEWERS,
    "/mesh.v1.Authority/Follow": _VIEWERS,
    "/mesh.v1.Authority/Rotate": _ADMINS,
    "/mesh.v1.Authority/StopRotation": _ADMINS,
    "/mesh.v1.Authority/Prepare": _ADMINS,
    "/mesh.v1.Authority/Activate": _ADMINS,
    "/mesh.v1.Authority/Retire": _ADMINS,
    "/mesh.v1.Authority/Remove": _ADMINS,
    "/mesh.v1.Authority/Request": _ADMINS,
    "/mesh.v1.Authority/Install": _ADMINS,
    "/mesh.v1.Authority/Reseal": _ADMINS,
    # Bundles are public. Who has one fetched says no more than "now".
    "/mesh.v1.Federation/Status": _VIEWERS,
    "/mesh.v1.Federation/Bundle": _VIEWERS,
    "/mesh.v1.Federation/Fetch": _ADMINS,
    # Public keys. Of places that only objects of an editor's namespaces name.
    "/mesh.v1.KeySets/Status": _VIEWERS,
    "/mesh.v1.KeySets/Fetch": _EDITORS,
}


_OF_KIND: Mapping[CallerKind, Role] = {
    CallerKind.ROOT_LOCAL: Role.ROOT_LOCAL,
    CallerKind.SIDECAR: Role.SIDECAR,
    CallerKind.CONTROL_PLANE: Role.CONTROL_PLANE,
    CallerKind.ANONYMOUS: Role.ANONYMOUS,
}


def role_of(caller: Caller) -> Role:
    if caller.kind is not CallerKind.OPERATOR:
        return _OF_KIND[caller.kind]
    return Role(caller.operator.role) if caller.operator is not None else Role.NONE


def authorize(path: str, caller: Caller) -> None:
    """Raises PermissionDenied."""
    role = role_of(caller)
    if role not in ALLOWED.get(path, frozenset()):
        raise PermissionDenied(
            f"{path} is not for a caller of kind {caller.kind.value} and role {role.value} ({caller})"
        )


def authorize_namespaces(caller: Caller, namespaces: Iterable[str], what: str) -> None:
    """An editor writes in its own namespaces only. Raises PermissionDenied; `what` names what was to be written."""
    if caller.operator is None or caller.operator.role == "admin":
        return
    own = caller.operator.namespaces if caller.operator.role == "editor" else ()
    foreign = sorted(set(namespaces) - set(own))
    if foreign:
        mine = f"of {', '.join(own)}" if own else "of no namespace"
        raise PermissionDenied(
            f"{what} of {', '.join(foreign)}: {caller.operator.name} is {caller.operator.role} {mine}"
        )


def authorize_whole_mesh(caller: Caller, what: str) -> None:
    """What is of no namespace is for admins. Raises PermissionDenied."""
    if caller.operator is not None and caller.operator.role != "admin":
        raise PermissionDenied(f"{what}: {caller.operator.name} is {caller.operator.role}, and this is for admins")
