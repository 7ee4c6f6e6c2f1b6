"""[edge] Attestation by an SVID that ended while nothing could be issued: a challenge signed with its key.

It vouches for the identity that it names, once, and only where the mesh itself is to blame that it was not renewed in
time (`controlplane.ca.outages`). All that is asked is asked of etcd, or kept by who follows it.
"""

import hashlib
from collections.abc import Callable, Sequence

import trio
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controlplane.api.attestors.interface import Attestation
from controlplane.api.call import Call
from controlplane.api.issuing import InForce, Issuing
from controlplane.ca.challenge import Challenges
from controlplane.ca.outages import REMEDY, excuse
from controlplane.ca.records import chain_of
from controlplane.ca.template import issued_at
from controlplane.store.etcd import PAUSE_SECONDS, LeaseGone, Store
from controlplane.store.ops import KeyGuard, Put
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt, Problem, Unauthenticated, Unavailable
from schemas.names import ServiceRef, SpiffeId
from schemas.records import Epoch, ExcusedLeaf, IssuingTimes, SealedKey
from schemas.selectors import ServiceSelector
from spiffe import possession
from spiffe.possession import MAX_CERTIFICATE_BYTES, InvalidProof
from spiffe.x509 import UNREADABLE, csr_public_key, leaf_identity, verify_chain

# A record outlives the time in which its SVID could be renewed once more, also when etcd's clock runs ahead of ours.
MARGIN_SECONDS = 3600


class ExpiredSvid:
    """keys: the CA keys on record. check_issued: raises PermissionDenied for an identity that was revoked since."""

    def __init__(
        self,
        store: Store,
        issuing: Issuing,
        challenges: Challenges,
        keys: Callable[[], Sequence[SealedKey]],
        check_issued: Callable[[ServiceRef, float], None],
    ) -> None:
        self._store = store
        self._issuing = issuing
        self._challenges = challenges
        self._keys = keys
        self._check_issued = check_issued
        # One for all records of an outage: a thousand of them at once would look like a flood.
        self._leases: dict[int, int] = {}

    async def attest(self, message: pb.JoinRequest, call: Call) -> Attestation:
        proof, now = message.expired, self._issuing.now()
        call.tell(attestor="expired_svid")
        # What costs least comes first: strangers may call this.
        self._challenges.check(proof.nonce, now)
        leaf = _parse(proof.leaf)
        in_force = self._issuing.current()
        trust_domain = in_force.authority.trust_domain
        signed = possession.expired_statement(
            trust_domain=trust_domain,
            nonce=proof.nonce,
            csr=message.csr,
            etcd_csr=message.etcd_csr,
            leaf=proof.leaf,
        )
        possession.check_signature(leaf, proof.signature, signed)
        identity, service = _service_of(leaf, trust_domain)
        call.tell(expired_svid=f"{leaf.serial_number:x}")
        not_before, expires = int(leaf.not_valid_before_utc.timestamp()), int(leaf.not_valid_after_utc.timestamp())
        self._check_issuer(leaf, in_force, expires)
        self._check_issued(service, issued_at(not_before, expires))
        times, epoch, guard = await self._on_record()
        ttl = in_force.mesh.spec.svid_ttl_seconds
        outage = excuse(not_before, expires, times, epoch, now, ttl)
        call.tell(outage=f"{outage.start} to {outage.end}")
        record = ExcusedLeaf(identity=str(identity), at=int(now), by=call.caller.where, key=_fingerprint(message.csr))
        until = outage.end + ttl + MARGIN_SECONDS

        async def use(issued: str, seconds: float) -> int:
            self._challenges.answer(proof.nonce, self._issuing.now())
            return await self._use_up(proof.leaf, record, guard, until, seconds)

        selectors = (ServiceSelector.of(service.namespace, service.name),)
        return Attestation(selectors, f"the expired SVID of {identity}", use)

    def _check_issuer(self, leaf: x509.Certificate, in_force: InForce, expires: int) -> None:
        """Made by a key of ours that has not been removed, and trusted when it ended. Raises Unauthenticated."""
        for key in self._keys():
            if key.role != "mesh-issuing" or not key.chain:
                continue
            chain = chain_of(key)
            try:
                leaf.verify_directly_issued_by(chain[0])
            except (*UNREADABLE, InvalidSignature):
                continue
            roots = [x509.load_der_x509_certificate(der) for der in in_force.bundle.x509_authorities]
            verify_chain((leaf, *chain), {in_force.authority.trust_domain: roots}, expires - 1)
            return
        raise Unauthenticated(
            f"no issuing key that the mesh still has made this SVID, or it was removed since: {REMEDY}"
        )

    async def _on_record(self) -> tuple[IssuingTimes | None, str, KeyGuard]:
        keyspace = self._store.keyspace
        found = await self._store.get_many((keyspace.issuing_times(), keyspace.epoch()))
        epoch_kv, times_kv = found.get(keyspace.epoch()), found.get(keyspace.issuing_times())
        if epoch_kv is None:
            raise Corrupt(Problem(keyspace.epoch().decode(), "missing", remedy="a restore writes it"))
        times = codec.decode(times_kv.value, IssuingTimes, "issuing times") if times_kv is not None else None
        epoch = codec.decode(epoch_kv.value, Epoch, keyspace.epoch().decode()).id
        return times, epoch, KeyGuard(keyspace.epoch(), epoch_kv.mod_revision)

    async def _use_up(self, leaf: bytes, record: ExcusedLeaf, epoch: KeyGuard, until: int, seconds: float) -> int:
        """The revision at which it counts as renewed for the key in `record`. Safe to repeat for that key.

        Raises Unauthenticated where it was for another one; Unavailable within about `seconds`.
        """
        deadline = trio.current_time() + seconds
        key = self._store.keyspace.excused(hashlib.sha256(leaf).hexdigest())
        while True:
            held = await self._store.get(key)
            if held is not None:
                known = codec.decode(held.value, ExcusedLeaf, "excused SVID")
                if known.key == record.key:
                    return held.mod_revision
                raise Unauthenticated(
                    f"this SVID was renewed after its end already, at {known.at} from {known.by}, for another key: if "
                    f"that was not this host, its key is in other hands; else {REMEDY}"
                )
            try:
                lease = await self._lease(until)
                revision = await self._store.transact(
                    (KeyGuard(key, 0), epoch), (Put(key, codec.encode(record), lease),)
                )
            except LeaseGone:
                self._leases.pop(until, None)
                continue
            except Unavailable as error:
                if not error.outcome_unknown or trio.current_time() + PAUSE_SECONDS >= deadline:
                    raise
                await trio.sleep(PAUSE_SECONDS)
                continue
            if revision is not None:
                return revision
            if await self._store.get(key) is None:
                raise Unavailable("etcd was restored meanwhile: ask again")

    async def _lease(self, until: int) -> int:
        """One that lives until then (seconds since 1970)."""
        if until not in self._leases:
            now = self._issuing.now()
            lease = await self._store.grant_lease(int(until - now))
            self._leases = {one: held for one, held in self._leases.items() if one > now} | {until: lease}
        return self._leases[until]


def _parse(der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise InvalidProof(f"a certificate above {MAX_CERTIFICATE_BYTES} bytes")
    try:
        return x509.load_der_x509_certificate(der)
    except UNREADABLE as error:
        raise InvalidProof("the expired SVID can't be read: it is no DER") from error


def _service_of(leaf: x509.Certificate, trust_domain: str) -> tuple[SpiffeId, ServiceRef]:
    """Raises Unauthenticated."""
    identity = leaf_identity(leaf)
    if identity.trust_domain != trust_domain or identity.service is None:
        raise InvalidProof(f"{identity} is no service of {trust_domain}")
    return identity, identity.service


def _fingerprint(csr: bytes) -> bytes:
    """Raises InvalidInput."""
    spki = csr_public_key(csr).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()
