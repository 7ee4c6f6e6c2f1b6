from __future__ import annotations

import logging
import socket
from pathlib import Path

import trio
import trio.testing

from controlplane.log import KeyValueFormatter, event
from controlplane.notify import Notifier


def listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.setblocking(False)
    return sock


async def test_ready_and_watchdog_pings(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    path = tmp_path / "notify"
    with listener(path) as sock:
        notifier = Notifier({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7"}, pid=7)
        notifier.send("READY=1", "STATUS=serving")
        assert sock.recv(100) == b"READY=1\nSTATUS=serving"
        with trio.move_on_after(11):
            await notifier.ping_watchdog()
        assert [sock.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3


async def test_waiting_at_the_start_asks_for_more_time(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    path = tmp_path / "notify"
    with listener(path) as sock:
        with trio.move_on_after(15):
            await Notifier({"NOTIFY_SOCKET": str(path)}).extend_start()
        assert [sock.recv(100) for _ in range(2)] == [b"EXTEND_TIMEOUT_USEC=30000000"] * 2


async def test_nobody_asked(tmp_path: Path) -> None:
    Notifier({}).send("READY=1")
    await Notifier({}).ping_watchdog()
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}, pid=7)
    gone.send("READY=1")
    await gone.ping_watchdog()


def test_one_event_is_one_line(caplog) -> None:  # type: ignore[no-untyped-def]  # pytest's fixture
    with caplog.at_level(logging.INFO):
        event(logging.getLogger("x"), logging.INFO, "join refused", peer="ipv4:1:2", why='a\nb "c"', none=None, e="")
    line = KeyValueFormatter(journal=True).format(caplog.records[0])
    assert line == '<6>join refused peer=ipv4:1:2 why="a\\nb \\"c\\"" e=""'
