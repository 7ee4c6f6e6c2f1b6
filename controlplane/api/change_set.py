"""[edge] A change set, start to end: read ▸ assign addresses ▸ validate ▸ plan ▸ one guarded transaction."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from controlplane.domain.addresses import LEVELS, Assignment, assign, blocks_needed, range_problems
from controlplane.domain.change import Change
from controlplane.domain.known import Known, Listed, Stored, StoredBlock
from controlplane.domain.plan import Action, Outcome, Plan, plan
from controlplane.domain.reads import concerns_peers, objects_needed, prefixes_needed
from controlplane.domain.validate import validate
from controlplane.store.etcd import MustListAgain, Store
from controlplane.store.ops import Guard
from controlplane.store.requests import Request, RequestWriter
from schemas import codec
from schemas.errors import Conflict, Corrupt, InvalidInput
from schemas.names import ObjectRef
from schemas.objects import AnyObject, PeerAuthentication
from schemas.records import AddressBlock
from trio_etcd import KeyValue

# What is written stays the same while others change what it refers to, or take addresses from the same block: read and
# check again, but not for ever. Of so many who make services in one namespace at once each has its turn.
MAX_ATTEMPTS = 20


Gate = Callable[[Sequence[Change], Known], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Applied:
    """`revision` 0: nothing was to be written. `replayed`: an earlier call with the same request id did it."""

    revision: int
    outcomes: tuple[Outcome, ...]
    replayed: bool = False


async def apply(
    store: Store,
    writer: RequestWriter,
    request: Request,
    changes: Sequence[Change],
    *,
    dry_run: bool,
    seconds: float,
    now: int,
    guards: tuple[Guard, ...] = (),
    gate: Gate | None = None,
) -> Applied:
    """All of it at one revision, or nothing; and only while `guards` hold. now: seconds since 1970. gate: raises where
    valid changes are to wait.

    Raises InvalidInput with all problems, NotFound, Conflict, LimitExceeded; Unavailable.
    """
    recorded = await writer.recorded(request)
    if recorded is not None:
        return await _replayed(store, changes, recorded)
    for _ in range(MAX_ATTEMPTS):
        known, assigned = await _assigned(store, changes, await read(store, changes), now)
        problems = [*validate(assigned.changes, known), *assigned.problems, *range_problems(changes, known, now)]
        if problems:
            raise InvalidInput(*problems)
        if gate is not None:
            await gate(assigned.changes, known)
        planned = plan(assigned, known, store.keyspace)
        if dry_run or not planned.ops:
            return Applied(0, planned.outcomes)
        revision = await writer.write(request, (*planned.guards, *guards), planned.ops, seconds=seconds)
        if revision is not None:
            return Applied(revision, planned.outcomes)
        await _refuse_if_written_meanwhile(store, planned, known)
    raise Conflict(f"what these objects refer to kept changing, {MAX_ATTEMPTS} times; nothing was written: try again")


async def read(store: Store, changes: Sequence[Change]) -> Known:
    """What `domain.reads` asks for."""
    keyspace = store.keyspace
    peers_changed: int | None = None
    if concerns_peers(changes):  # before all that is decided by
        turn = await store.get(keyspace.changes_of(PeerAuthentication.__name__))
        peers_changed = turn.mod_revision if turn is not None else 0
    refs = {keyspace.object(ref): ref for ref in objects_needed(changes)}
    found = await store.get_many(refs)
    objects = {refs[key]: stored(refs[key], kv) for key, kv in found.items()}
    listed: list[Listed] = []
    blocks: dict[str, StoredBlock] = {}
    for prefix in sorted(prefixes_needed(keyspace, changes, Known(objects))):
        listing = await store.list(prefix)
        listed.append(Listed(prefix, listing.revision))
        for kv in listing.kvs:
            ref = keyspace.parse(kv.key)
            if isinstance(ref, ObjectRef) and ref not in objects:
                objects[ref] = stored(ref, kv)
            elif prefix == keyspace.address_blocks():
                blocks |= _block(prefix, kv)
    return Known(objects, tuple(listed), blocks, peers_changed)


async def _assigned(store: Store, changes: Sequence[Change], known: Known, now: int) -> tuple[Known, Assignment]:
    """The change set with virtual addresses, and what more had to be read for them."""
    prefix = store.keyspace.address_blocks()
    for levels in LEVELS:
        missing = blocks_needed(changes, known, levels) - known.blocks.keys()
        found = await store.get_many(map(store.keyspace.address_block, missing)) if missing else {}
        read_now = {network: block for kv in found.values() for network, block in _block(prefix, kv).items()}
        known = replace(known, blocks={**known.blocks, **read_now})
        assigned = assign(changes, known, store.keyspace, levels, now)
        if not assigned.unplaced:
            break
    return known, assigned


def _block(prefix: bytes, kv: KeyValue) -> dict[str, StoredBlock]:
    """Raises Corrupt: of what can't be read nobody knows which addresses are taken."""
    block = codec.decode(kv.value, AddressBlock, kv.key.decode("utf-8", "backslashreplace"))
    return {kv.key[len(prefix) :].decode("ascii", "backslashreplace"): StoredBlock(block.slots, kv.mod_revision)}


def stored(ref: ObjectRef, kv: KeyValue) -> Stored:
    """A malformed value, or one under another object's key, is no object: it can be replaced or deleted."""
    value: AnyObject | None
    try:
        value = codec.decode_object(kv.value, ref.kind, str(ref))
    except Corrupt:
        value = None
    return Stored(kv.value, kv.mod_revision, value if value is not None and value.ref == ref else None)


async def _refuse_if_written_meanwhile(store: Store, planned: Plan, known: Known) -> None:
    """After a guard has failed: was it one of the objects themselves? Then the caller must look first."""
    refs = {store.keyspace.object(ref): ref for ref in planned.written}
    now = await store.get_many(refs)
    moved = [
        str(ref) for key, ref in refs.items() if (now[key].mod_revision if key in now else 0) != known.mod_revision(ref)
    ]
    if moved:
        names = ", ".join(sorted(moved))
        raise Conflict(f"somebody else has just changed {names}; nothing was written: read again, then decide")


async def _replayed(store: Store, changes: Sequence[Change], revision: int) -> Applied:
    """What the write at `revision` did, from etcd's history; without outcomes where that has been compacted."""
    keys = {store.keyspace.object(change.ref): change for change in changes}
    try:
        then = await store.get_at(keys, revision)
    except MustListAgain:
        return Applied(revision, (), replayed=True)
    return Applied(
        revision,
        tuple(Outcome(change.ref, _action_at(then.get(key), revision)) for key, change in keys.items()),
        replayed=True,
    )


def _action_at(kv: KeyValue | None, revision: int) -> Action:
    if kv is None:
        return Action.DELETED
    if kv.create_revision == revision:
        return Action.CREATED
    return Action.UPDATED if kv.mod_revision == revision else Action.UNCHANGED
