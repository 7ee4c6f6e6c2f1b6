"""sd_notify: the datagrams that systemd gets, and silence where nobody listens."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_systemd import Notifier


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
    notifier = Notifier(environ)
    notifier.ready()
    notifier.status("waiting for etcd\nREADY=1")
    notifier.stopping()
    notifier.send("A=1", "B=2")
    assert [listener.recv(1024) for _ in range(4)] == [
        b"READY=1\nSTATUS=serving",
        b"STATUS=waiting for etcd READY=1",
        b"STOPPING=1\nSTATUS=draining",
        b"A=1\nB=2",
    ]


async def test_the_watchdog_pings_at_half_the_interval(
    manager: tuple[socket.socket, dict[str, str]], autojump_clock: trio.testing.MockClock
) -> None:
    listener, environ = manager
    notifier = Notifier({**environ, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7"}, pid=7)
    with trio.move_on_after(11):
        await notifier.ping_watchdog()
    listener.setblocking(False)
    assert [listener.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        listener.recv(100)


async def test_waiting_at_the_start_asks_for_more_time(
    manager: tuple[socket.socket, dict[str, str]], autojump_clock: trio.testing.MockClock
) -> None:
    listener, environ = manager
    with trio.move_on_after(15):
        await Notifier(environ).extend_start()
    assert [listener.recv(100) for _ in range(2)] == [b"EXTEND_TIMEOUT_USEC=30000000"] * 2


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}],
)
async def test_no_watchdog_no_pings(manager: tuple[socket.socket, dict[str, str]], watchdog: dict[str, str]) -> None:
    listener, environ = manager
    with trio.fail_after(5):
        await Notifier({**environ, **watchdog}, pid=7).ping_watchdog()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(100)


@pytest.mark.parametrize("environ", [{"NOTIFY_SOCKET": "/nonexistent/notify"}, {"NOTIFY_SOCKET": "relative"}, {}])
async def test_a_manager_that_is_gone_is_no_reason_to_fail(environ: dict[str, str]) -> None:
    Notifier(environ).ready()


async def test_nobody_asked_for_pings() -> None:
    with trio.fail_after(5):
        await Notifier({"WATCHDOG_USEC": "1000000"}).ping_watchdog()
