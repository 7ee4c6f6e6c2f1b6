"""A CA made as genesis makes it, at a fixed time and with randomness that repeats."""

from __future__ import annotations

import random
from dataclasses import dataclass

import msgspec
import pytest
import trio

from controlplane.bootstrap.genesis import genesis
from controlplane.ca import template as templates
from controlplane.ca.authority import Authority
from controlplane.ca.keystore import open_authority
from controlplane.ca.make import signing_request
from controlplane.ca.seal import LocalKey, unseal_key
from controlplane.ca.sign import Issuer, self_signed
from controlplane.ca.template import Validity
from schemas import codec
from schemas.keys import Keyspace
from schemas.records import SealedKey
from tests.controlplane.rotation.upstream_ca import UpstreamCa
from tests.spiffe.certificates import NOW, new_key

TRUST_DOMAIN = "mesh.example"


@dataclass(frozen=True)
class MadeCa:
    records: tuple[SealedKey, ...]
    kek: LocalKey
    authority: Authority


async def make_ca(seed: int = 1, now: int = NOW) -> MadeCa:
    rng = random.Random(seed)
    kek = LocalKey(rng.randbytes(32), rng.randbytes)
    key = new_key()
    template = templates.etcd_ca("0", Validity.starting(now, templates.ETCD_CA_SECONDS))
    keyspace = Keyspace()
    plan = await genesis(
        TRUST_DOMAIN,
        keyspace,
        root_key=new_key(),
        issuing_key=new_key(),
        jwt_key=new_key(),
        etcd_ca=Issuer(self_signed(template, key, 1), key),
        kek=kek,
        random=rng.randbytes,
        now=now,
    )
    records = tuple(
        codec.decode(value, SealedKey, key.decode()) for key, value in plan.puts if key.startswith(keyspace.ca())
    )
    return MadeCa(records, kek, await open_authority(records, kek))


async def below(made: MadeCa, upstream: UpstreamCa) -> MadeCa:
    """The same keys, the issuing one signed by a CA above the mesh, as after `meshadm ca install`."""
    (record,) = (one for one in made.records if one.role == "mesh-issuing")
    issuing = await unseal_key(record, made.kek)
    *chain, root = upstream.sign(signing_request(TRUST_DOMAIN, record.id, issuing.key))
    records = tuple(
        msgspec.structs.replace(one, chain=tuple(chain))
        if one.role == "mesh-issuing"
        else msgspec.structs.replace(one, chain=(root,), sealed=b"")
        if one.role == "mesh-root"
        else one
        for one in made.records
    )
    return MadeCa(records, made.kek, await open_authority(records, made.kek))


@pytest.fixture(scope="session")
def made_ca() -> MadeCa:
    return trio.run(make_ca)


@pytest.fixture
def authority(made_ca: MadeCa) -> Authority:
    return made_ca.authority
