"""Ports from the kernel, and waiting for something to be ready."""

from __future__ import annotations

import fcntl
import inspect
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import trio

READY_SECONDS = 20.0  # a bound for a busy two-core machine; readiness itself takes well under one second
_POLL_SECONDS = 0.01

_TAKEN = Path(tempfile.gettempdir()) / f"hostmesh-test-ports-{os.getuid()}"
"""A file a port, locked by the run that uses it: several runs at once ask the same kernel."""

_locks: list[int] = []  # descriptors; the locks end with this process


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listened on a moment ago on `host` (IPv4 or IPv6)."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """`count` different TCP ports that are free on `host`, and that no other test run is about to listen on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports: list[int] = []
    with ExitStack() as held:  # all are held until the last is known, so that none comes twice
        while len(ports) < count:
            sock = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.bind((host, 0))
            port = int(sock.getsockname()[1])
            if _take(port):
                ports.append(port)
    return ports


def _take(port: int) -> bool:
    """True when the port is ours until this process ends."""
    _TAKEN.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(_TAKEN / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _locks.append(descriptor)
    return True


async def eventually(
    what: str, check: Callable[[], object] | Callable[[], Awaitable[object]], seconds: float = READY_SECONDS
) -> None:
    """Return as soon as `check` (sync or async) gives something true; at most `seconds`.

    Raises AssertionError that names `what` when the time is up. Exceptions of `check` propagate.
    """
    with trio.move_on_after(seconds):
        while True:
            outcome = check()
            if inspect.isawaitable(outcome):
                outcome = await outcome
            if outcome:
                return
            await trio.sleep(_POLL_SECONDS)
    raise AssertionError(f"{what}: not true within {seconds:.0f} s")


async def wait_port(host: str, port: int, seconds: float = READY_SECONDS) -> None:
    """Return when something accepts TCP connections on `host`:`port`. Raises AssertionError after `seconds`."""

    async def accepts() -> bool:
        try:
            await (await trio.open_tcp_stream(host, port)).aclose()
        except OSError:
            return False
        return True

    await eventually(f"{host}:{port} accepts connections", accepts, seconds)


async def wait_unix_socket(path: str, seconds: float = READY_SECONDS) -> None:
    """Return when something accepts connections on the Unix socket `path`. Raises AssertionError after `seconds`."""

    async def accepts() -> bool:
        try:
            await (await trio.open_unix_socket(path)).aclose()
        except OSError:
            return False
        return True

    await eventually(f"{path} accepts connections", accepts, seconds)
