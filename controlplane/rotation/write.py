"""[edge] One step as one transaction: guarded by the lock, by all CA keys, the bundle, and the evidence."""

from dataclasses import dataclass

from controlplane.ca import rotation
from controlplane.ca.records import bundle_of
from controlplane.ca.rotation import Effect
from controlplane.rotation.look import Look
from controlplane.store.etcd import Store
from controlplane.store.ops import Delete, Guard, KeyGuard, LeaseGuard, Op, PrefixGuard, Put
from controlplane.store.requests import Request, RequestWriter
from schemas import codec
from schemas.records import JwtAuthority, Record, Rotation


@dataclass(frozen=True, slots=True)
class Actor:
    """Who takes a step, and from where. Of an RPC also: its idempotency key, and what the caller's right rests on."""

    who: str
    where: str
    request: Request | None = None
    guards: tuple[Guard, ...] = ()
    seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Written:
    revision: int
    bundle_sequence: int


class CaWriter:
    """All writes of ``control/ca/``, of the rotation and of the own trust bundle go through here."""

    def __init__(self, store: Store, requests: RequestWriter) -> None:
        self._store = store
        self._requests = requests

    async def commit(
        self,
        seen: Look,
        effect: Effect,
        lock: LeaseGuard,
        *,
        on_evidence: bool = False,
        new_jwt: tuple[JwtAuthority, ...] = (),
        rotation_after: Rotation | None = None,
        by: Actor,
    ) -> Written | None:
        """None: something of what the step rests upon has changed, or the lock is lost; nothing was written.

        on_evidence: not either if any sidecar has said something new since `seen`, or was
        revoked, or is so no more. rotation_after: what the record of
        the rotation is to be; None: none. by: an idempotency record of the request is written along.

        Raises TwoActiveKeys and Conflict for an effect that must never be; Unavailable.
        """
        rotation.check(seen.facts.keys, effect)
        keyspace = self._store.keyspace
        keys = rotation.after(seen.facts.keys, effect)
        bundle = bundle_of(seen.bundle, keys, effect.deletes, new_jwt)
        bundle_key, rotation_key = keyspace.trust_bundle(seen.trust_domain), keyspace.rotation()
        guards: list[Guard] = [
            lock,
            *by.guards,
            PrefixGuard(keyspace.ca(), seen.revision),
            *(KeyGuard(keyspace.ca_key(one), seen.mod_revision(keyspace.ca_key(one))) for one in seen.facts.keys),
            KeyGuard(bundle_key, seen.mod_revision(bundle_key)),
            KeyGuard(rotation_key, seen.mod_revision(rotation_key)),
        ]
        if on_evidence:
            guards.append(PrefixGuard(keyspace.statuses(), seen.statuses_revision))
            guards.append(PrefixGuard(keyspace.revocations(), seen.revocations_revision))
        ops: list[Op] = [Delete(keyspace.ca_key(one)) for one in effect.deletes]
        ops += [self._put(seen, keyspace.ca_key(key.id), key) for key in effect.puts]
        if bundle != seen.bundle:
            ops.append(self._put(seen, bundle_key, bundle))
        if rotation_after is None and seen.rotation is not None:
            ops.append(Delete(rotation_key))
        elif rotation_after is not None and rotation_after != seen.rotation:
            ops.append(self._put(seen, rotation_key, rotation_after))
        if by.request is not None:
            revision = await self._requests.write(by.request, tuple(guards), tuple(ops), seconds=by.seconds)
        else:
            revision = await self._store.transact(guards, ops)
        return None if revision is None else Written(revision, bundle.sequence)

    async def recorded(self, request: Request) -> int | None:
        return await self._requests.recorded(request)

    def _put(self, seen: Look, key: bytes, record: Record) -> Put:
        before = seen.raw.get(key)
        return Put(key, codec.encode_over(before.value, record) if before else codec.encode(record))
