"""From a valid change set to one transaction: operations, guards, outcomes. Pure."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.domain.addresses import Assignment
from controlplane.domain.change import Change
from controlplane.domain.federation import MESH_REF
from controlplane.domain.known import Known, Stored
from controlplane.domain.references import references
from controlplane.store.ops import (
    MAX_REQUEST_BYTES,
    MAX_TXN_OPS,
    Delete,
    Guard,
    KeyGuard,
    Op,
    PrefixGuard,
    Put,
    request_bytes,
)
from schemas import codec
from schemas.errors import Conflict, Corrupt, LimitExceeded, NotFound, Problem
from schemas.keys import Keyspace
from schemas.names import ObjectRef
from schemas.objects import AnyObject, PeerAuthentication

# The idempotency record that is written with each change set: one operation, one guard, and its bytes.
RECORD_OPS = 1
RECORD_BYTES = 512


class Action(enum.Enum):
    UNCHANGED = "unchanged"
    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Outcome:
    ref: ObjectRef
    action: Action


@dataclass(frozen=True, slots=True)
class Plan:
    """`written`: what a guard's failure makes a conflict; the other guards only make us look again."""

    ops: tuple[Op, ...]
    guards: tuple[Guard, ...]
    outcomes: tuple[Outcome, ...]
    written: frozenset[ObjectRef]


def plan(assigned: Assignment, known: Known, keyspace: Keyspace) -> Plan:
    """What to write, and what must still hold for it: everything written, and everything that validation relied on.

    An object whose stored bytes would stay the same is not written. Fields that our types don't know survive.
    Raises Conflict where an expected revision does not hold, NotFound where a delete names nothing, LimitExceeded
    where it does not fit into one transaction.
    """
    changes = assigned.changes
    _check_expected(changes, known)
    _check_deletes(changes, known)
    ops: list[Op] = []
    outcomes: list[Outcome] = []
    relied_on: set[ObjectRef] = set()
    for change in changes:
        op, action = _operation(change, known, keyspace)
        outcomes.append(Outcome(change.ref, action))
        if op is None:
            if change.expected_revision:
                relied_on.add(change.ref)
            continue
        ops.append(op)
        if change.put is not None:
            relied_on.update(reference.target for reference in references(change.put))
    objects = len(ops)
    if assigned.allocates:
        relied_on.add(MESH_REF)
    written = frozenset(outcome.ref for outcome in outcomes if outcome.action is not Action.UNCHANGED)
    guards: list[Guard] = [
        KeyGuard(keyspace.object(ref), known.mod_revision(ref)) for ref in sorted(written | relied_on)
    ]
    if ops:
        ops += assigned.puts
        guards += [*assigned.guards, *(PrefixGuard(listed.prefix, listed.revision) for listed in known.listed)]
        if known.peers_changed is not None:
            turn = keyspace.changes_of(PeerAuthentication.__name__)
            ops.append(Put(turn, b""))
            guards.append(KeyGuard(turn, known.peers_changed))
    result = Plan(tuple(ops), tuple(guards), tuple(outcomes), written)
    _check_limits(result, objects, len(assigned.puts))
    return result


def _operation(change: Change, known: Known, keyspace: Keyspace) -> tuple[Op | None, Action]:
    key = keyspace.object(change.ref)
    stored = known.objects.get(change.ref)
    if change.put is None:
        return Delete(key), Action.DELETED
    if stored is None:
        return Put(key, codec.encode(change.put)), Action.CREATED
    value = _encoded_over(stored, change.put)
    if value == stored.value:
        return None, Action.UNCHANGED
    return Put(key, value), Action.UPDATED


def _encoded_over(stored: Stored, value: AnyObject) -> bytes:
    try:
        return codec.encode_over(stored.value, value)
    except Corrupt:  # what can't be understood can't lend its unknown fields: it is written anew
        return codec.encode(value)


def _check_expected(changes: Sequence[Change], known: Known) -> None:
    moved = []
    for change in changes:
        found = known.mod_revision(change.ref)
        if change.expected_revision and found != change.expected_revision:
            now = f"it is at revision {found}" if found else "it does not exist"
            moved.append(f"{change.subject}: expected at revision {change.expected_revision}, but {now}")
    if moved:
        raise Conflict("\n".join((*moved, "nothing was written: read again, then decide")))


def _check_deletes(changes: Sequence[Change], known: Known) -> None:
    missing = [change.subject for change in changes if change.put is None and change.ref not in known.objects]
    if missing:
        raise NotFound("\n".join(f"{subject}: does not exist; nothing was deleted" for subject in missing))


def _check_limits(planned: Plan, objects: int, blocks: int) -> None:
    problems = []
    count = max(len(planned.ops), len(planned.guards)) + RECORD_OPS
    if count > MAX_TXN_OPS:
        beside = f" with {blocks} blocks of virtual addresses" if blocks else ""
        message = (
            f"{objects} objects to write{beside} and {len(planned.guards)} to hold still, "
            f"and one transaction of etcd takes {MAX_TXN_OPS - RECORD_OPS} of each"
        )
        problems.append(Problem("change set", message, remedy="apply it in parts, what is referred to first"))
    size = request_bytes(planned.guards, planned.ops) + RECORD_BYTES
    if size > MAX_REQUEST_BYTES:
        message = f"{size} bytes, and one transaction of etcd takes {MAX_REQUEST_BYTES}"
        problems.append(Problem("change set", message, remedy="apply it in parts, or make the objects smaller"))
    for op in planned.ops:
        if isinstance(op, Put) and len(op.value) > codec.MAX_VALUE_BYTES:
            message = f"{len(op.value)} bytes, and one object may have {codec.MAX_VALUE_BYTES}"
            problems.append(Problem(op.key.decode(), message, remedy="shorten it, or split it into several objects"))
    if problems:
        raise LimitExceeded(*problems)
