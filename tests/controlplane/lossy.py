"""A store whose transactions lose their requests or their answers on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio_etcd
from controlplane.store.etcd import Store
from schemas.keys import Keyspace
from trio_etcd.transport import Transport, TransportStream, connect_http2
from trio_grpc import TLS, Metadata, RpcError, StatusCode

TXN = "/etcdserverpb.KV/Txn"


@dataclass
class Faults:
    """`plan`: for the next transactions, "answer lost" (it happened), "request lost" (it did not) or "" for neither."""

    plan: list[str] = field(default_factory=list)
    sent: int = 0

    def connect(self, endpoint: str, tls: TLS | None) -> Transport:
        return _Lossy(connect_http2(endpoint, tls), self)


class _Lossy:
    def __init__(self, inner: Transport, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def unary(self, path: str, payload: bytes, *, timeout: float, metadata: Metadata = ()) -> bytes:
        fault = ""
        if path == TXN:
            self._faults.sent += 1
            fault = self._faults.plan.pop(0) if self._faults.plan else ""
        if fault == "request lost":
            raise RpcError(StatusCode.UNAVAILABLE, "Connection reset by peer")
        answer = await self._inner.unary(path, payload, timeout=timeout, metadata=metadata)
        if fault == "answer lost":
            raise RpcError(StatusCode.UNAVAILABLE, "Connection reset by peer")
        return answer

    def stream(self, path: str, *, metadata: Metadata = ()) -> TransportStream:
        return self._inner.stream(path, metadata=metadata)

    def close(self) -> None:
        self._inner.close()


@asynccontextmanager
async def opened(endpoint: str, prefix: str, faults: Faults | None = None) -> AsyncIterator[Store]:
    connect = (faults or Faults()).connect
    async with trio_etcd.open_etcd(endpoint, connect=connect) as client:
        yield Store(client, Keyspace(prefix.rstrip("/")))
