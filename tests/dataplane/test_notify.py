"""sd_notify: the datagrams that systemd gets, and silence where nobody listens."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dataplane import notify


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A socket in systemd's place, and the environment that names it."""
    with (
        tempfile.TemporaryDirectory(prefix="notify-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
    ):
        name = str(Path(directory) / "notify") if request.param == "path" else f"@{directory}/notify"
        listener.bind("\0" + name[1:] if name[0] == "@" else name)
        listener.settimeout(5)
        yield listener, {"NOTIFY_SOCKET": name}


def test_what_systemd_is_told(manager: tuple[socket.socket, dict[str, str]]) -> None:
    listener, environ = manager
    notify.ready(environ)
    notify.status(environ, "waiting for etcd\nREADY=1")
    notify.stopping(environ)
    assert [listener.recv(1024) for _ in range(3)] == [
        b"READY=1\nSTATUS=serving",
        b"STATUS=waiting for etcd READY=1",
        b"STOPPING=1\nSTATUS=draining",
    ]


async def test_the_watchdog_pings_at_half_the_interval(manager: tuple[socket.socket, dict[str, str]]) -> None:
    listener, environ = manager
    assert notify.watchdog_seconds({"WATCHDOG_USEC": "3000000"}, 7) == 1.5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notify.watchdog, {**environ, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())})
        for _ in range(3):
            assert await trio.to_thread.run_sync(listener.recv, 1024) == b"WATCHDOG=1"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
async def test_no_watchdog_no_pings(environ: dict[str, str]) -> None:
    assert notify.watchdog_seconds(environ, 7) is None
    with trio.fail_after(5):
        await notify.watchdog(environ)


def test_a_manager_that_is_gone_is_no_reason_to_fail() -> None:
    notify.ready({"NOTIFY_SOCKET": "/nonexistent/notify"})
    notify.ready({"NOTIFY_SOCKET": "relative"})
    notify.ready({})
