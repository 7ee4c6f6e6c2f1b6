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
from dataplane.reporter import Reporter


class StampedReporter(Reporter):
    async def _follow_acks(self) -> None:
        said = 0
        while self.delivery.ads is not None:
            revision = self.delivery.ads.acked_revision
            if revision != said:
                sys.stdout.write(f"{revision} {time.monotonic_ns()}\n")
                sys.stdout.flush()
                said = revision
            await self.delivery.ads.changed()
            self.news.happened()


class StampedAgent(Agent):
    reporter_class = StampedReporter


if __name__ == "__main__":
    logging.basicConfig(level="WARNING", stream=sys.stderr)
    trio.run(StampedAgent(config.load(Path(sys.argv[1])), find_envoy(os.environ), os.environ).run)
