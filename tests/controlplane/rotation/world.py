"""A CA in the fake etcd, one sidecar and two replicas' words in it, a clock of our own; and stores that die."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import trio

import trio_etcd
from controlplane.bootstrap.genesis import genesis
from controlplane.ca import template as templates
from controlplane.ca.facts import active, root_above
from controlplane.ca.seal import KeyRing, LocalKey
from controlplane.ca.sign import Issuer, self_signed
from controlplane.ca.template import Validity
from controlplane.rotation.driver import Rotator
from controlplane.rotation.expiry import Watch
from controlplane.rotation.look import Look
from controlplane.rotation.steps import CaSteps
from controlplane.rotation.upstream import UpstreamSigner
from controlplane.rotation.write import CaWriter
from controlplane.store.boards import MeshView, StatusBoard
from controlplane.store.etcd import Store
from controlplane.store.requests import RequestWriter
from schemas import codec
from schemas.keys import Keyspace, StatusRef
from schemas.records import ReplicaStatus, SealedKey, SidecarStatus
from tests.fakes.etcd import FakeEtcd
from tests.spiffe.certificates import NOW, new_key

TRUST_DOMAIN = "mesh.example"
KEYS = Keyspace()


class Died(Exception):
    """The replica was killed."""


class MortalStore(Store):
    """Dies at its `at`-th transaction, before etcd has it or after; `seen` counts them."""

    at = 0
    applied = False
    seen = 0

    async def transact(self, guards: object, ops: object, *, seconds: float = 2.0) -> int | None:
        self.seen += 1
        if self.seen == self.at and not self.applied:
            raise Died
        if self.at and self.seen > self.at:
            raise Died  # nothing that is done on the way down reaches etcd either
        revision = await super().transact(guards, ops, seconds=seconds)  # type: ignore[arg-type]  # handed on
        if self.seen == self.at:
            raise Died
        return revision


@dataclass
class World:
    etcd: FakeEtcd
    kek: LocalKey
    rng: random.Random
    client: trio_etcd.Client
    now: int = NOW
    history: list[list[str]] = field(default_factory=list)

    def rotator(
        self, store: Store, kek: KeyRing | None = None, upstream: UpstreamSigner | None = None
    ) -> tuple[Rotator, CaSteps]:
        steps = self.steps(store, kek, upstream=upstream is not None)
        watch = Watch((), lambda: self.now)
        return Rotator(steps, MeshView(KEYS), StatusBoard(KEYS), watch, self.rng.random, upstream), steps

    def steps(self, store: Store, kek: KeyRing | None = None, *, upstream: bool = False) -> CaSteps:
        ring, writer = kek or KeyRing(self.kek), CaWriter(store, RequestWriter(store))
        return CaSteps(store, writer, ring, lambda: self.now, self.rng.randbytes, "r", upstream)

    def store(self) -> Store:
        return Store(self.client, KEYS)

    def mortal(self, at: int, *, applied: bool) -> MortalStore:
        store = MortalStore(self.client, KEYS)
        store.at, store.applied = at, applied
        return store

    async def look(self) -> Look:
        return await self.steps(self.store()).look()

    async def keys(self) -> dict[str, SealedKey]:
        return dict((await self.look()).facts.keys)

    async def everybody_follows(self) -> None:
        """One sidecar and two replicas trust by the newest bundle and use the active key."""
        seen = await self.look()
        signing = active(seen.facts.keys, "mesh-issuing")
        assert signing is not None
        issuer = seen.facts.issuers[signing.id]
        status = SidecarStatus(
            service="web", namespace="shop", instance="one", applied_revision=1, acked_revision=1,
            svid_expires=self.now + 3600, svid_issuer=issuer, trust_sequence=seen.bundle.sequence,
        )  # fmt: skip
        await self.client.put(KEYS.status(StatusRef("shop", "web.one")), codec.encode(status))
        for name in ("r1", "r2"):
            before = next((one for one in seen.replicas if one.id == name), None)
            said = ReplicaStatus(
                id=name, name=name, seen=self.now, trust_sequence=seen.bundle.sequence, issuing_key_id=issuer,
                issuing_since=0 if before is None else self.now, svid_expires=self.now + 3600,
            )  # fmt: skip
            if before is not None and before.issuing_key_id == issuer:
                said = msgspec.structs.replace(said, issuing_since=before.issuing_since)
            await self.client.put(KEYS.replica(name), codec.encode(said))

    async def drive(self, rotator: Rotator) -> None:
        """Until no rotation is under way; time passes while it waits."""
        for _ in range(60):
            await self.everybody_follows()
            if (await self.look()).rotation is None:
                return
            if await rotator.advance():
                self.now += 1900  # half of what a removal waits for: a few looks are held back
            await self.check()
        raise AssertionError("the rotation has no end")

    async def check(self) -> None:
        """One active key of each role, and its root is active."""
        keys = await self.keys()
        for role in ("mesh-root", "mesh-issuing", "mesh-jwt", "etcd-client"):
            assert [key.state for key in keys.values() if key.role == role].count("active") == 1, keys
        issuing = active(keys, "mesh-issuing")
        assert issuing is not None
        root = root_above(keys, issuing)
        assert root is not None
        assert root.state == "active"
        trusted = set((await self.look()).bundle.x509_authorities)
        assert trusted == {key.chain[0] for key in keys.values() if key.role == "mesh-root"}


@asynccontextmanager
async def made_world(seed: int = 1) -> AsyncIterator[World]:
    rng = random.Random(seed)
    kek, key = LocalKey(rng.randbytes(32), rng.randbytes), new_key()
    template = templates.etcd_ca("0", Validity.starting(NOW, templates.ETCD_CA_SECONDS))
    plan = await genesis(
        TRUST_DOMAIN,
        KEYS,
        root_key=new_key(),
        issuing_key=new_key(),
        jwt_key=new_key(),
        etcd_ca=Issuer(self_signed(template, key, 1), key),
        kek=kek,
        random=rng.randbytes,
        now=NOW,
    )
    etcd = FakeEtcd()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(etcd.run)
        async with trio_etcd.open_etcd(etcd.endpoints, connect=etcd.connect) as client:
            for name, value in plan.puts:
                await client.put(name, value)
            yield World(etcd, kek, rng, client)
        nursery.cancel_scope.cancel()
