"""A process that connects, gives the connection to the test, and then becomes what the test wants."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

# It runs what it reads: a program to turn into, or nothing, which is its end.
_SCRIPT = """
import os, socket, sys
to_test = socket.socket(fileno=int(sys.argv[1]))
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[2])
socket.send_fds(to_test, [b"x"], [connection.fileno()])
program = sys.stdin.readline().split()
if program:
    os.execv(program[0], program)
"""


class OtherProcess:
    """`connection` is what it has connected; the kernel says that this process is its peer."""

    def __init__(self, process: subprocess.Popen[bytes], connection: trio.SocketStream) -> None:
        self.process = process
        self.connection = connection

    @property
    def pid(self) -> int:
        return self.process.pid

    async def become(self, *program: str) -> None:
        """Returns when the process runs that."""
        assert self.process.stdin is not None
        before = os.stat(f"/proc/{self.pid}/exe").st_ino
        self.process.stdin.write(" ".join(program).encode() + b"\n")
        self.process.stdin.flush()
        with trio.fail_after(10):
            while os.stat(f"/proc/{self.pid}/exe").st_ino == before:  # noqa: ASYNC110  (the kernel tells nobody)
                await trio.sleep(0.002)

    async def end(self) -> None:
        self.process.kill()
        await trio.to_thread.run_sync(self.process.wait)


@asynccontextmanager
async def connected(
    path: Path, *, user: int | None = None, groups: Sequence[int] | None = None, python: str = sys.executable
) -> AsyncIterator[OtherProcess]:
    """user, groups: need root."""
    ours, its = socket.socketpair()
    with ours:
        with its:
            command = [python, "-c", _SCRIPT, str(its.fileno()), str(path)]
            process = subprocess.Popen(  # noqa: ASYNC220  (a few milliseconds of a test)
                command,
                stdin=subprocess.PIPE,
                pass_fds=[its.fileno()],
                user=user,
                group=user,
                extra_groups=groups if groups is not None else ([] if user is not None else None),
                cwd="/",
            )
        try:
            _, fds, _, _ = await trio.to_thread.run_sync(socket.recv_fds, ours, 1, 1)
            async with trio.SocketStream(trio.socket.socket(fileno=fds[0])) as connection:
                yield OtherProcess(process, connection)
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
