"""A Workload API to test: the real server, service and keepers; a CA in memory instead of a replica."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import trio
from google.protobuf.message import Message

from controlplane.ca.jwt_key import JwtSigner, open_signer
from controlplane.ca.keystore import open_authority
from controlplane.ca.records import issuers
from dataplane.config import WorkloadApiCaller, WorkloadApiSettings
from dataplane.workload_api.api import WorkloadApi
from dataplane.workload_api.limits import Limits
from schemas.api import mesh_pb2
from schemas.errors import Unavailable
from schemas.names import ServiceRef, SpiffeId
from schemas.records import TrustBundle
from spiffe.bundle import record
from spiffe.x509 import csr_public_key
from tests.controlplane.ca.conftest import TRUST_DOMAIN, MadeCa, make_ca
from trio_grpc import Channel, Metadata

ORDERS = ServiceRef("shop", "orders")
ORDERS_ID = SpiffeId.of_service(TRUST_DOMAIN, ORDERS)
HEADER: Metadata = [("workload.spiffe.io", "true")]
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

    made: MadeCa
    signer: JwtSigner
    clock: Clock
    ttl: int = 3600
    away: bool = False
    calls: list[str] = field(default_factory=list)
    extra: tuple[TrustBundle, ...] = ()

    @classmethod
    async def make(cls, clock: Clock, seed: int = 1) -> Ca:
        made = await make_ca(seed, int(clock()) - 60)
        signer = await open_signer(made.records, made.kek)
        assert signer is not None
        return cls(made, signer, clock)

    @property
    def bundle(self) -> TrustBundle:
        known = {one.id: one for one in self.made.records}
        issuing = next(iter(issuers(known).values()))
        made = record(TRUST_DOMAIN, self.made.authority.roots, 1, [self.signer.authority])
        return msgspec.structs.replace(made, issuing_key_id=issuing)

    async def reopened(self) -> None:
        self.made = MadeCa(self.made.records, self.made.kek, await open_authority(self.made.records, self.made.kek))

    async def issue_x509(self, csr: bytes) -> mesh_pb2.IssueX509Reply:
        self._called("x509")
        key = csr_public_key(csr)
        serial = random.getrandbits(150) | 1
        chain = self.made.authority.issue_workload(ORDERS, key, self.clock(), self.ttl, serial)
        return mesh_pb2.IssueX509Reply(spiffe_id=str(ORDERS_ID), chain=chain)

    async def issue_jwt(self, audience: Sequence[str]) -> mesh_pb2.IssueJwtReply:
        self._called("jwt")
        token, expires = self.signer.issue(ORDERS_ID, list(audience), self.clock())
        return mesh_pb2.IssueJwtReply(spiffe_id=str(ORDERS_ID), token=token, expires=expires)

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if self.away:
            raise Unavailable("no replica answered")


@dataclass
class Stage:
    api: WorkloadApi
    ca: Ca
    clock: Clock
    socket: Path

    def channel(self) -> Channel:
        return Channel(f"unix:{self.socket}", options=(("grpc.use_local_subchannel_pool", 1),))

    async def call(
        self, method: str, request: Message, reply: type[Reply], *, metadata: Metadata = HEADER, path: str = ""
    ) -> Reply:
        with self.channel() as channel:
            payload = request.SerializeToString()
            target = path or f"/SpiffeWorkloadAPI/{method}"
            return reply.FromString(await channel.unary(target, payload, timeout=SECONDS, metadata=metadata))

    @contextmanager
    def stream(
        self, method: str, request: Message, reply: type[Reply], *, metadata: Metadata = HEADER
    ) -> Iterator[Callable[[], Awaitable[Reply]]]:
        """`await next()`: the next message; raises RpcError, trio.EndOfChannel."""
        held: list[bytes] = []
        with (
            self.channel() as channel,
            channel.server_stream(
                f"/SpiffeWorkloadAPI/{method}", request.SerializeToString(), metadata=metadata
            ) as stream,
        ):

            async def following() -> Reply:
                with trio.fail_after(SECONDS):
                    while not held:
                        held.extend(await stream.receive())
                return reply.FromString(held.pop(0))

            yield following


@asynccontextmanager
async def running(
    directory: Path,
    *,
    callers: Sequence[WorkloadApiCaller] = (ME,),
    ca: Ca | None = None,
    clock: Clock | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[Stage]:
    """Serves until the body ends."""
    clock = clock or Clock()
    ca = ca or await Ca.make(clock)
    settings = WorkloadApiSettings(socket=str(directory / "w.sock"), callers=tuple(callers))
    api = WorkloadApi(settings, directory, ca, ORDERS_ID, ca.bundle, clock=clock, fraction=lambda: 0.5, limits=limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(api.run)
        yield Stage(api, ca, clock, Path(settings.socket))
        nursery.cancel_scope.cancel()
