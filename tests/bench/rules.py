"""What authorization costs: requests a second with 10, 100 and 1,000 rules, and how the time of a verdict grows.

Two sidecars of a mesh that allows by default, in turns with so many rules at the receiver and with none: Envoy takes
other rules without a cut. None of them matches, by its caller or by its path, and all of them are asked, before what
the mesh allows.

rules_<n>          requests a second, against the same Envoy without any
rules_<n>_cpu      CPU a request, of the receiver's Envoy
verdict_<n>        the time of a verdict offline, against one with a tenth of the rules
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from authz.judge import Outcome, Request, judge
from authz.rules import PortRules, port_rules
from deploy.demo.local_mesh import TRUST_DOMAIN
from schemas import codec
from schemas.names import SYSTEM_NAMESPACE, ServiceRef, SpiffeId
from schemas.objects import AuthorizationPolicy, Mesh
from schemas.objects.service import ServicePort
from tests.bench.data_path import cpu_seconds, pin
from tests.bench.harness import Figure, Target, figure
from tests.bench.stage import APP_PORT, CALLER_ID, HOST, Stage, open_stage
from tests.bench.wrk import Wrk, find_wrk, load

COUNTS = (10, 100, 1_000)
POLICIES = 20
PAIRS = 6
WARM_UP = 1  # pairs
SECONDS = 2  # a run
VERDICTS = 200  # a measurement
VERDICT_PAIRS = 15

RECEIVER = ServiceRef("bench", "receiver")
PORT = ServicePort(name="http", port=APP_PORT, protocol="http")


ALLOWING = {
    "apiVersion": "mesh/v1",
    "kind": "Mesh",
    "metadata": {"name": "mesh", "namespace": SYSTEM_NAMESPACE},
    "spec": {"trustDomain": TRUST_DOMAIN, "authorization": {"defaultAction": "ALLOW"}},
}


def policy(name: str, rules: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "mesh/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": RECEIVER.namespace},
        "spec": {"targetRefs": [{"name": RECEIVER.name}], "rules": list(rules)},
    }


def other_rule(number: int) -> dict[str, Any]:
    """Half of them are for other callers, half for other paths."""
    who = f"spiffe://{TRUST_DOMAIN}/ns/bench/svc/other-{number}" if number % 2 else CALLER_ID
    return {"from": [{"identities": [who]}], "to": [{"methods": ["GET"], "paths": [f"/other/{number}/*"]}]}


def policies(count: int) -> list[dict[str, Any]]:
    """With so many rules. The same objects for every count."""
    others = [other_rule(number) for number in range(count)]
    named = [policy(f"others-{number:02}", others[number::POLICIES]) for number in range(POLICIES)]
    # What the stage begins with lets nobody in.
    return [ALLOWING, policy("caller", []), *named]


def manifest(count: int) -> str:
    return "\n---\n".join(json.dumps(one) for one in policies(count))


# -- Envoy


async def put_in_force(stage: Stage, directory: Path, count: int) -> None:
    """Returns when the receiver's Envoy has so many."""
    file = directory / "rules.yaml"
    file.write_text(manifest(count))
    await stage.mesh.meshadm("apply", "--wait", "-f", str(file))


async def run_load(stage: Stage, wrk: Wrk, envoy: int, core: int) -> tuple[float, float]:
    """Requests a second, and microseconds of the receiver's Envoy a request."""
    before = cpu_seconds(envoy)
    counted = await load(wrk, f"http://{stage.caller.local}:15001/", host=HOST, seconds=SECONDS, core=core)
    return counted.per_second, (cpu_seconds(envoy) - before) / counted.requests * 1e6


async def compare(stage: Stage, wrk: Wrk, directory: Path) -> list[Figure]:
    cores = sorted(os.sched_getaffinity(0))
    one, other = cores[0], cores[-1]
    for instance, core in ((stage.caller, one), (stage.receiver, other)):
        for pid in await stage.pids(instance):
            pin(pid, core)
    pin(stage.processes.pid("app"), one)
    envoy = (await stage.pids(stage.receiver))[1]
    figures = []
    for count in COUNTS:
        requests, cpu = [], []
        for number in range(WARM_UP + PAIRS):
            measured = {}
            for each in (count, 0) if number % 2 else (0, count):
                await put_in_force(stage, directory, each)
                measured[each] = await run_load(stage, wrk, envoy, one)
            if number >= WARM_UP:
                requests.append((measured[count][0], measured[0][0]))
                cpu.append((measured[count][1], measured[0][1]))
        what = f"with {count} rules that are all asked, against none"
        figures.append(figure(f"rules_{count}", f"requests a second {what}", requests, "1/s"))
        figures.append(figure(f"rules_{count}_cpu", f"CPU a request of the receiver's Envoy {what}", cpu, "us"))
    return figures


# -- offline


def read(count: int) -> PortRules:
    objects = [document.object for document in codec.load_yaml(manifest(count), "bench")]
    found = [one for one in objects if isinstance(one, AuthorizationPolicy)]
    (mesh,) = (one for one in objects if isinstance(one, Mesh))
    return port_rules(RECEIVER, PORT, found, trust_domain=TRUST_DOMAIN, is_trusted=lambda _: False, mesh=mesh)


def verdict_us(rules: PortRules, caller: SpiffeId, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        if judge(rules, PORT, Request(caller)).outcome is not Outcome.ALLOWED:
            raise AssertionError("the caller is not let in")
    return (time.perf_counter() - started) / times * 1e6


def verdicts() -> list[Figure]:
    caller = SpiffeId.parse(CALLER_ID)
    figures = []
    for count in COUNTS[1:]:
        many, few = read(count), read(count // 10)
        times = VERDICTS * COUNTS[1] // count
        pairs = [(verdict_us(many, caller, times), verdict_us(few, caller, times)) for _ in range(VERDICT_PAIRS)]
        what = f"a verdict offline with {count} rules, against {count // 10}"
        figures.append(figure(f"verdict_{count}", what, pairs, "us", Target("<=", 11.0)))
    return figures


async def measure(directory: Path) -> list[Figure]:
    wrk = await trio.to_thread.run_sync(find_wrk, lambda line: print(line, file=sys.stderr, flush=True))
    async with open_stage(directory) as stage:
        return await compare(stage, wrk, directory)


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        return [*verdicts(), *trio.run(measure, Path(directory))]
