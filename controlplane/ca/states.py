"""The states of CA keys, and what follows from them. Pure.

prepared (in the bundle, not signing) -> active (signing) -> retired (in the bundle, no longer signing) -> removed.
"""

from collections.abc import Iterable
from typing import Literal, get_args

from controlplane.ca.errors import NoAuthority, TwoActiveKeys
from schemas.records import SealedKey

Role = Literal["mesh-root", "mesh-issuing", "etcd-client", "mesh-jwt"]
ROLES: tuple[Role, ...] = get_args(Role)


def active_key(records: Iterable[SealedKey], role: Role) -> SealedKey:
    """The one that signs. Raises NoAuthority for none, TwoActiveKeys for more than one."""
    active = sorted((key for key in records if key.role == role and key.state == "active"), key=lambda key: key.id)
    if not active:
        raise NoAuthority(f"no active {role} key in etcd; run `meshadm init`, or restore control/ca/ from a backup")
    if len(active) > 1:
        raise TwoActiveKeys(f"more than one active {role} key: {', '.join(key.id for key in active)}")
    return active[0]


def trusted_roots(records: Iterable[SealedKey]) -> tuple[bytes, ...]:
    """DER of all roots that belong in the trust bundle: those of every state, since removed ones are gone."""
    return tuple(sorted({key.chain[0] for key in records if key.role == "mesh-root"}))
