"""What becomes of an identity's revocation record. Pure. `now`: seconds since 1970; `by`: who asks for it."""

from schemas.errors import Conflict, InvalidInput, Problem
from schemas.names import ServiceRef
from schemas.records import Revocation

MAX_REASON_BYTES = 500  # each sidecar keeps it


def changed(
    before: Revocation | None, service: ServiceRef, *, revoked: bool, now: float, by: str, reason: str
) -> Revocation:
    """The record that revokes or restores. Raises Conflict where it is so already, InvalidInput for a long reason.

    Its serial is at least the time: also where every record of before was lost, the newest word of an operator counts.
    """
    if len(reason.encode()) > MAX_REASON_BYTES:
        raise InvalidInput(Problem("reason", f"longer than {MAX_REASON_BYTES} bytes", "reason", "write it shorter"))
    name = f"{service.namespace}/{service.name}"
    if before is not None and before.revoked == revoked:
        state = "revoked" if revoked else "restored"
        raise Conflict(f"the identity of {name} was {state} already, by {before.by}")
    if before is None and not revoked:
        raise Conflict(f"the identity of {name} is not revoked")
    return Revocation(
        namespace=service.namespace,
        service=service.name,
        serial=max(int(now), before.serial + 1 if before else 1),
        revoked=revoked,
        at=int(now),
        by=by,
        reason=reason,
    )
