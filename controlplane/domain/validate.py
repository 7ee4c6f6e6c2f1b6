"""A change set as a whole: every problem of every object, in the state as it will be. Pure."""

from collections.abc import Iterator, Sequence

from controlplane.domain.change import Change
from controlplane.domain.known import After, Known
from controlplane.domain.reads import narrows
from controlplane.domain.references import references
from controlplane.domain.rules import problems_of
from schemas.errors import Problem
from schemas.names import ObjectRef
from schemas.objects import AnyObject, Mesh


def validate(changes: Sequence[Change], known: Known) -> list[Problem]:
    """All problems, in the order of the changes; none: the change set may be planned.

    `known` must hold what `reads` asks for. Whether expected revisions hold is the plan's question.
    """
    after = After(known, changes)
    problems = list(_repeated_objects(changes))
    for change in changes:
        if change.put is not None:
            problems += problems_of(change.put, after, change.subject)
        problems += _mesh_stays(change, known)
    problems += _broken_referrers(changes, known, after)
    return problems


def _repeated_objects(changes: Sequence[Change]) -> Iterator[Problem]:
    first: dict[ObjectRef, Change] = {}
    for change in changes:
        earlier = first.setdefault(change.ref, change)
        if earlier is not change:
            where = f", first at {earlier.source}" if earlier.source else ""
            yield Problem(change.subject, f"stands in the change set a second time{where}", remedy="leave one out")


def _mesh_stays(change: Change, known: Known) -> Iterator[Problem]:
    """The mesh object can't go, nor its trust domain change: every identity is made of it."""
    if change.ref.kind != "Mesh":
        return
    if change.put is None:
        yield Problem(change.subject, "the mesh object can't be deleted", remedy="stop the replicas to end a mesh")
        return
    stored = known.objects.get(change.ref)
    if stored is None or not isinstance(stored.object, Mesh) or not isinstance(change.put, Mesh):
        return
    before, wanted = stored.object.spec.trust_domain, change.put.spec.trust_domain
    if before != wanted:
        message = f"the trust domain can't change, from {before} to {wanted}: every identity is made of it"
        yield Problem(change.subject, message, "$.spec.trustDomain", f"write {before}, or make a new mesh")


def _broken_referrers(changes: Sequence[Change], known: Known, after: After) -> Iterator[Problem]:
    """Objects outside the change set that a deleted or narrowed service leaves with something that no longer holds."""
    narrowed = {change.ref: change for change in changes if narrows(change, known)}
    if not narrowed:
        return
    written = {change.ref for change in changes}
    before = After(known, ())
    for referrer in after:
        if referrer.ref in written:
            continue  # its own problems have been told
        named = {reference.target for reference in references(referrer)} & narrowed.keys()
        if not named:
            continue
        already = _faults(referrer, before)
        for fault in sorted(_faults(referrer, after) - already):
            culprit = narrowed[_culprit(referrer, fault, named)]
            message = f"{referrer.ref} needs it as it is: {fault.path}: {fault.message}"
            yield Problem(culprit.subject, message, remedy=f"change or delete {referrer.ref} in the same change set")


def _faults(value: AnyObject, state: After) -> frozenset[Problem]:
    return frozenset(problems_of(value, state, str(value.ref)))


def _culprit(referrer: AnyObject, fault: Problem, named: set[ObjectRef]) -> ObjectRef:
    """Which of the services that it names the fault is about: the one of the same field, else the first."""
    for reference in references(referrer):
        if reference.target in named and fault.path.startswith(reference.path):
            return reference.target
    return min(named)
