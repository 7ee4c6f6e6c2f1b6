"""The first records of a mesh."""

from __future__ import annotations

import random

from controlplane.bootstrap.genesis import MESH_REF, Genesis, genesis
from controlplane.ca import template as templates
from controlplane.ca.jwt_key import open_signer
from controlplane.ca.keystore import open_authority
from controlplane.ca.seal import LocalKey
from controlplane.ca.sign import Issuer, self_signed
from controlplane.ca.template import Validity
from schemas import codec
from schemas.keys import EpochRef, Keyspace, TrustRef
from schemas.objects.mesh import Mesh
from schemas.records import Epoch, SealedKey, TrustBundle
from spiffe import bundle
from tests.spiffe.certificates import NOW, new_key

KEYSPACE = Keyspace("/elsewhere/v1")


async def make(seed: int) -> tuple[Genesis, LocalKey]:
    rng = random.Random(seed)
    kek = LocalKey(rng.randbytes(32), rng.randbytes)
    key = new_key()
    template = templates.etcd_ca("0", Validity.starting(NOW, templates.ETCD_CA_SECONDS))
    plan = await genesis(
        "mesh.example",
        KEYSPACE,
        root_key=new_key(),
        issuing_key=new_key(),
        jwt_key=new_key(),
        etcd_ca=Issuer(self_signed(template, key, 1), key),
        kek=kek,
        random=rng.randbytes,
        now=NOW,
    )
    return plan, kek


async def test_it_holds_everything_that_a_replica_needs() -> None:
    plan, kek = await make(1)
    stored = dict(plan.puts)
    assert len(stored) == len(plan.puts) == 7
    assert all(key.startswith(b"/elsewhere/v1/") for key in stored)
    mesh = codec.decode(stored[KEYSPACE.object(MESH_REF)], Mesh, "mesh")
    assert (mesh.ref, mesh.spec.trust_domain) == (MESH_REF, "mesh.example")
    assert len(codec.decode(stored[KEYSPACE.epoch()], Epoch, "epoch").id) == 32
    records = [
        codec.decode(value, SealedKey, key.decode()) for key, value in stored.items() if key.startswith(KEYSPACE.ca())
    ]
    assert all(KEYSPACE.ca_key(record.id) in stored for record in records)
    assert {record.role for record in records} == {"mesh-root", "mesh-issuing", "etcd-client", "mesh-jwt"}
    authority = await open_authority(records, kek)
    trust = codec.decode(stored[KEYSPACE.trust_bundle("mesh.example")], TrustBundle, "trust")
    assert (trust.sequence, trust.trust_domain) == (1, "mesh.example")
    assert bundle.certificates(trust) == authority.roots
    signer = await open_signer(records, kek)
    assert signer is not None
    assert trust.jwt_authorities == (signer.authority,)
    assert authority.trust_domain == "mesh.example"


async def test_only_the_first_of_two_can_be_written() -> None:
    (one, _), (two, _) = await make(1), await make(2)
    assert one.absent == two.absent
    assert set(one.absent) <= {key for key, _ in one.puts}
    assert {KEYSPACE.epoch(), KEYSPACE.object(MESH_REF)} <= set(one.absent)


async def test_every_genesis_has_an_epoch_and_keys_of_its_own() -> None:
    (one, _), (two, _) = await make(1), await make(2)
    assert not set(dict(one.puts).values()) & (
        set(dict(two.puts).values()) - {dict(one.puts)[KEYSPACE.object(MESH_REF)]}
    )
    parsed = [KEYSPACE.parse(key) for key, _ in one.puts]
    assert MESH_REF in parsed
    assert EpochRef() in parsed
    assert TrustRef("mesh.example") in parsed
