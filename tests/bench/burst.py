"""A thousand changes to one service within a second: how often Envoy is told, and how soon it runs the last of them.

The changes are puts to etcd at fixed times, whatever became of those before. The baselines are the bounds that
ARCHITECTURE.md states.
"""

import json
import queue
import re
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import trio

from dataplane.envoy.admin import Admin
from tests.bench.harness import Figure, Target, figure
from tests.bench.objects import POLICY_KEY, policy
from tests.bench.one_sidecar import LOST_S, Acks, etcd_channel, one_service, sidecar
from trio_etcd._proto import etcd_pb2

ROUNDS = 8
CHANGES = 1000
PUSHES_PER_SECOND = 40.0
SETTLED_MS = 50.0
PUT = "/etcdserverpb.KV/Put"


@dataclass(frozen=True, slots=True)
class Last:
    """The change that etcd took last. Those before it were not waited for, so that any of the newest may be it."""

    revision: int
    number: int
    answered: int
    """ns of the monotonic clock"""
    seconds: float
    """That all of them took."""


def put_all(channel: grpc.Channel, first: int) -> Last:
    """Blocking. They leave this process at their times, and wait for no answer."""
    put = channel.unary_unary(PUT, etcd_pb2.PutRequest.SerializeToString, etcd_pb2.PutResponse.FromString)
    numbers = range(first, first + CHANGES)
    requests = [etcd_pb2.PutRequest(key=POLICY_KEY, value=policy(number)) for number in numbers]
    answers: queue.SimpleQueue[tuple[int, int, int]] = queue.SimpleQueue()  # revision, number, time

    def answered(number: int, call: Any) -> None:
        answers.put((call.result().header.revision, number, time.monotonic_ns()))

    started = time.monotonic()
    for number, request in zip(numbers, requests, strict=True):
        time.sleep(max(0.0, started + (number - first) / CHANGES - time.monotonic()))
        put.future(request, timeout=LOST_S).add_done_callback(partial(answered, number))
    revision, number, at = max(answers.get(timeout=LOST_S) for _ in numbers)
    return Last(revision, number, at, time.monotonic() - started)


async def pushed(admin: Admin) -> int:
    """How many route configurations Envoy has been given since it started."""
    stats = (await admin.get("/stats?filter=rds.*update_attempt")).body.decode()
    return sum(int(count) for count in re.findall(r"update_attempt: (\d+)", stats))


async def runs(admin: Admin, number: int) -> bool:
    """Whether Envoy's routes hold that change of the policy, and none of the others."""
    dump = json.dumps(await admin.config_dump())
    return set(re.findall(r"/(\d+)\"", dump)) == {str(number)}


async def one_round(channel: grpc.Channel, acks: Acks, admin: Admin, first: int) -> tuple[float, float]:
    """Pushes a second, and milliseconds from etcd's last answer to Envoy's ACK of it."""
    before = await pushed(admin)
    last = await trio.to_thread.run_sync(put_all, channel, first)
    settled = (await acks.of(last.revision) - last.answered) / 1e6
    if not await runs(admin, last.number):
        raise AssertionError("Envoy acked the last revision and runs another state")
    # A slow machine takes longer than a second for them; the bound is one a second.
    return (await pushed(admin) - before) / max(1.0, last.seconds), max(0.0, settled)


async def measure(directory: Path) -> list[Figure]:
    async with one_service(directory) as mesh:
        instance = mesh.instance("subject.bench", "subject-1")
        admin = Admin(str(mesh.runtime_dir(instance) / "admin.sock"))
        async with sidecar(mesh, instance) as acks:
            with etcd_channel(mesh) as channel:
                rounds = [await one_round(channel, acks, admin, number * CHANGES) for number in range(ROUNDS)]
    pushes = [(count, PUSHES_PER_SECOND) for count, _ in rounds]
    settled = [(milliseconds, SETTLED_MS) for _, milliseconds in rounds]
    return [
        figure("burst_pushes", "pushes a second while 1,000 changes come", pushes, "1/s", Target("<=", 1.0)),
        figure(
            "burst_settled", "etcd's last answer to Envoy's ACK of the last state", settled, "ms", Target("<=", 1.0)
        ),
    ]


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        return trio.run(measure, Path(directory))
