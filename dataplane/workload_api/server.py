"""[edge] gRPC on a Unix socket, with the peer's process known.

grpcio gives a Python server neither its sockets nor their peers, and who the peer is is all that the Workload API has
to go by.
"""

import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from dataplane.config import MAX_SOCKET_PATH
from dataplane.workload_api.connection import Connection, ServerSettings, Usage
from dataplane.workload_api.peer import Doubt, Peer, peer_uid
from trio_grpc import BindError

_BACKLOG = 128  # connections that wait to be accepted; accepting is all that the listener does


@asynccontextmanager
async def open_server(settings: ServerSettings) -> AsyncIterator[Usage]:
    """Serves until the body ends; then the socket is removed.

    Anyone may connect (mode 0666): who is answered is decided by attestation. Raises BindError.
    """
    listener = await _listen(settings.socket)
    inode = os.stat(settings.socket).st_ino
    usage = Usage()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept, listener, settings, usage, nursery)
            yield usage
            nursery.cancel_scope.cancel()
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            if os.stat(settings.socket).st_ino == inode:  # another agent may have its own there by now
                os.unlink(settings.socket)


async def _listen(path: Path) -> trio.socket.SocketType:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise BindError(f"{path}: longer than the {MAX_SOCKET_PATH} bytes that a Unix socket's path may have")
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise BindError(f"{path}: exists and is no socket; remove it, or name another")
            os.unlink(path)  # of an agent that was killed; where two have the same path, the later one serves
        await listener.bind(os.fspath(path))
        os.chmod(path, 0o666)  # noqa: S103  (the standard has clients prove nothing: attestation decides)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise error if isinstance(error, BindError) else BindError(f"{path}: can't listen: {error}") from error
    return listener


async def _accept(
    listener: trio.socket.SocketType, settings: ServerSettings, usage: Usage, nursery: trio.Nursery
) -> None:
    limits = settings.limits
    while True:
        try:
            connection, _ = await listener.accept()
        except OSError as error:  # out of descriptors, or the client has gone already
            settings.on_error("accept", error)
            await trio.sleep(0.1)
            continue
        uid = peer_uid(connection)
        if usage.connections.total() >= limits.connections or usage.connections[uid] >= limits.connections_per_uid:
            connection.close()
            continue
        usage.connections[uid] += 1
        nursery.start_soon(_serve, connection, uid, settings, usage)


async def _serve(connection: trio.socket.SocketType, uid: int, settings: ServerSettings, usage: Usage) -> None:
    peer: Peer | Doubt | None = None
    try:
        try:
            peer = await Peer.attest(connection, settings.hash_decides)
        except Doubt as doubt:
            peer = doubt
        if isinstance(peer, Peer) and settings.knows(peer.facts):
            await Connection(trio.SocketStream(connection), uid, peer, settings, usage).run()
        elif usage.strangers < settings.limits.strangers:
            usage.strangers += 1
            try:
                await Connection(trio.SocketStream(connection), uid, peer, settings, usage).run()
            finally:
                usage.strangers -= 1
    except Exception as error:  # the boundary: no client may take the agent down
        settings.on_error("connection", error)
    finally:
        if isinstance(peer, Peer):
            peer.close()
        connection.close()
        usage.connections[uid] -= 1
        if not usage.connections[uid]:
            del usage.connections[uid]
