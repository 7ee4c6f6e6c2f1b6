"""Asks a replica for renewals by mTLS, as fast as it answers: a process of its own, steered by lines.

    python -m tests.bench.renew_load DIRECTORY <replica's host:port>

``<items a call> <calls in flight>`` on standard input: all requests of DIRECTORY once; then the seconds on standard
output.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import trio

from dataplane.identity.material import Identity, new_key, roots_pem, signing_request
from schemas.api import mesh_pb2 as pb
from schemas.names import CONTROL_PLANE_SERVER_NAME
from trio_grpc import TLS, Channel

CONNECTIONS = 4
CALL_S = 60.0
# A connection of its own for each channel, as each sidecar has.
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


class Work(msgspec.Struct, frozen=True):
    """The requests, in pairs, and who asks: PEM."""

    requests: tuple[tuple[bytes, bytes], ...]
    ca: bytes
    chain: bytes
    key: bytes

    @classmethod
    def of(cls, identity: Identity, requests: Sequence[tuple[bytes, bytes]]) -> "Work":
        return cls(tuple(requests), roots_pem(identity.bundle), identity.chain_pem, identity.key_pem)

    def write(self, path: Path) -> None:
        path.write_bytes(msgspec.msgpack.encode(self))

    @classmethod
    def read(cls, path: Path) -> "Work":
        return msgspec.msgpack.decode(path.read_bytes(), type=cls)


def new_requests(count: int) -> list[tuple[bytes, bytes]]:
    return [(signing_request(new_key()), signing_request(new_key())) for _ in range(count)]


async def ask(channels: Sequence[Channel], calls: Sequence[tuple[str, bytes]], in_flight: int) -> float:
    """Seconds until all calls are answered. Raises RpcError for one that is not, AssertionError for an empty answer."""
    waiting = iter(calls)

    async def one_after_another(channel: Channel) -> None:
        for path, payload in waiting:
            if len(await channel.unary(path, payload, timeout=CALL_S)) < 1000:
                raise AssertionError("an answer without certificates")

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(in_flight):
            nursery.start_soon(one_after_another, channels[number % len(channels)])
    return time.perf_counter() - started


def calls_of(requests: Sequence[tuple[bytes, bytes]], batch: int) -> list[tuple[str, bytes]]:
    items = [pb.RenewRequest(csr=csr, etcd_csr=etcd_csr) for csr, etcd_csr in requests]
    if batch == 1:
        return [("/mesh.v1.Identity/Renew", item.SerializeToString()) for item in items]
    return [
        ("/mesh.v1.Identity/RenewBatch", pb.RenewBatchRequest(items=items[first : first + batch]).SerializeToString())
        for first in range(0, len(items), batch)
    ]


async def main(work: Work, target: str) -> None:
    calls = {batch: calls_of(work.requests, batch) for batch in (1, 50)}
    tls = TLS(work.ca, work.chain, work.key)
    with ExitStack() as stack:
        channels = [
            stack.enter_context(Channel(target, tls=tls, server_name=CONTROL_PLANE_SERVER_NAME, options=OPTIONS))
            for _ in range(CONNECTIONS)
        ]
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            batch, in_flight = map(int, line.split())
            print(await ask(channels, calls[batch], in_flight), flush=True)


if __name__ == "__main__":
    trio.run(main, Work.read(Path(sys.argv[1])), sys.argv[2])
