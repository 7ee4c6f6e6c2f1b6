"""Who may be given which role, and what becomes of an operator's record. Pure."""

from collections.abc import Sequence
from typing import get_args

from controlplane.domain.floors import next_serial
from schemas.errors import Conflict, InvalidInput, Problem
from schemas.names import SYSTEM_NAMESPACE, check_name
from schemas.records import Operator, OperatorRole

ROLES: tuple[OperatorRole, ...] = get_args(OperatorRole)
MAX_NAMESPACES = 100  # shown in one line of a table


def check_grant(role: str, namespaces: Sequence[str]) -> tuple[OperatorRole, tuple[str, ...]]:
    """Raises InvalidInput. Namespaces are an editor's, and none of them is the mesh's own."""
    found = next((one for one in ROLES if one == role), None)
    if found is None:
        raise InvalidInput(Problem("operator", f"unknown role {role[:40]!r}", "role", f"use one of {', '.join(ROLES)}"))
    own = tuple(sorted({check_name(one, "namespace") for one in namespaces}))
    if found != "editor" and own:
        remedy = "leave the namespaces out, or make it editor"
        raise InvalidInput(Problem("operator", f"a {found} has no namespaces", "namespaces", remedy))
    if found == "editor" and not 0 < len(own) <= MAX_NAMESPACES:
        remedy = f"name 1 to {MAX_NAMESPACES} namespaces"
        raise InvalidInput(Problem("operator", f"an editor of {len(own)} namespaces", "namespaces", remedy))
    if SYSTEM_NAMESPACE in own:
        text = f"{SYSTEM_NAMESPACE} holds what counts for the whole mesh"
        raise InvalidInput(Problem("operator", text, "namespaces", "that is for admins"))
    return found, own


def granted(
    before: Operator | None,
    name: str,
    role: OperatorRole,
    namespaces: tuple[str, ...],
    now: float,
    by: str,
    above: int = 0,
) -> Operator:
    """The record with a new role. Who was revoked before starts anew: old certificates and tokens stay worthless.

    `now`: seconds since 1970. `by`: who grants it. `above`: the highest serial that is known of the name.
    """
    goes_on = before is not None and before.revoked is None
    since = before.since if goes_on and before is not None else int(now)
    if before is not None and before.revoked is not None:
        since = max(since, before.revoked + 1)  # what was made in the very second of the revocation is old
    serial = next_serial(now, above, before.serial if before is not None else 0)
    return Operator(name=name, role=role, namespaces=namespaces, since=since, granted_by=by, serial=serial)


def revoked(before: Operator, now: float, by: str, above: int = 0) -> Operator:
    """The record of one who may nothing any more. Raises Conflict where that is so already."""
    if before.revoked is not None:
        raise Conflict(f"operator {before.name} was revoked already, by {before.revoked_by}")
    return Operator(
        name=before.name,
        role=before.role,
        namespaces=before.namespaces,
        since=before.since,
        granted_by=before.granted_by,
        revoked=max(int(now), before.since),
        revoked_by=by,
        serial=next_serial(now, above, before.serial),
    )


def described(operator: Operator) -> str:
    """``editor of shop, stock``."""
    return f"{operator.role} of {', '.join(operator.namespaces)}" if operator.namespaces else operator.role
