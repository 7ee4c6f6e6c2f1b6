"""An SVID that ended while nobody could issue is renewed after its end, once; every other one is refused.

Real keys, a real etcd, and a clock that a test moves: an outage is an hour and a half in which no replica looked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.api.attestors.expired_svid import ExpiredSvid
from controlplane.api.attestors.x509_possession import X509Possession
from controlplane.api.call import Call
from controlplane.api.caller import Caller, CallerKind
from controlplane.api.identity_service import IdentityService
from controlplane.api.issuing import InForce, Issuing, Told
from controlplane.bootstrap.genesis import MESH_REF
from controlplane.ca.authority import Authority
from controlplane.ca.keystore import open_authority
from controlplane.ca.sign import serial_number
from controlplane.issuing_beat import IssuingBeat
from controlplane.revocations import Revocations
from controlplane.store.etcd import Store
from controlplane.store.ops import Put
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import MeshError, PermissionDenied, Unauthenticated, Unavailable
from schemas.keys import Keyspace
from schemas.names import ServiceRef
from schemas.objects import Mesh
from schemas.records import Epoch, ExcusedLeaf, IssuingTimes, Outage, Revocation, SealedKey, TrustBundle
from spiffe import possession
from tests.controlplane.bootstrap.test_genesis import make
from tests.controlplane.lossy import Faults, opened
from tests.controlplane.replica import new_csr
from tests.spiffe.certificates import NOW

TRUST_DOMAIN = "mesh.example"
ORDERS = ServiceRef("shop", "orders")
IDENTITY = f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/orders"
HOUR = 3600
# The mesh is four hours old when the SVID is made, and its sidecar is to renew it about 800 s after the outage begins.
MADE = NOW + 4 * HOUR
OUTAGE = Outage(start=MADE + 1000, end=MADE + 1000 + 5400)


@dataclass
class Svid:
    chain: tuple[bytes, ...]
    key: ec.EllipticCurvePrivateKey


@dataclass
class World:
    """A replica's parts around an etcd, without its doors. `now` and `keys` are a test's to change."""

    store: Store
    ca: Issuing
    keys: list[SealedKey]
    now: float = MADE
    call: Call = field(default_factory=lambda: Call(Caller(CallerKind.ANONYMOUS, "ipv4:10.0.0.1:5"), seconds=5))

    def __post_init__(self) -> None:
        possession = X509Possession(self.store, lambda: TRUST_DOMAIN, self.ca.now, self.ca.random)
        revocations = Revocations(self.store, None)
        expired = ExpiredSvid(self.store, self.ca, possession.challenges, lambda: self.keys, revocations.check_issued)
        self.service = IdentityService(self.ca, {"expired": expired}, possession)
        self.ca.check_service = revocations.check
        self.revocations = revocations

    async def revoke(self, at: int, *, revoked: bool) -> None:
        record = Revocation(namespace="shop", service="orders", serial=at, revoked=revoked, at=at, by="anna")
        await self.store.transact((), (Put(self.store.keyspace.revocation(ORDERS), codec.encode(record)),))
        self.revocations.listed(await self.store.list(self.store.keyspace.revocations()))

    @property
    def authority(self) -> Authority:
        assert self.ca.in_force is not None
        return self.ca.in_force.authority

    def issued(self, at: float, service: ServiceRef = ORDERS, *, by: Authority | None = None) -> Svid:
        key = ec.generate_private_key(ec.SECP256R1())
        serial = serial_number(os.urandom(20))
        return Svid((by or self.authority).issue_workload(service, key.public_key(), at, HOUR, serial), key)

    async def outage(self) -> None:
        """As this and another replica put it on record: they were well, then gone, and are back."""
        self.now = OUTAGE.start
        await IssuingBeat(self.store, self.ca).look()
        self.now = OUTAGE.end
        pulse = await self.store.get(self.store.keyspace.issuing_pulse())
        assert pulse is not None
        await self.store.revoke_lease(pulse.lease)  # as if it had ended
        await IssuingBeat(self.store, self.ca).look()

    async def request(
        self,
        svid: Svid,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        nonce: bytes | None = None,
        csr: bytes | None = None,
    ) -> pb.JoinRequest:
        """What a sidecar sends; key: sign with another one than the SVID's."""
        nonce = nonce or (await self.service.challenge(pb.ChallengeRequest(), self.call)).nonce
        csr, etcd_csr = csr or new_csr()[1], new_csr()[1]
        signed = possession.expired_statement(
            trust_domain=TRUST_DOMAIN, nonce=nonce, csr=csr, etcd_csr=etcd_csr, leaf=svid.chain[0]
        )
        proof = pb.ExpiredSvid(leaf=svid.chain[0], nonce=nonce, signature=possession.sign(key or svid.key, signed))
        return pb.JoinRequest(expired=proof, csr=csr, etcd_csr=etcd_csr)

    async def renew(self, svid: Svid, csr: bytes | None = None) -> pb.IdentityReply:
        return await self.service.join(await self.request(svid, csr=csr), self.call)

    async def refused(self, request: pb.JoinRequest, why: str, error: type[MeshError] = Unauthenticated) -> None:
        with pytest.raises(error, match=why):
            await self.service.join(request, self.call)

    async def excused(self, svid: Svid) -> ExcusedLeaf | None:
        held = await self.store.get(self.store.keyspace.excused(hashlib.sha256(svid.chain[0]).hexdigest()))
        return codec.decode(held.value, ExcusedLeaf, "excused") if held is not None else None


@asynccontextmanager
async def a_world(endpoint: str, prefix: str, faults: Faults | None = None) -> AsyncIterator[World]:
    plan, kek = await make(3)
    keyspace, values = Keyspace("/elsewhere/v1"), dict(plan.puts)
    keys = [codec.decode(value, SealedKey, "key") for key, value in values.items() if key.startswith(keyspace.ca())]
    async with opened(endpoint, prefix, faults) as store:
        await store.transact((), (Put(store.keyspace.epoch(), codec.encode(Epoch(id="e"))),))
        ca = Issuing(Told(b"", (), (), ("10.0.0.1:7",), "/mesh/v1"), lambda: made.now, os.urandom)
        made = World(store, ca, keys)
        ca.in_force = InForce(
            await open_authority(keys, kek),
            codec.decode(values[keyspace.object(MESH_REF)], Mesh, "mesh"),
            codec.decode(values[keyspace.trust_bundle(TRUST_DOMAIN)], TrustBundle, "bundle"),
        )
        yield made


@pytest.fixture
async def world(etcd_endpoint: str, etcd_prefix: str) -> AsyncIterator[World]:
    async with a_world(etcd_endpoint, etcd_prefix) as made:
        yield made


@pytest.mark.fault(11)
async def test_after_an_outage_an_svid_that_ended_in_it_is_renewed_once(world: World) -> None:
    svid = world.issued(MADE)
    await world.outage()
    world.now += 60
    reply = await world.renew(svid)
    assert reply.spiffe_id == IDENTITY
    assert reply.expires == world.now + HOUR
    assert reply.etcd_chain
    assert list(reply.join_endpoints) == ["10.0.0.1:7"]
    held = await world.excused(svid)
    assert held is not None
    assert (held.identity, held.by, held.at) == (IDENTITY, "ipv4:10.0.0.1:5", world.now)
    assert world.call.facts["attestor"] == "expired_svid"
    assert world.call.facts["outage"] == f"{OUTAGE.start} to {OUTAGE.end}"
    await world.refused(await world.request(svid), r"was renewed after its end already.*in other hands")


async def test_of_twenty_who_show_the_same_svid_one_is_served(world: World) -> None:
    svid = world.issued(MADE)
    await world.outage()
    served: list[pb.IdentityReply] = []

    async def ask() -> None:
        with suppress(Unauthenticated):
            served.append(await world.renew(svid))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert len(served) == 1


async def test_who_asks_again_for_the_same_key_is_answered_again(world: World) -> None:
    svid, csr = world.issued(MADE), new_csr()[1]
    await world.outage()
    first, second = await world.renew(svid, csr), await world.renew(svid, csr)
    keys = [x509.load_der_x509_certificate(one.chain[0]).public_key() for one in (first, second)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("lost", ["answer lost", "request lost"])
async def test_an_answer_of_etcd_that_is_lost_does_no_harm(etcd_endpoint: str, etcd_prefix: str, lost: str) -> None:
    faults = Faults()
    async with a_world(etcd_endpoint, etcd_prefix, faults) as world:
        svid = world.issued(MADE)
        await world.outage()
        faults.plan = ["", lost]  # what is on record is read, then it is used up
        assert (await world.renew(svid)).spiffe_id == IDENTITY
        other = world.issued(MADE)
        faults.plan = ["", *["request lost"] * 100]
        world.call = Call(world.call.caller, seconds=0.3)
        await world.refused(await world.request(other), "etcd", Unavailable)


async def test_a_ca_that_has_ended_is_an_outage_too(world: World) -> None:
    """Whoever replaces the key by hand need not replace every host's join file as well."""
    svid = world.issued(MADE)
    async with trio.open_nursery() as nursery:
        world.now = OUTAGE.start
        await nursery.start(IssuingBeat(world.store, world.ca).run)
        nursery.cancel_scope.cancel()
    in_force = world.ca.in_force
    assert in_force is not None
    world.now = in_force.authority.issues_until
    async with trio.open_nursery() as nursery:
        await nursery.start(IssuingBeat(world.store, world.ca).run)
        nursery.cancel_scope.cancel()
    held = await world.store.get(world.store.keyspace.issuing_times())
    assert held is not None
    assert codec.decode(held.value, IssuingTimes, "times").seen == OUTAGE.start
    await world.outage()
    await world.renew(svid)


# -- what is refused


async def test_without_an_outage_an_expired_svid_is_worth_nothing(world: World) -> None:
    svid = world.issued(MADE)
    beat = IssuingBeat(world.store, world.ca)
    for moment in range(MADE, MADE + HOUR + 120, 60):
        world.now = moment
        await beat.look()
    await world.refused(await world.request(svid), r"knows of no time without a replica.*new join file")


async def test_of_a_host_only_the_last_svid_before_the_outage_is_good(world: World) -> None:
    svids = [world.issued(OUTAGE.start - ago) for ago in (2000, 4000, 9000)]
    last = world.issued(OUTAGE.start - 200)
    await world.outage()
    for svid in svids:
        await world.refused(await world.request(svid), "knows of no time")
    await world.renew(last)


async def test_what_comes_too_late_is_refused(world: World) -> None:
    svid = world.issued(MADE)
    await world.outage()
    world.now = OUTAGE.end + HOUR + 1
    await world.refused(await world.request(svid), r"for 3600 s only.*new join file")


async def test_an_svid_that_lives_is_renewed_in_the_usual_way_only(world: World) -> None:
    await world.outage()
    await world.refused(await world.request(world.issued(world.now - 60)), "has not expired")


async def test_a_challenge_is_good_once_and_for_what_was_signed(world: World) -> None:
    svid, other = world.issued(MADE), world.issued(MADE)
    await world.outage()
    request = await world.request(svid)
    changed = pb.JoinRequest.FromString(request.SerializeToString())
    changed.csr = new_csr()[1]
    await world.refused(changed, "was not signed with the certificate's key")
    swapped = pb.JoinRequest.FromString(request.SerializeToString())
    swapped.expired.leaf = other.chain[0]
    await world.refused(swapped, "was not signed with the certificate's key")
    await world.refused(await world.request(svid, nonce=bytes(56)), "is not of this replica")
    await world.service.join(request, world.call)
    await world.refused(request, "has been answered already")
    late = await world.request(other)
    world.now += 61
    await world.refused(late, "answered after more than 60 s")


async def test_who_has_the_certificate_and_not_its_key_is_refused(world: World) -> None:
    svid = world.issued(MADE)
    await world.outage()
    stranger = ec.generate_private_key(ec.SECP256R1())
    await world.refused(await world.request(svid, key=stranger), "was not signed with the certificate's key")
    # What was signed for another purpose does not fit: here as a host's certificate.
    nonce = (await world.service.challenge(pb.ChallengeRequest(), world.call)).nonce
    csr, etcd_csr = new_csr()[1], new_csr()[1]
    as_host = possession.statement(
        trust_domain=TRUST_DOMAIN, nonce=nonce, namespace="", service="", csr=csr, etcd_csr=etcd_csr, leaf=svid.chain[0]
    )
    proof = pb.ExpiredSvid(leaf=svid.chain[0], nonce=nonce, signature=possession.sign(svid.key, as_host))
    await world.refused(pb.JoinRequest(expired=proof, csr=csr, etcd_csr=etcd_csr), "was not signed")
    assert await world.excused(svid) is None


async def test_who_is_revoked_gets_nothing_and_after_a_restoration_only_what_was_made_since(world: World) -> None:
    before, after = world.issued(MADE), world.issued(MADE + 300)
    await world.revoke(MADE + 100, revoked=True)
    await world.outage()
    await world.refused(await world.request(after), "is revoked; an operator may", PermissionDenied)
    await world.revoke(MADE + 200, revoked=False)
    await world.refused(await world.request(before), "was revoked after this SVID was made", PermissionDenied)
    assert await world.excused(before) is None
    await world.renew(after)


async def test_only_what_a_key_made_that_the_mesh_still_has_counts(world: World) -> None:
    plan, kek = await make(4)
    foreign = [
        codec.decode(value, SealedKey, "key")
        for key, value in plan.puts
        if key.startswith(Keyspace("/elsewhere/v1").ca())
    ]
    forged = world.issued(MADE, by=await open_authority(foreign, kek))
    svid = world.issued(MADE)
    await world.outage()
    await world.refused(await world.request(forged), "no issuing key that the mesh still has")
    keys = world.keys
    # Retired keys count as long as they are there; of a removed one nothing does, though its root is still trusted.
    world.keys = [one for one in keys if one.role != "mesh-issuing"]
    await world.refused(await world.request(svid), "no issuing key that the mesh still has")
    world.keys = [msgspec.structs.replace(one, state="retired") if one.role == "mesh-issuing" else one for one in keys]
    await world.renew(svid)


async def test_a_root_that_is_no_longer_trusted_vouches_for_nothing(world: World) -> None:
    svid, in_force = world.issued(MADE), world.ca.in_force
    assert in_force is not None
    await world.outage()
    plan, _ = await make(4)
    keyspace = Keyspace("/elsewhere/v1")
    other = codec.decode(dict(plan.puts)[keyspace.trust_bundle(TRUST_DOMAIN)], TrustBundle, "bundle")
    world.ca.in_force = dataclasses.replace(in_force, bundle=other)
    await world.refused(await world.request(svid), "is not trusted")


async def test_only_services_are_excused(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = serial_number(os.urandom(20))
    replica = Svid(world.authority.issue_control_plane(key.public_key(), MADE, HOUR, serial), key)
    operator = Svid(world.authority.issue_operator("anna", key.public_key(), MADE, HOUR, serial), key)
    authority = Svid((replica.chain[1],), key)
    await world.outage()
    for svid in (replica, operator):
        await world.refused(await world.request(svid), "is no service of mesh.example")
    await world.refused(await world.request(authority), "was not signed")


@pytest.mark.fault(5)
async def test_after_a_restore_of_etcd_what_was_on_record_counts_no_more(world: World) -> None:
    """Nobody knows any more which SVIDs were renewed late."""
    svid = world.issued(MADE)
    await world.outage()
    await world.store.transact((), (Put(world.store.keyspace.epoch(), codec.encode(Epoch(id="restored"))),))
    await world.refused(await world.request(svid), "knows of no time")
    await IssuingBeat(world.store, world.ca).look()
    held = await world.store.get(world.store.keyspace.issuing_times())
    assert held is not None
    assert codec.decode(held.value, IssuingTimes, "times") == IssuingTimes(epoch="restored", seen=int(world.now))


async def test_garbage_is_refused(world: World) -> None:
    nonce = (await world.service.challenge(pb.ChallengeRequest(), world.call)).nonce
    for leaf in (b"", b"\x30\x82", os.urandom(600), bytes(20_000)):
        proof = pb.ExpiredSvid(leaf=leaf, nonce=nonce, signature=b"x")
        await world.refused(pb.JoinRequest(expired=proof, csr=b"", etcd_csr=b""), r"no DER|above")
