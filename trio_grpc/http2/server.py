"""A Unix socket: who may connect, and how many."""

import contextlib
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from trio_grpc.background import background_nursery
from trio_grpc.errors import BindError

from .connection import Usage
from .limits import Limits

_BACKLOG = 128  # connections that wait to be accepted; accepting is all that the listener does
_ACCEPT_AGAIN_S = 0.1  # out of descriptors: somebody has to close one
_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
MAX_SOCKET_PATH = 107  # sun_path of unix(7) without the final NUL

Serve = Callable[[trio.socket.SocketType, int, Usage], Awaitable[None]]
"""Serves one connection of the given uid; on return it is closed."""


@asynccontextmanager
async def open_unix_server(
    path: Path, *, mode: int, serve: Serve, limits: Limits, on_error: Callable[[str, Exception], None]
) -> AsyncIterator[Usage]:
    """Serves until the body ends; then the socket is removed.

    A socket that is there already is replaced: it belongs to a process that was killed, or the later one serves.
    `mode`: of the socket. Raises BindError.
    """
    listener = await _listen(path, mode)
    inode = os.stat(path).st_ino
    usage = Usage()
    try:
        async with background_nursery() as nursery:
            nursery.start_soon(_accept, listener, serve, limits, usage, on_error, nursery)
            yield usage
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            if os.stat(path).st_ino == inode:  # another process may have its own there by now
                os.unlink(path)


async def _listen(path: Path, mode: int) -> trio.socket.SocketType:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise BindError(f"can't listen on {path}: a Unix socket's path has at most {MAX_SOCKET_PATH} bytes")
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise BindError(f"can't listen on {path}: it exists and is no socket; remove it, or name another")
            os.unlink(path)
        await listener.bind(os.fspath(path))
        os.chmod(path, mode)  # nobody can connect before it listens
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise error if isinstance(error, BindError) else BindError(f"can't listen on {path}: {error}") from error
    return listener


async def _accept(
    listener: trio.socket.SocketType,
    serve: Serve,
    limits: Limits,
    usage: Usage,
    on_error: Callable[[str, Exception], None],
    nursery: trio.Nursery,
) -> None:
    while True:
        try:
            connection, _ = await listener.accept()
        except OSError as error:  # out of descriptors, or the client has gone already
            on_error("accept", error)
            await trio.sleep(_ACCEPT_AGAIN_S)
            continue
        uid = _uid_of(connection)
        if usage.connections.total() >= limits.connections or usage.connections[uid] >= limits.connections_per_uid:
            connection.close()
            continue
        usage.connections[uid] += 1
        nursery.start_soon(_serve, connection, uid, serve, usage, on_error)


def _uid_of(connection: trio.socket.SocketType) -> int:
    """Whoever connected, even if it has passed the socket on since then."""
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


async def _serve(
    connection: trio.socket.SocketType,
    uid: int,
    serve: Serve,
    usage: Usage,
    on_error: Callable[[str, Exception], None],
) -> None:
    try:
        await serve(connection, uid, usage)
    except Exception as error:  # the boundary: no client may take the server down
        on_error("connection", error)
    finally:
        connection.close()
        usage.connections[uid] -= 1
        if not usage.connections[uid]:
            del usage.connections[uid]
