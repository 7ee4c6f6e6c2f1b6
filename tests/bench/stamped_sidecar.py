"""A sidecar like any other that says when its Envoy has acked each revision: ``<revision> <monotonic ns>`` a line."""

import logging
import os
import sys
import time
from pathlib import Path

import trio

from dataplane import config
from dataplane.agent import Agent
from dataplane.envoy.child import find_envoy


class StampedAgent(Agent):
    async def _follow_acks(self) -> None:
        said = 0
        while self._ads is not None:
            revision = self._ads.acked_revision
            if revision != said:
                sys.stdout.write(f"{revision} {time.monotonic_ns()}\n")
                sys.stdout.flush()
                said = revision
            await self._ads.changed()
            self._touched.set()


if __name__ == "__main__":
    logging.basicConfig(level="WARNING", stream=sys.stderr)
    trio.run(StampedAgent(config.load(Path(sys.argv[1])), find_envoy(os.environ), os.environ).run)
