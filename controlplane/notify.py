"""Tell systemd how we are: sd_notify(3), the datagram protocol, without its library."""

import contextlib
import os
import socket
from collections.abc import Mapping

import trio

# While we wait for etcd, systemd is asked for this much more of its start timeout, in time before it runs out.
EXTEND_SECONDS = 30
EXTEND_EVERY_SECONDS = 10


class Notifier:
    """Does nothing where the service manager asked for nothing.

    environ: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` with `WATCHDOG_PID` where a watchdog is on.
    """

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # an abstract socket
            self._address = "\0" + self._address[1:]
        for_us = environ.get("WATCHDOG_PID", str(pid or os.getpid())) == str(pid or os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "")
        self._watchdog_seconds = int(microseconds) / 1e6 if for_us and microseconds.isdecimal() else 0.0

    def send(self, *lines: str) -> None:
        """E.g. ``READY=1``, ``STATUS=waiting for etcd``. A manager that does not listen is no reason to fail."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._address)

    async def extend_start(self) -> None:
        """For ever, until cancelled: waiting for others is no failure to start (systemd: EXTEND_TIMEOUT_USEC)."""
        while True:
            self.send(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000}")
            await trio.sleep(EXTEND_EVERY_SECONDS)

    async def ping_watchdog(self) -> None:
        """Ping for ever, at half the interval (sd_watchdog_enabled(3)); returns at once where no watchdog is on.

        Runs in the same event loop as the work: a loop that hangs pings no more.
        """
        while self._address and self._watchdog_seconds:
            self.send("WATCHDOG=1")
            await trio.sleep(self._watchdog_seconds / 2)
