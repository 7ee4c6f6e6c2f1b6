"""A Workload API to test: the real server, service and keepers; a CA in memory instead of a replica."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import trio
from google.protobuf.message import Message

from controlplane.ca.jwt_key import JwtSigner, open_signer
from dataplane.config import WorkloadApiCaller, WorkloadApiSettings
from dataplane.workload_api.api import WorkloadApi
from dataplane.workload_api.connection import Usage
from dataplane.workload_api.limits import Limits
from schemas.api import mesh_pb2
from schemas.errors import Unavailable
from schemas.names import ServiceRef, SpiffeId
from schemas.records import TrustBundle
from spiffe.bundle import record
from spiffe.x509 import csr_public_key
from tests.controlplane.ca.conftest import TRUST_DOMAIN, MadeCa, below, make_ca
from tests.controlplane.rotation.upstream_ca import UpstreamCa
from trio_grpc import Channel, Metadata

ORDERS = ServiceRef("shop", "orders")
ORDERS_ID = SpiffeId.of_service(TRUST_DOMAIN, ORDERS)
HEADER: Metadata = [("workload.spiffe.io", "true")]
STREAMED = ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles")
SECONDS = 10.0  # of any wait in a test
ME = WorkloadApiCaller(uid=os.getuid())

Reply = TypeVar("Reply", bound=Message)


@dataclass
class Clock:
    """The host's, with an offset: forwards is what a test needs."""

    offset: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@dataclass
class Ca:
    """What a replica does for a sidecar, and what can go wrong with it."""

    keys: list[tuple[MadeCa, JwtSigner]]
    """All that are trusted."""
    clock: Clock
    ttl: int = 3600
    away: bool = False
    calls: list[str] = field(default_factory=list)
    federated: tuple[TrustBundle, ...] = ()
    active: int = 0
    """Index of the keys that sign."""
    sequence: int = 1
    jwt: bool = True
    """Whether the bundle has JWT keys."""

    @classmethod
    async def make(cls, clock: Clock, seed: int = 1, *, upstream: UpstreamCa | None = None) -> Ca:
        """upstream: signs the issuing key, instead of the mesh's own root."""
        return cls([await _keys(seed, clock, upstream)], clock)

    @property
    def bundle(self) -> TrustBundle:
        roots = [root for made, _ in self.keys for root in made.authority.roots]
        found = record(
            TRUST_DOMAIN, roots, self.sequence, [signer.authority for _, signer in self.keys] if self.jwt else []
        )
        return msgspec.structs.replace(found, issuing_key_id=self.keys[self.active][0].authority.issuing_key_id)

    def bundle_as(self, trust_domain: str, **changed: Any) -> TrustBundle:
        """As if it were another trust domain's."""
        return msgspec.structs.replace(self.bundle, trust_domain=trust_domain, **changed)

    # A rotation, as `tests.e2e_identity` has it with real replicas.

    async def prepare(self) -> None:
        self.sequence += 1
        self.keys.append(await _keys(self.sequence, self.clock))

    def activate(self) -> None:
        self.sequence += 1
        self.active = len(self.keys) - 1

    def remove(self) -> None:
        """All but what signs."""
        self.sequence += 1
        self.keys, self.active = [self.keys[self.active]], 0

    async def issue_x509(self, csr: bytes) -> mesh_pb2.IssueX509Reply:
        self._called("x509")
        key = csr_public_key(csr)
        serial = random.getrandbits(150) | 1
        chain = self.keys[self.active][0].authority.issue_workload(ORDERS, key, self.clock(), self.ttl, serial)
        return mesh_pb2.IssueX509Reply(spiffe_id=str(ORDERS_ID), chain=chain)

    async def issue_jwt(self, audience: Sequence[str]) -> mesh_pb2.IssueJwtReply:
        self._called("jwt")
        token, expires = self.keys[self.active][1].issue(ORDERS_ID, list(audience), self.clock())
        return mesh_pb2.IssueJwtReply(spiffe_id=str(ORDERS_ID), token=token, expires=expires)

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if self.away:
            raise Unavailable("no replica answered")


async def _keys(seed: int, clock: Clock, upstream: UpstreamCa | None = None) -> tuple[MadeCa, JwtSigner]:
    made = await make_ca(seed, int(clock()) - 60)
    if upstream is not None:
        made = await below(made, upstream)
    signer = await open_signer(made.records, made.kek)
    assert signer is not None
    return made, signer


@dataclass
class Stage:
    api: WorkloadApi
    ca: Ca
    clock: Clock
    socket: Path
    usage: Usage

    changes: list[trio.Event]

    async def served(self) -> None:
        """There is an SVID to be had, of the key that the CA signs with now."""
        wanted = self.ca.bundle.issuing_key_id
        with trio.fail_after(SECONDS):
            while self.api.issuer != wanted:
                await self.changes[-1].wait()

    def tell(self) -> None:
        """The sidecar sees the trust bundles as they are now."""
        self.api.trust(self.ca.bundle, [self.ca.bundle, *self.ca.federated])

    async def other_trust(self) -> None:
        """All streams have something to say."""
        await self.ca.prepare()
        self.tell()

    def channel(self) -> Channel:
        return Channel(f"unix:{self.socket}", options=(("grpc.use_local_subchannel_pool", 1),))

    async def call(
        self, method: str, request: Message, reply: type[Reply], *, metadata: Metadata = HEADER, path: str = ""
    ) -> Reply:
        with self.channel() as channel:
            payload = request.SerializeToString()
            target = path or f"/SpiffeWorkloadAPI/{method}"
            if method in STREAMED:  # its first message
                with channel.server_stream(target, payload, metadata=metadata) as stream:
                    with trio.fail_after(SECONDS):
                        return reply.FromString((await stream.receive())[0])
            return reply.FromString(await channel.unary(target, payload, timeout=SECONDS, metadata=metadata))


@asynccontextmanager
async def running(
    directory: Path,
    *,
    callers: Sequence[WorkloadApiCaller] = (ME,),
    ca: Ca | None = None,
    clock: Clock | None = None,
    limits: Limits | None = None,
    socket: Path | None = None,
) -> AsyncIterator[Stage]:
    """Serves until the body ends."""
    clock = clock or Clock()
    ca = ca or await Ca.make(clock)
    settings = WorkloadApiSettings(socket=str(socket or directory / "w.sock"), callers=tuple(callers))
    changes = [trio.Event()]

    def changed() -> None:
        changes.append(trio.Event())
        changes[-2].set()

    api = WorkloadApi(
        settings,
        directory,
        ca,
        ORDERS_ID,
        ca.bundle,
        clock=clock,
        fraction=lambda: 0.0,  # renew as soon as the mesh issues with another key
        svid_changed=changed,
        limits=limits,
    )
    async with trio.open_nursery() as nursery:
        usage = await nursery.start(api.run)
        yield Stage(api, ca, clock, Path(settings.socket), usage, changes)
        nursery.cancel_scope.cancel()
