"""Requests a second where the receiver passes bytes on, against the same two Envoys with HTTP read by both.

One app behind two ports of one service; the two differ in `identityHeader` alone. In turns.
"""

import os
import sys
import tempfile
from pathlib import Path

import trio

from tests.bench.data_path import pin
from tests.bench.harness import Figure, Target, figure
from tests.bench.stage import BYTES_PORT, HOST, RECEIVER, Stage, open_stage
from tests.bench.wrk import Wrk, find_wrk, load

PAIRS = 10
WARM_UP = 1  # pairs
SECONDS = 2  # a run


async def compare(stage: Stage, wrk: Wrk) -> Figure:
    cores = sorted(os.sched_getaffinity(0))
    one, other = cores[0], cores[-1]
    for instance, core in ((stage.caller, one), (stage.receiver, other)):
        for pid in await stage.pids(instance):
            pin(pid, core)
    pin(stage.processes.pid("app"), one)
    url = f"http://{stage.caller.local}:15001/"
    pairs = []
    for number in range(WARM_UP + PAIRS):
        hosts = [f"{RECEIVER}:{BYTES_PORT}", HOST]
        counted = {}
        for host in hosts if number % 2 else reversed(hosts):
            counted[host] = (await load(wrk, url, host=host, seconds=SECONDS, core=other)).per_second
        if number >= WARM_UP:
            pairs.append((counted[hosts[0]], counted[hosts[1]]))
    what = "requests a second where the receiver passes bytes on, against HTTP read by both"
    return figure("l4_inbound", what, pairs, "1/s", Target(">=", 1.2))


async def measure(directory: Path) -> list[Figure]:
    wrk = await trio.to_thread.run_sync(find_wrk, lambda line: print(line, file=sys.stderr, flush=True))
    async with open_stage(directory) as stage:
        return [await compare(stage, wrk)]


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        return trio.run(measure, Path(directory))
