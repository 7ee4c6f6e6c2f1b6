"""[edge] sd_notify(3), the datagram protocol."""

import contextlib
import os
import socket
from collections.abc import Mapping

import trio

# While a service waits for another, systemd is asked for this much more of its start timeout, before it runs out.
EXTEND_SECONDS = 30
EXTEND_EVERY_SECONDS = 10


class Notifier:
    """Does nothing where the service manager asked for nothing; one that does not listen is no reason to fail.

    environ: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` with `WATCHDOG_PID` where a watchdog is on. pid: of this process.
    """

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A path, or '@' for the NUL of an abstract socket (unix(7)).
        self._address = address.replace("@", "\0", 1) if address[:1] == "@" else address if address[:1] == "/" else ""
        own = str(os.getpid() if pid is None else pid)
        microseconds = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", own) == own and microseconds.isdecimal()
        self.ping_seconds = int(microseconds) / 1e6 / 2 if for_us else 0.0
        """Half of the interval that the manager wants to hear from us in (sd_watchdog_enabled(3)); 0: not at all."""

    def ready(self, status: str = "serving") -> None:
        self.send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self.send(f"STATUS={text}")

    def stopping(self, status: str = "draining") -> None:
        self.send("STOPPING=1", f"STATUS={status}")

    def send(self, *assignments: str) -> None:
        """One datagram of ``NAME=value`` lines. A line break in a value, which would start another, becomes a space."""
        if not self._address:
            return
        lines = "\n".join(" ".join(one.splitlines()) for one in assignments)
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sock:
            sock.setblocking(False)
            sock.sendto(lines.encode(), self._address)

    async def extend_start(self) -> None:
        """For ever, until cancelled: waiting for others is no failure to start (systemd: EXTEND_TIMEOUT_USEC)."""
        while True:
            self.send(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000}")
            await trio.sleep(EXTEND_EVERY_SECONDS)

    async def ping_watchdog(self) -> None:
        """Pings for ever, from the event loop that does the work: one that hangs pings no more.

        Returns at once where no watchdog is on.
        """
        while self._address and self.ping_seconds:
            self.send("WATCHDOG=1")
            await trio.sleep(self.ping_seconds)
