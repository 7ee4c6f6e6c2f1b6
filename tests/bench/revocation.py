"""From etcd's answer to a revocation until the last byte that passes on what the revoked workload has open, by kind.

It is reported to the agent once a second, so the moment of the revocation within that second decides: it is drawn anew
for each round. The baseline is the bound that docs/authorization.md states.
"""

import random
import tempfile
import time
from pathlib import Path

import trio

from tests.bench.harness import Figure, Target, figure
from tests.e2e.lasting import API_PASSES, Echo, arrived, bytes_passed, grpc_chat, tunnel, web_socket
from tests.e2e.mesh import AT_REST, E2eMesh
from tests.states.build import revocation
from tests.support.net import eventually

ROUNDS = 15
BOUND_MS = 2000.0
LOST_S = 30.0
CALLER = "web-1"
KINDS = {"tcp": tunnel, "websocket": web_socket, "bytes": bytes_passed, "grpc": grpc_chat}


class Ends:
    """When the last byte passed, in seconds of the monotonic clock, by kind."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}
        self.open: set[str] = set()
        self.all_open = trio.Event()

    def is_open(self, kind: str) -> None:
        self.open.add(kind)
        if self.open == {*KINDS, "answer"}:
            self.all_open.set()

    async def follow(self, kind: str, echo: Echo) -> None:
        assert await echo(b"x") == b"x"
        self.of[kind] = time.monotonic()
        self.is_open(kind)
        while await echo(b"x"):
            self.of[kind] = time.monotonic()
            await trio.sleep(0.002)


async def one_kind(mesh: E2eMesh, kind: str, ends: Ends) -> None:
    async with KINDS[kind](mesh, CALLER) as echo:
        await ends.follow(kind, echo)


async def one_answer(mesh: E2eMesh, number: int, ends: Ends) -> None:
    """A request whose answer is under way until it is cut."""

    async def ask() -> None:
        status = await mesh.status(f"/held/revocation-{number}", by=CALLER)
        ends.of["answer"] = time.monotonic()
        assert status == 503, status

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await arrived(mesh, f"revocation-{number}")
        ends.is_open("answer")


async def one_round(mesh: E2eMesh, number: int) -> dict[str, float]:
    """Milliseconds by kind."""
    ends = Ends()
    async with mesh.etcd() as etcd:
        try:
            with trio.fail_after(LOST_S):
                async with trio.open_nursery() as nursery:
                    for kind in KINDS:
                        nursery.start_soon(one_kind, mesh, kind, ends)
                    nursery.start_soon(one_answer, mesh, number, ends)
                    await ends.all_open.wait()
                    await trio.sleep(random.random())
                    await etcd.put(*revocation("web.shop", 2 * number + 1))
                    revoked = time.monotonic()
        finally:
            await etcd.put(*revocation("web.shop", 2 * number + 2, revoked=False))

    async def allowed() -> bool:
        return await mesh.status(by=CALLER) == 200

    await eventually("it is allowed again", allowed, LOST_S)
    return {kind: max(0.0, end - revoked) * 1000 for kind, end in ends.of.items()}


async def measure(directory: Path) -> list[Figure]:
    mesh = E2eMesh.in_directory(directory)
    mesh.at_rest = (*(one for one in AT_REST if one.ref != API_PASSES.ref), API_PASSES)
    try:
        await mesh.start(CALLER, "api-1")
        rounds = [await one_round(mesh, number) for number in range(ROUNDS)]
    finally:
        await mesh.stop()
    what = "etcd put of a revocation acked to the last byte on an open {}, against the bound"
    figures = [
        figure(f"revocation_{kind}", what.format(kind), [(one[kind], BOUND_MS) for one in rounds], "ms")
        for kind in (*KINDS, "answer")
    ]
    worst = max(end for one in rounds for end in one.values())
    return [
        *figures,
        figure("revocation_worst", what.format("stream, worst of all"), [(worst, BOUND_MS)], "ms", Target("<=", 1.0)),
    ]


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        return trio.run(measure, Path(directory))
