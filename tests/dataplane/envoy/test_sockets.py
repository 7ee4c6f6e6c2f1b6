"""Single connections of another process are ended, and no others of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from dataplane.compile.open_streams import Connection
from dataplane.envoy import sockets

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
