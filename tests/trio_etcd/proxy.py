"""A TCP proxy that breaks connections when told to."""

from __future__ import annotations

import contextlib
import socket
import struct

import trio

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST


class Proxy:
    """Passes bytes between 127.0.0.1:`port` and `target` ("host:port") while `run` runs."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._connections: set[trio.CancelScope] = set()
        self.refusing = False
        self.accepted = 0
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection with a reset."""
        for scope in list(self._connections):
            scope.cancel()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, client: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                self.accepted += 1
                if not self.refusing:
                    await self._pass(client)
            finally:
                self._connections.discard(scope)
                _reset(client)

    async def _pass(self, client: trio.SocketStream) -> None:
        with contextlib.suppress(OSError):
            server = await trio.open_tcp_stream(*self._target)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_pump, client, server, nursery.cancel_scope)
                    nursery.start_soon(_pump, server, client, nursery.cancel_scope)
            finally:
                _reset(server)


def _reset(stream: trio.SocketStream) -> None:
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    stream.socket.close()


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await source.receive_some(65536):
            await sink.send_all(data)
    scope.cancel()
