"""Child processes of the demo. Every one is ended through its own handle, and at the end none may be left."""

import os
import signal
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import STDOUT

import trio

# Seconds. A sidecar drains within its own bound of a few seconds; nothing here needs longer.
STOP_PATIENCE_S = 15.0
LOG_TAIL_LINES = 15

RUN_VARIABLE = "MESH_DEMO_RUN"


class ProcessFailed(Exception):
    """A process ended that should not have, or did not become ready."""


class Processes:
    """All processes of one run, marked by a variable of their environment."""

    def __init__(self, log_directory: Path) -> None:
        self.run = str(uuid.uuid4())
        self._logs = log_directory
        self._running: dict[str, trio.Process] = {}
        log_directory.mkdir(parents=True, exist_ok=True)

    async def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start it with its output in ``<name>.log``. It does not get the terminal's Ctrl-C: we stop it."""
        with open(self.log(name), "ab") as log:  # noqa: ASYNC230  (a local file, opened once a process)
            self._running[name] = await trio.lowlevel.open_process(
                list(command),
                stdin=None,
                stdout=log,
                stderr=STDOUT,
                env={**os.environ, **(env or {}), RUN_VARIABLE: self.run},
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def log_tail(self, name: str) -> str:
        try:
            lines = self.log(name).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:])

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def running(self, name: str) -> bool:
        return name in self._running and self._running[name].poll() is None

    def check(self, name: str) -> None:
        """Raises ProcessFailed, with the end of its log, when it has ended by itself."""
        code = self._running[name].poll()
        if code is not None:
            raise ProcessFailed(f"{name} ended with {code}:\n{self.log_tail(name)}")

    async def stop(self, name: str) -> int:
        """SIGTERM, and SIGKILL when it takes too long; its exit code."""
        process = self._running.pop(name)
        if process.poll() is None:
            process.terminate()
            with trio.move_on_after(STOP_PATIENCE_S):
                await process.wait()
        if process.poll() is None:
            process.kill()
        return await process.wait()

    async def kill(self, name: str) -> None:
        process = self._running.pop(name)
        if process.poll() is None:
            process.kill()
        await process.wait()

    async def stop_all(self) -> None:
        """All at once, the last started first in line; shielded, so that Ctrl-C leaves nothing behind either."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for name in reversed(list(self._running)):
                    nursery.start_soon(self.stop, name)

    def left_over(self) -> dict[int, str]:
        """Processes of this run that still live, grandchildren too: pid to command.

        Envoy gets none of our environment; it is known by its files, which lie beside the logs.
        """
        mark, directory = f"{RUN_VARIABLE}={self.run}".encode(), os.fsencode(self._logs.parent)
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                ours = mark in (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended meanwhile, or is not ours
            if command and (ours or directory + b"/" in command):
                found[int(entry.name)] = command.replace(b"\0", b" ").decode().strip()
        return found

    def kill_left_over(self) -> None:
        for pid in self.left_over():
            os.kill(pid, signal.SIGKILL)
