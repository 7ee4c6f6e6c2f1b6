"""(d) From the start of a process to the first 200 through it: a whole sidecar against an Envoy configured by hand.

The sidecar has joined before: its identity is on disk, etcd and a replica are up. It reads its own identity, lists the
mesh, starts its Envoy, and pushes; the baseline is the floor, an Envoy with all of that in a file. Reported without a
target: the floor is not reachable for what has to ask before it may serve.
"""

import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tests.bench.harness import Figure, figure
from tests.bench.stage import Stage, answers, open_stage

PAIRS = 12
WARM_UP = 1  # pairs
# Between two attempts. A fraction of a percent of what is measured, and the core is left to what is starting.
POLL_S = 0.0005
LOST_S = 60.0


async def until_200(start: Callable[[], Awaitable[None]], address: str, port: int) -> float:
    """Milliseconds from the start of the process."""
    started = time.perf_counter()
    await start()
    with trio.fail_after(LOST_S):
        while not await answers(address, port):  # noqa: ASYNC110  (another process: it can set no event)
            await trio.sleep(POLL_S)
    return (time.perf_counter() - started) * 1e3


async def sidecar(stage: Stage) -> float:
    name = f"sidecar-{stage.caller.name}"
    await stage.processes.stop(name)
    command = [sys.executable, "-m", "dataplane", "--config", str(stage.mesh.settings_file(stage.caller))]
    return await until_200(lambda: stage.processes.start(name, command), stage.caller.local, 15001)


async def bare(stage: Stage) -> float:
    await stage.processes.stop("static-caller")
    return await until_200(lambda: stage.static.start("caller"), "127.0.0.1", stage.static.proxy_port)


async def compare(stage: Stage) -> list[Figure]:
    pairs = []
    for number in range(WARM_UP + PAIRS):
        if number % 2:
            subject, baseline = await sidecar(stage), await bare(stage)
        else:
            baseline, subject = await bare(stage), await sidecar(stage)
        if number >= WARM_UP:
            pairs.append((subject, baseline))
    what = "start to the first 200 response, a sidecar against an Envoy configured by hand"
    return [figure("start", what, pairs, "ms")]


async def measure(directory: Path) -> list[Figure]:
    async with open_stage(directory) as stage:
        return await compare(stage)


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        return trio.run(measure, Path(directory))
