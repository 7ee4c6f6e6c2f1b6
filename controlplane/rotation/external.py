"""[edge] Further steps of `CaSteps`: issuing keys that an external CA signs; another key-encryption key."""

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.ca.facts import REPLICA_GONE_SECONDS, is_complete
from controlplane.ca.gates import Hold
from controlplane.ca.install import External, checked_chain
from controlplane.ca.make import signing_request
from controlplane.ca.records import chain_of
from controlplane.ca.rotation import Effect
from controlplane.ca.seal import KeyEncryption, KeyRing, seal_secret, unseal_secret
from controlplane.rotation.events import CaEvent
from controlplane.rotation.look import Look
from controlplane.rotation.steps import CaSteps, Done, GateClosed
from controlplane.rotation.write import Actor, Written
from controlplane.store.ops import LeaseGuard
from schemas.errors import Conflict, InvalidInput, Problem
from schemas.records import SealedKey


async def request(steps: CaSteps, by: Actor) -> tuple[Done, bytes]:
    """A new issuing key, prepared, and its PKCS#10 request (DER); of one that still waits for its certificate the same.

    Raises Conflict where one that has its certificate is prepared already.
    """
    made: list[bytes] = []

    async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
        if waiting := _prepared(seen):
            raise Conflict(f"{waiting[0].id} is prepared already: activate it, or `meshadm ca retire {waiting[0].id}`")
        record, csr = await steps.maker(seen).requested(ec.generate_private_key(ec.SECP256R1()))
        made[:] = [csr]
        written = await steps.writer.commit(seen, Effect((record,)), lock, rotation_after=seen.rotation, by=by)
        return written, Done(0, (record.id,))

    again = await _asked_before(steps)
    if again is not None:
        return again
    done = await steps.do(CaEvent.REQUESTED, by, attempt)
    if not made:  # an earlier attempt of this very request has made it
        again = await _asked_before(steps)
        if again is None:
            raise Conflict("the key that this request made has been given up meanwhile")
        return again
    return done, made[0]


async def _asked_before(steps: CaSteps) -> tuple[Done, bytes] | None:
    seen = await steps.look()
    for record in _prepared(seen):
        if not is_complete(record):
            key = await unseal_secret(record, steps.kek)
            return Done(seen.revision, (record.id,)), signing_request(seen.trust_domain, record.id, key)
    return None


async def install(steps: CaSteps, chain: tuple[bytes, ...], by: Actor) -> Done:
    """The chain (DER) to the requested key that it belongs to; its root goes into the trust bundle, prepared.

    Raises InvalidInput for a chain that the mesh could not issue with.
    """

    async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
        record, key = await _requested(steps, seen, chain)
        known = {one.id: chain_of(one)[0] for one in seen.facts.keys.values() if one.role == "mesh-root"}
        external = checked_chain(chain, key, tuple(known.values()), seen.trust_domain, steps.now())
        root = _root_record(steps, seen, known, external)
        installed = msgspec.structs.replace(
            record,
            chain=tuple(one.public_bytes(Encoding.DER) for one in external.chain),
            not_after=external.not_after,
            signed_by=root.id,
            since=seen.facts.now,
            leaf_seconds=seen.mesh.spec.svid_ttl_seconds,
        )
        puts = (installed,) if root.id in seen.facts.keys else (installed, root)
        written = await steps.writer.commit(seen, Effect(puts), lock, rotation_after=seen.rotation, by=by)
        return written, Done(0, tuple(one.id for one in puts))

    return await steps.do(CaEvent.INSTALLED, by, attempt)


async def reseal(steps: CaSteps, kek_id: str, by: Actor, *, force: bool = False) -> Done:
    """Every sealed key under the key-encryption key `kek_id`, which this replica must have, in one transaction.

    Raises GateClosed where a replica that lives could not open them then; `force` passes that.
    """
    fresh = _key_of(steps.kek, kek_id)

    async def attempt(seen: Look, lock: LeaseGuard, strict: bool) -> tuple[Written | None, Done]:
        holds = tuple(
            Hold(f"replica {one.name}", f"does not have key-encryption key {kek_id}: name it in its configuration")
            for one in seen.replicas
            if kek_id not in one.kek_ids and seen.facts.now - one.seen < REPLICA_GONE_SECONDS
        )
        if holds and not force:
            raise GateClosed("seal the CA keys anew", holds)
        puts = [
            await _sealed(record, steps.kek, fresh)
            for _, record in sorted(seen.facts.keys.items())
            if record.sealed and record.kek_id != kek_id
        ]
        if not puts:
            raise Conflict(f"all keys are sealed under {kek_id} already")
        effect = Effect(tuple(puts))
        written = await steps.writer.commit(seen, effect, lock, rotation_after=seen.rotation, by=by)
        return written, Done(0, tuple(one.id for one in puts), holds)

    return await steps.do(CaEvent.RESEALED, by, attempt, kek=kek_id)


def _prepared(seen: Look) -> list[SealedKey]:
    return [one for one in seen.facts.keys.values() if one.role == "mesh-issuing" and one.state == "prepared"]


async def _requested(
    steps: CaSteps, seen: Look, chain: tuple[bytes, ...]
) -> tuple[SealedKey, ec.EllipticCurvePrivateKey]:
    waiting = [one for one in _prepared(seen) if not is_complete(one)]
    if not waiting:
        raise InvalidInput(Problem("certificate chain", "no key waits for one", remedy="begin with `meshadm ca csr`"))
    return waiting[0], await unseal_secret(waiting[0], steps.kek)  # `request` makes no second one


def _root_record(steps: CaSteps, seen: Look, known: dict[str, x509.Certificate], external: External) -> SealedKey:
    for key_id, certificate in known.items():
        if certificate == external.root:
            record = seen.facts.keys[key_id]
            if record.state == "retired":
                raise Conflict(f"the root above that chain, {key_id}, is retired: it can't be used again")
            return record
    return SealedKey(
        id=steps.maker(seen).key_id("mesh-root"),
        role="mesh-root",
        state="prepared",
        chain=(external.root.public_bytes(Encoding.DER),),
        kek_id="",
        nonce=b"",
        sealed=b"",
        not_after=int(external.root.not_valid_after_utc.timestamp()),
        since=seen.facts.now,
        trust_sequence=seen.bundle.sequence + 1,
    )


def _key_of(kek: KeyEncryption, kek_id: str) -> KeyEncryption:
    for one in kek.keys if isinstance(kek, KeyRing) else (kek,):
        if one.id == kek_id:
            return one
    raise InvalidInput(
        Problem(
            f"key-encryption key {kek_id}",
            "this replica does not have it",
            remedy="name its file as `nextKek` in the configuration of every replica, restart them, then try again",
        )
    )


async def _sealed(record: SealedKey, old: KeyEncryption, fresh: KeyEncryption) -> SealedKey:
    key = await unseal_secret(record, old)
    sealed = await seal_secret(record.id, record.role, key, fresh)
    return msgspec.structs.replace(record, kek_id=fresh.id, nonce=sealed.nonce, sealed=sealed.ciphertext)
