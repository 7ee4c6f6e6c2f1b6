"""A server on a Unix socket whose one handler is the test's, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import trio

from trio_grpc import Channel
from trio_grpc.http2 import Connection, Handler, Limits, Usage, open_unix_server

METHOD = "/test.Service/Method"
SECONDS = 10.0  # of any wait in a test


@dataclass
class Stage:
    socket: Path
    usage: Usage
    faults: list[tuple[str, Exception]] = field(default_factory=list)

    def channel(self) -> Channel:
        return Channel(f"unix:{self.socket}", options=(("grpc.use_local_subchannel_pool", 1),))


@asynccontextmanager
async def running(directory: Path, handler: Handler, limits: Limits | None = None) -> AsyncIterator[Stage]:
    limits = limits or Limits()
    faults: list[tuple[str, Exception]] = []

    def on_error(what: str, error: Exception) -> None:
        faults.append((what, error))

    async def serve(connection: trio.socket.SocketType, uid: int, usage: Usage) -> None:
        await Connection(connection, uid, handler, limits, usage, on_error).run()

    path = directory / "s.sock"
    async with open_unix_server(path, mode=0o600, serve=serve, limits=limits, on_error=on_error) as usage:
        with trio.fail_after(4 * SECONDS):
            yield Stage(path, usage, faults)


class Raw:
    """HTTP/2 by hand: what a client library would not send."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []

    async def begin(self, *, method: str = "POST", kind: str = "application/grpc") -> int:
        """The headers of a call."""
        number = self.h2.get_next_available_stream_id()
        fields = {":method": method, ":scheme": "http", ":path": METHOD, ":authority": "localhost"}
        self.h2.send_headers(number, [*fields.items(), ("content-type", kind)])
        await self.flush()
        return number

    async def flush(self) -> None:
        """Raises trio.EndOfChannel."""
        try:
            await self._stream.send_all(self.h2.data_to_send())
        except trio.BrokenResourceError:
            raise trio.EndOfChannel from None

    async def hear(self, kind: type[h2.events.Event]) -> h2.events.Event:
        """The next event of that kind; nothing is acknowledged. Raises trio.EndOfChannel."""
        with trio.fail_after(SECONDS):
            while True:
                for event in list(self.events):
                    self.events.remove(event)
                    if isinstance(event, kind):
                        return event
                try:
                    data = await self._stream.receive_some(65536)
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    raise trio.EndOfChannel
                self.events += self.h2.receive_data(data)
                await self.flush()


@asynccontextmanager
async def raw(stage: Stage) -> AsyncIterator[Raw]:
    async with await trio.open_unix_socket(stage.socket) as stream:
        yield Raw(stream)
