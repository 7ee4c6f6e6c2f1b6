"""Ports from the kernel, and waiting for something to be ready."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import trio

READY_SECONDS = 20.0  # a bound for a busy two-core machine; readiness itself takes well under one second
_POLL_SECONDS = 0.01


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listened on a moment ago on `host` (IPv4 or IPv6)."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """`count` different free TCP ports on `host`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as held:  # all are held until the last is known, so that none comes twice
        sockets = [held.enter_context(socket.socket(family, socket.SOCK_STREAM)) for _ in range(count)]
        for sock in sockets:
            sock.bind((host, 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


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
