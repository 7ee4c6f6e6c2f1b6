"""`spiffe_app` as a process of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import trio

from tests.support.spiffe_client import client_environment

SECONDS = 20.0
_SCRIPT = Path(__file__).with_name("spiffe_app.py")


class SpiffeApp:
    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self._stdin = stdin
        self._stdout = stdout

    async def ask(self, *command: str) -> Any:
        """An error of the library's comes as ``{"error": …}``."""
        self._stdin.write(json.dumps(command) + "\n")
        self._stdin.flush()
        return await self.answer()

    async def answer(self) -> Any:
        with trio.fail_after(SECONDS):
            return json.loads(await trio.to_thread.run_sync(self._stdout.readline, abandon_on_cancel=True))


@asynccontextmanager
async def spiffe_app(endpoint: str, trust_domain: str) -> AsyncIterator[SpiffeApp]:
    """endpoint: its SPIFFE_ENDPOINT_SOCKET, which is all that it is told."""
    environment = {**client_environment(), "SPIFFE_ENDPOINT_SOCKET": endpoint}
    process = subprocess.Popen(  # noqa: ASYNC220  (a few milliseconds of a test)
        [sys.executable, str(_SCRIPT), trust_domain],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd="/",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        app = SpiffeApp(process.stdin, process.stdout)
        assert await app.answer() == "ready"
        yield app
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
