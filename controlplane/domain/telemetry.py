"""What a `Telemetry` must hold beyond its own schema: one matter of one service is said once in each rank. Pure."""

from collections.abc import Iterator

from controlplane.domain.known import After
from controlplane.domain.references import references
from schemas.errors import Problem
from schemas.objects import Telemetry


def telemetry_problems(telemetry: Telemetry, after: After, subject: str) -> Iterator[Problem]:
    targets = [reference.target for reference in references(telemetry)]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            yield Problem(subject, f"names {target} twice", f"$.spec.targetRefs[{index}]", "name it once")
    for other in after:
        if not isinstance(other, Telemetry) or other.ref == telemetry.ref:
            continue
        if other.metadata.namespace != telemetry.metadata.namespace or not _meet(telemetry, other):
            continue
        for section in telemetry.sections:
            if section in other.sections:
                message = f"{other.ref} already says that, for the same services"
                yield Problem(subject, message, f"$.spec.{section}", "merge the two")


def _meet(one: Telemetry, other: Telemetry) -> bool:
    """Of one namespace: whether both speak for one service by name, or both for all of the namespace."""
    first, second = one.spec.target_refs, other.spec.target_refs
    if first is None or second is None:
        return first is None and second is None
    return bool(set(first) & set(second))
