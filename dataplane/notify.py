"""[edge] What the agent tells systemd: sd_notify(3), the datagram protocol, without its library.

Does nothing where `environ` has no ``NOTIFY_SOCKET``; a manager that does not listen is no reason to fail.
"""

import contextlib
import os
import socket
from collections.abc import Mapping

import trio


def ready(environ: Mapping[str, str], text: str = "serving") -> None:
    send(environ, "READY=1", f"STATUS={text}")


def status(environ: Mapping[str, str], text: str) -> None:
    """One line for ``systemctl status``."""
    send(environ, f"STATUS={text}")


def stopping(environ: Mapping[str, str], text: str = "draining") -> None:
    send(environ, "STOPPING=1", f"STATUS={text}")


def send(environ: Mapping[str, str], *assignments: str) -> None:
    """One datagram of ``NAME=value`` lines. A line break in a value, which would start another one, becomes a space."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    lines = "\n".join(" ".join(one.splitlines()) for one in assignments)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        # '@' stands for the NUL of an abstract socket (unix(7)).
        sock.sendto(lines.encode(), "\0" + address[1:] if address[0] == "@" else address)


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """Half of the interval that the manager wants to hear from us in (sd_watchdog_enabled(3)); None: not at all."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid) or not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1e6 / 2


async def watchdog(environ: Mapping[str, str]) -> None:
    """Pings for ever, from the event loop that does the work: one that hangs pings no more. Returns where no watchdog
    is on."""
    interval = watchdog_seconds(environ, os.getpid())
    while interval is not None and environ.get("NOTIFY_SOCKET"):
        send(environ, "WATCHDOG=1")
        await trio.sleep(interval)
