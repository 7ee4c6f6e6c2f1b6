"""Single connections of another process are ended, and no others of it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from dataplane.compile import passthrough
from dataplane.compile.open_streams import Connection
from dataplane.envoy import sockets
from schemas.errors import PermissionDenied

# Accepts two connections, and sends each back what it says, until it is ended.
_SERVER = """
import selectors, socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
waiting = selectors.DefaultSelector()
for _ in range(2):
    waiting.register(listener.accept()[0], selectors.EVENT_READ)
while True:
    for key, _ in waiting.select():
        data = key.fileobj.recv(100)
        key.fileobj.sendall(data) if data else waiting.unregister(key.fileobj)
"""


def test_one_of_two_connections() -> None:
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        address = ("127.0.0.1", int(server.stdout.readline()))
        pidfd = os.pidfd_open(server.pid)
        try:
            with socket.create_connection(address, 10) as goes, socket.create_connection(address, 10) as stays:
                for one in (goes, stays):
                    one.sendall(b"open")
                    assert one.recv(100) == b"open"
                connection = Connection(address, goes.getsockname())
                assert sockets.shut(pidfd, server.pid, {connection}) == 1
                assert goes.recv(100) == b""
                stays.sendall(b"open")
                assert stays.recv(100) == b"open"
                unknown = Connection(address, ("127.0.0.1", 1))
                assert sockets.shut(pidfd, server.pid, {unknown}) == 0
        finally:
            server.kill()
        server.wait()
        assert sockets.shut(pidfd, server.pid, {connection}) == 0  # it has ended: nothing to do, and no error
        os.close(pidfd)


def test_what_leads_outside() -> None:
    level, name, value = passthrough.MARK
    assert (level, name) == (socket.SOL_SOCKET, socket.SO_PRIORITY)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        inside, outside = (socket.create_connection(listener.getsockname(), 10) for _ in range(2))
        accepted = [listener.accept()[0] for _ in range(2)]
        outside.setsockopt(level, name, value)
        pidfd = os.pidfd_open(os.getpid())
        with inside, outside, accepted[0], accepted[1]:
            assert sockets.shut_outside(pidfd, os.getpid()) == 1
            assert outside.recv(1) == b""
            accepted[0].sendall(b"stays")
            assert inside.recv(100) == b"stays"
        os.close(pidfd)


def test_whether_connections_could_be_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the answer of the kernel, whatever the process has open."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        assert sockets.check(pidfd, process.pid)
        with monkeypatch.context() as changed:
            for code, said in ((errno.EPERM, "pidfd_getfd"), (errno.ENOSYS, "not implemented"), (errno.EBADF, "")):
                changed.setattr(sockets, "_borrow", Mock(side_effect=OSError(code, os.strerror(code))))
                with pytest.raises(PermissionDenied, match=said) if said else contextlib.nullcontext():
                    sockets.check(pidfd, process.pid)
        process.kill()
        process.wait()
        assert not sockets.check(pidfd, process.pid)  # it has ended: there is nothing that could go on
        os.close(pidfd)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """What this thread may look at is what an agent may that is not root."""
    setfsuid = ctypes.CDLL(None).setfsuid
    before = setfsuid(65534)
    try:
        yield
    finally:
        setfsuid(before)


def test_one_that_has_ended_and_is_not_reaped() -> None:
    """Its descriptors in /proc are root's by then."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        if os.geteuid() == 0:
            with as_nobody(), pytest.raises(PermissionDenied, match="may not look into its Envoy"):
                sockets.check(pidfd, process.pid)
            with as_nobody(), pytest.raises(PermissionDenied, match="may not look into its Envoy"):
                sockets.shut(pidfd, process.pid, [])
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with as_nobody():
            with pytest.raises(PermissionError):
                os.scandir(f"/proc/{process.pid}/fd")
            assert not sockets.check(pidfd, process.pid)
            assert sockets.shut(pidfd, process.pid, []) == 0
        os.close(pidfd)
