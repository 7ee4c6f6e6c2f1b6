"""(b) Requests a second, and CPU a request: two sidecars with mTLS against two Envoys configured by hand.

The CPU of a sidecar is that of its Envoy and of its agent. The same app, the same load, in turns; the app alone shows
what the load generator could do. All four Envoys do the same job, and the pair by hand (`static_pair`) as somebody who
knows Envoy well would have it done:

- it logs each request as JSON: both identities, route, rule, upstream, times, flags, request id, revision. It has one
  revision and one port, which it writes down; whom it calls it takes from the cluster, since its port is asked for
  hosts that it does not know too;
- it counts and times requests by source, destination, route and code, and what fails;
- it checks identities, judges by them, refuses the same paths, methods and headers, reads headers of several lines as
  one, has the same limits;
- it tries again, elsewhere, also what was answered 503; it ejects instances that can't be reached.

It has nothing of what a sidecar does beside that: log levels that change while it runs, samples of requests, a look at
streams that stay open, fields of policies that it has none of (`authorization_audit`, `traffic_policy`), answers of
its own told from the app's, filters that wait for policies. What these cost is in the figure.

It has something that sidecars leave out: Envoy's statistics of each cluster by status and time, which come with any
router and which nobody reads who has request metrics; and labels that are the same for all it counts, which a sidecar's
agent adds. Who scrapes Envoys themselves has both.
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.bench.harness import Figure, Target, figure
from tests.bench.stage import HOST, Stage, open_stage
from tests.bench.wrk import Wrk, find_wrk, load

PAIRS = 20
WARM_UP = 2  # pairs
SECONDS = 2  # a run
DIRECT_SECONDS = 1

LOG_EVERYTHING = {
    "apiVersion": "mesh/v1",
    "kind": "Telemetry",
    "metadata": {"name": "everything", "namespace": "bench"},
    "spec": {"accessLogging": [{}]},
}

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the app. `pids`: whose CPU counts, first of the caller's half, then of the receiver's."""

    url: str
    pids: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Sample:
    per_second: float
    cpu_us: float
    """Of CPU time, a request."""


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


async def sample(wrk: Wrk, way: Way, core: int) -> Sample:
    everyone = [pid for half in way.pids for pid in half]
    before = sum(map(cpu_seconds, everyone))
    counted = await load(wrk, way.url, host=HOST, seconds=SECONDS, core=core)
    spent = sum(map(cpu_seconds, everyone)) - before
    return Sample(counted.per_second, spent / counted.requests * 1e6)


def pin(pid: int, core: int) -> None:
    """All its threads, those to come too."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


async def compare(stage: Stage, wrk: Wrk) -> list[Figure]:
    ours = Way(
        f"http://{stage.caller.local}:15001/", (await stage.pids(stage.caller), await stage.pids(stage.receiver))
    )
    pid = stage.processes.pid
    static = Way(f"http://127.0.0.1:{stage.static.proxy_port}/", ((pid("static-caller"),), (pid("static-receiver"),)))
    # Where a process runs must not differ between the two: the caller's half and the app on one core, the receiver's
    # half and the load on another.
    cores = sorted(os.sched_getaffinity(0))
    one, other = cores[0], cores[-1]
    for way in (ours, static):
        for half, core in zip(way.pids, (one, other), strict=True):
            for each in half:
                pin(each, core)
    pin(pid("app"), one)

    requests, cpu, direct = [], [], []
    for number in range(WARM_UP + PAIRS):
        if number % 2:
            subject = await sample(wrk, ours, other)
            baseline = await sample(wrk, static, other)
        else:
            baseline = await sample(wrk, static, other)
            subject = await sample(wrk, ours, other)
        limit = await load(wrk, stage.app_url, seconds=DIRECT_SECONDS, core=other)
        if number >= WARM_UP:
            requests.append((subject.per_second, baseline.per_second))
            cpu.append((subject.cpu_us, baseline.cpu_us))
            direct.append((subject.per_second, limit.per_second))
    what = "through two sidecars with mTLS, against two Envoys configured by hand with the same filters"
    limit_what = "requests a second through two sidecars with mTLS, against the app without any proxy"
    return [
        figure("data_path_requests", f"requests a second {what}", requests, "1/s", Target(">=", 0.97)),
        figure("data_path_cpu", f"CPU a request {what}", cpu, "us", Target("<=", 1.05)),
        figure("data_path_direct", limit_what, direct, "1/s"),
    ]


async def log_everything(stage: Stage, directory: Path) -> None:
    """The sidecars; those configured by hand do anyway."""
    manifest = directory / "telemetry.yaml"
    manifest.write_text(json.dumps(LOG_EVERYTHING))
    await stage.mesh.meshadm("apply", "--wait", "-f", str(manifest))


def check_logs(stage: Stage) -> None:
    """All four have logged what went well. Raises AssertionError."""
    ours = [stage.mesh.state_dir(half) / "access.log" for half in (stage.caller, stage.receiver)]
    for log in (*ours, stage.static.directory / "client.log", stage.static.directory / "server.log"):
        newest = log.read_bytes().splitlines()[-1000:]  # the load ends in the middle of requests
        if not any(json.loads(line).get("status") == 200 for line in newest):
            raise AssertionError(f"{log} holds failures alone, not every request")


async def measure(directory: Path) -> list[Figure]:
    wrk = await trio.to_thread.run_sync(find_wrk, lambda line: print(line, file=sys.stderr, flush=True))
    async with open_stage(directory) as stage:
        await log_everything(stage, directory)
        figures = await compare(stage, wrk)
        check_logs(stage)
        return figures


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        return trio.run(measure, Path(directory))
