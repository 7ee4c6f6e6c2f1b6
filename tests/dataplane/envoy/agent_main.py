"""``python -m tests.dataplane.envoy.agent_main <directory> <port>``: an agent that keeps an Envoy until it is killed.

Prints ``<pid> <adopted>`` once that Envoy serves.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from dataplane.envoy.process import EnvoyProcess
from tests.dataplane.envoy.support import settings, static_bootstrap


async def main(directory: Path, port: int) -> None:
    process = EnvoyProcess(settings(directory, static_bootstrap(directory, port)), environ=os.environ)
    async with trio.open_nursery() as nursery:
        adopted = await nursery.start(process.run)
        await process.ready()
        print(process.pid, adopted, flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
