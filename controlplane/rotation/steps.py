"""[edge] The steps of a CA key's life, each under the lock and as one transaction; for operators and for the driver."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.ca import rotation
from controlplane.ca.errors import NoAuthority
from controlplane.ca.facts import active, family, key_of, root_above
from controlplane.ca.gates import Hold, activation_holds, removal_holds
from controlplane.ca.jwt_key import new_signer, seal_signer
from controlplane.ca.make import Maker
from controlplane.ca.rotation import Activate, Effect, Force, Prepare, Remove, Step
from controlplane.ca.seal import KeyEncryption, unseal_key
from controlplane.rotation.events import CaEvent, tell
from controlplane.rotation.look import Look, look
from controlplane.rotation.write import Actor, CaWriter, Written
from controlplane.store.etcd import Store
from controlplane.store.lock import locked
from controlplane.store.ops import MAX_TXN_OPS, Delete, KeyGuard, LeaseGuard
from schemas.errors import Conflict, InvalidInput, Problem
from schemas.records import JwtAuthority, Rotation, SealedKey
from trio_etcd import KeyValue

LOCK_NAME = "ca"
LOCK_WAIT_SECONDS = 5.0  # another step takes milliseconds; half a dead replica's lock
# A step whose evidence, or whose keys, have just moved looks again, so often.
MAX_ATTEMPTS = 10
# In a large mesh some sidecar always has something new to say. After these attempts evidence that was complete a few
# milliseconds ago is enough: who comes back within them reads the bundle before anything else.
STRICT_ATTEMPTS = 5
_ID_BYTES = 8


class GateClosed(Conflict):
    """A step that somebody, or the time, holds back. Nothing was written."""

    def __init__(self, step: Step | str, holds: tuple[Hold, ...]) -> None:
        lines = [f"can't {step} yet; held back by {len(holds)}:", *map(str, holds)]
        super().__init__("\n".join(lines))
        self.holds = holds


@dataclass(frozen=True, slots=True)
class Done:
    """`keys`: what the step was about. `passed`: what it was forced past."""

    revision: int
    keys: tuple[str, ...] = ()
    passed: tuple[Hold, ...] = ()


class CaSteps:
    """now: seconds since 1970; random(n): n unpredictable bytes; replica: our own name, for whoever waits for us.

    upstream: a program has issuing keys signed; without one a person does, where the root is not the mesh's own.
    """

    def __init__(
        self,
        store: Store,
        writer: CaWriter,
        kek: KeyEncryption,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        replica: str,
        upstream: bool = False,
    ) -> None:
        self._store = store
        self.writer = writer
        self.kek = kek
        self.now = now
        self.random = random
        self._replica = replica
        self._upstream = upstream

    async def look(self) -> Look:
        return await look(self._store, self.now())

    async def forget(self, records: Sequence[KeyValue]) -> None:
        """Deletes what nobody goes by any more; one that was written anew meanwhile stays. Raises MeshError."""
        some = records[:MAX_TXN_OPS]  # what is left goes the next time
        if some:
            guards = [KeyGuard(kv.key, kv.mod_revision) for kv in some]
            await self._store.transact(guards, [Delete(kv.key) for kv in some])

    # -- steps

    async def prepare(self, step: Prepare, by: Actor) -> Done:
        """Raises Conflict where one is prepared already; NoAuthority where the root's key is not ours to use."""

        async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
            made, jwt = await self._made(seen, step)
            written = await self.writer.commit(
                seen,
                Effect(made),
                lock,
                new_jwt=jwt,
                rotation_after=seen.rotation,
                by=by,
            )
            return written, Done(0, tuple(key.id for key in made))

        return await self.do(CaEvent.PREPARED, by, attempt)

    async def activate(self, key_id: str, by: Actor, *, force: bool = False) -> Done:
        """Raises GateClosed, which `force` passes; NotFound, Conflict."""

        async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
            holds = activation_holds(seen.facts, key_id)
            note = self._passed(Activate(key_id), holds, by, force)
            effect = rotation.activated(seen.facts, key_id, note)
            written = await self.writer.commit(
                seen,
                effect,
                lock,
                on_evidence=strict and not force,
                rotation_after=seen.rotation,
                by=by,
            )
            return written, Done(0, tuple(key.id for key in effect.puts), holds)

        return await self.do(CaEvent.ACTIVATED, by, attempt)

    async def retire(self, key_id: str, by: Actor) -> Done:
        """Gives up a prepared key; an active one is retired by activating its successor. Raises NotFound, Conflict."""

        async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
            effect = rotation.given_up(seen.facts, key_id)
            written = await self.writer.commit(seen, effect, lock, rotation_after=seen.rotation, by=by)
            return written, Done(0, tuple(key.id for key in effect.puts))

        return await self.do(CaEvent.RETIRED, by, attempt)

    async def remove(self, key_ids: tuple[str, ...], by: Actor, *, force: bool = False) -> Done:
        """A retired root takes the issuing keys below it along. Raises GateClosed, NotFound, Conflict."""

        async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
            for key_id in key_ids:
                key_of(seen.facts, key_id)
            ids = tuple(dict.fromkeys(one for key_id in key_ids for one in family(seen.facts.keys, key_id)))
            holds = removal_holds(seen.facts, ids)
            note = self._passed(Remove(ids), holds, by, force)
            written = await self.writer.commit(
                seen,
                rotation.removed(seen.facts, ids, note),
                lock,
                on_evidence=strict and not force,
                rotation_after=seen.rotation,
                by=by,
            )
            return written, Done(0, ids, holds)

        return await self.do(CaEvent.REMOVED, by, attempt)

    # -- rotations

    async def start(self, role: str, by: Actor, *, why: str, force: bool = False) -> Done:
        """Raises Conflict where a rotation is under way; InvalidInput where the mesh can't sign the new key itself."""

        async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
            if seen.rotation is not None:
                raise Conflict(
                    f"a rotation of {seen.rotation.what}, started by {seen.rotation.by}, is under way; nothing was "
                    "started: follow it with `meshadm ca status`"
                )
            begun = self._begun(seen, role, by, why, force)
            written = await self.writer.commit(seen, Effect(), lock, rotation_after=begun, by=by)
            return written, Done(0, begun.replaces)

        return await self.do(CaEvent.ROTATION_STARTED, by, attempt, why=why, forced=force or None)

    async def stop(self, by: Actor) -> Done:
        """Forgets a rotation; keys stay as they are. Raises Conflict where none is under way."""

        async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
            if seen.rotation is None:
                raise Conflict("no rotation is under way")
            written = await self.writer.commit(seen, Effect(), lock, by=by)
            return written, Done(0, seen.rotation.replaces)

        return await self.do(CaEvent.ROTATION_STOPPED, by, attempt)

    async def finish(self, by: Actor) -> Done:
        """The record of a rotation that has nothing left to do goes. Raises Conflict where that is not so."""

        async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
            if seen.rotation is None or rotation.next_step(seen.rotation, seen.facts).step is not None:
                raise Conflict("the rotation is not at its end")
            return await self.writer.commit(seen, Effect(), lock, by=by), Done(0, seen.rotation.replaces)

        return await self.do(CaEvent.ROTATION_ENDED, by, attempt)

    async def raise_leaf_bound(self, by: Actor) -> Done:
        """The active issuing key may sign leaves as long as the mesh asks for, from now on; never for shorter again."""

        async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
            key = seen.short_bound
            if key is None:
                raise Conflict("the bound of leaves is as long as it has to be")
            raised = msgspec.structs.replace(key, leaf_seconds=seen.mesh.spec.svid_ttl_seconds)
            written = await self.writer.commit(seen, Effect((raised,)), lock, rotation_after=seen.rotation, by=by)
            return written, Done(0, (key.id,))

        return await self.do(CaEvent.LEAF_BOUND_RAISED, by, attempt)

    def _begun(self, seen: Look, role: str, by: Actor, why: str, force: bool) -> Rotation:
        keys = seen.facts.keys
        current = active(keys, role)
        if current is None:
            raise InvalidInput(Problem("rotation", f"there is no active {role} key"))
        root = active(keys, "mesh-root")
        if role == "mesh-root" and self._upstream:
            remedy = "`meshadm ca rotate issuing` has the next one signed"
            raise InvalidInput(Problem("rotation", "the root is the upstream signer's", remedy=remedy))
        if role == "mesh-issuing" and (root is None or not root.sealed) and not self._upstream:
            remedy = "use `meshadm ca csr`, have it signed, `meshadm ca install`, `meshadm ca activate`"
            raise InvalidInput(Problem("rotation", "the issuing key is signed by an external CA", remedy=remedy))
        replaces = tuple(one for one in family(keys, current.id) if keys[one].state == "active")
        what = {"mesh-root": "root and issuing key", "mesh-issuing": "issuing key", "mesh-jwt": "JWT key"}[role]
        by_whom = f"{by.who} ({why})" if why else by.who
        return Rotation(
            id=self.random(_ID_BYTES).hex(),
            what=what,
            replaces=replaces,
            started=seen.facts.now,
            by=by_whom,
            force=force,
        )

    # -- how

    async def _made(self, seen: Look, step: Prepare) -> tuple[tuple[SealedKey, ...], tuple[JwtAuthority, ...]]:
        keys = seen.facts.keys
        waiting = [key for key in keys.values() if key.role == step.role and key.state == "prepared"]
        if waiting and not (step.with_root and all(_of_old_root(seen, key) for key in waiting)):
            raise Conflict(
                f"{waiting[0].id} is prepared already: `meshadm ca activate {waiting[0].id}`, or `meshadm ca retire` it"
            )
        maker = self.maker(seen)
        sequence = seen.bundle.sequence + 1
        if step.role == "mesh-jwt":
            signer = new_signer(_new_key(), self.now(), self.random)
            sealed = await seal_signer(signer, self.kek)
            prepared = msgspec.structs.replace(sealed, state="prepared", since=seen.facts.now, trust_sequence=sequence)
            return (prepared,), (signer.authority,)
        if step.with_root:
            root, opened = await maker.root(_new_key())
            root = msgspec.structs.replace(root, trust_sequence=sequence)
            return (root, await maker.issuing(_new_key(), root.id, opened)), ()
        current = active(keys, "mesh-root")
        if current is None or not current.sealed:
            raise NoAuthority(
                "the mesh does not hold the key of its root: use `meshadm ca csr` and `meshadm ca install`"
            )
        return (await maker.issuing(_new_key(), current.id, await unseal_key(current, self.kek)),), ()

    def maker(self, seen: Look) -> Maker:
        return Maker(seen.trust_domain, self.kek, self.random, seen.facts.now, seen.mesh.spec.svid_ttl_seconds)

    def _passed(self, step: Step, holds: tuple[Hold, ...], by: Actor, force: bool) -> str:
        """The note for the record; empty where nothing had to be forced. Raises GateClosed."""
        if holds and not force:
            raise GateClosed(step, holds)
        return str(Force(str(step), by.who, int(self.now()), holds)) if holds else ""

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[LeaseGuard]:
        async with locked(self._store, LOCK_NAME, f"replica {self._replica}", seconds=LOCK_WAIT_SECONDS) as guard:
            yield guard

    async def do(
        self,
        event: CaEvent,
        by: Actor,
        attempt: Callable[[Look, LeaseGuard, bool], Awaitable[tuple[Written | None, Done]]],
        **more: object,
    ) -> Done:
        if by.request is not None and (revision := await self.writer.recorded(by.request)) is not None:
            return Done(revision)
        for number in range(MAX_ATTEMPTS):
            async with self.lock() as lock:
                seen = await self.look()
                written, done = await attempt(seen, lock, number < STRICT_ATTEMPTS)
            if written is None:
                continue
            done = Done(written.revision, done.keys, done.passed)
            tell(
                event,
                logging.WARNING if done.passed else logging.INFO,
                who=by.who,
                where=by.where,
                revision=written.revision,
                keys=", ".join(done.keys),
                bundle_sequence=written.bundle_sequence,
                forced_past="; ".join(map(str, done.passed)) or None,
                **more,
            )
            return done
        raise Conflict("what the step rests upon kept changing; nothing was written: try again")


def _of_old_root(seen: Look, key: SealedKey) -> bool:
    above = root_above(seen.facts.keys, key)
    return above is not None and above.state != "prepared"


def _new_key() -> ec.EllipticCurvePrivateKey:
    """P-256: what all of the mesh's certificates have."""
    return ec.generate_private_key(ec.SECP256R1())
