"""(e) How many certificates a replica issues over the network, against the same signing in this process.

A renewal is a pair: two requests checked, an SVID and a client certificate for etcd made by template ▸ sign ▸ check.
Over the network it is asked of a real replica by mTLS, one pair or fifty a call; etcd is real too. In-process it is the
very function that the replica calls, on one core as the replica's is. The requests are the same ones, made before.
"""

import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from controlplane.api.issuing import InForce, Issuing, Told
from dataplane.identity.check import check, from_reply
from dataplane.identity.client import ReplicaClient
from dataplane.identity.material import Identity, key_to_pem, new_key, signing_request
from deploy.demo.local_mesh import LocalMesh
from deploy.demo.processes import Processes
from schemas import joinfile
from schemas.names import ServiceRef
from schemas.objects import Mesh, Metadata
from schemas.objects.mesh import MeshSpec
from spiffe.bundle import record
from tests.bench.harness import Figure, Target, figure
from tests.bench.renew_load import Work, new_requests
from tests.controlplane.ca.conftest import TRUST_DOMAIN, make_ca

PAIRS = 16
WARM_UP = 2  # measurements of each kind
SIGNINGS = 300  # pairs of certificates a measurement
BATCH = 50
SERVICE = ServiceRef("bench", "renewing")

# Items a call, calls in flight, and what the ratio is held to. Enough in flight that the replica never waits for us.
SINGLE = ("issue_single", 1, 16, Target(">=", 0.4))
BATCHED = ("issue_batched", BATCH, 3, Target(">=", 0.8))


@asynccontextmanager
async def open_mesh(directory: Path, replicas: tuple[str, ...] = ("a",)) -> AsyncIterator[LocalMesh]:
    """etcd and replicas, each a process. At the end nothing is left."""
    processes = Processes(directory / "log")
    mesh = LocalMesh(directory, processes, replicas=replicas)
    try:
        await mesh.init("--files-only")
        await mesh.start_etcd()
        await mesh.init()
        for replica in replicas:
            await mesh.start_replica(replica)
        yield mesh
    finally:
        await processes.stop_all()
        processes.kill_left_over()


async def join(mesh: LocalMesh, service: ServiceRef) -> Identity:
    path = mesh.etc / "bench.join"
    await mesh.meshadm("token", "create", "--service", f"{service.name}.{service.namespace}", "--out", str(path))
    key, etcd_key = new_key(), new_key()
    client = ReplicaClient(fraction=lambda: 0.0)
    file = joinfile.load(await trio.Path(path).read_bytes(), str(path))
    reply = await client.join(file, signing_request(key), signing_request(etcd_key))
    identity = from_reply(reply, key_to_pem(key), key_to_pem(etcd_key))
    check(identity, None, time.time())
    return identity


@dataclass(frozen=True, slots=True)
class Load:
    """The process that asks."""

    process: trio.Process

    async def seconds(self, batch: int, in_flight: int) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        await self.process.stdin.send_all(f"{batch} {in_flight}\n".encode())
        said = b""
        while not said.endswith(b"\n"):
            if not (more := await self.process.stdout.receive_some()):
                raise AssertionError("the load ended; its own words stand above")
            said += more
        return float(said)


@asynccontextmanager
async def open_load(work: Path, target: str) -> AsyncIterator[Load]:
    command = [sys.executable, "-m", "tests.bench.renew_load", str(work), target]
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1)
    try:
        yield Load(process)
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


async def own_issuing() -> Issuing:
    """As a replica's, with a CA of the same kind."""
    now = int(time.time())
    ca = await make_ca(now=now)
    endpoints = ("127.0.0.1:7443",)
    issuing = Issuing(
        Told(ca.authority.etcd_ca_pem, endpoints, endpoints, endpoints, "/mesh/v1"), time.time, os.urandom
    )
    mesh = Mesh(
        api_version="mesh/v1",
        metadata=Metadata(name="mesh", namespace="mesh-system"),
        spec=MeshSpec(trust_domain=TRUST_DOMAIN),
    )
    issuing.in_force = InForce(ca.authority, mesh, record(TRUST_DOMAIN, list(ca.authority.roots), 1))
    return issuing


def sign(issuing: Issuing, requests: Sequence[tuple[bytes, bytes]]) -> float:
    """Seconds for all of them in this process."""
    started = time.perf_counter()
    for csr, etcd_csr in requests:
        issuing.pair(SERVICE, csr, etcd_csr)
    return time.perf_counter() - started


async def compare(load: Load, issuing: Issuing, requests: Sequence[tuple[bytes, bytes]]) -> list[Figure]:
    figures = []
    for name, batch, in_flight, target in (SINGLE, BATCHED):
        pairs = []
        for number in range(WARM_UP + PAIRS):
            if number % 2:
                subject, baseline = await load.seconds(batch, in_flight), sign(issuing, requests)
            else:
                baseline, subject = sign(issuing, requests), await load.seconds(batch, in_flight)
            if number >= WARM_UP:
                pairs.append((len(requests) / subject, len(requests) / baseline))
        what = f"renewals issued by one replica over mTLS, {batch} a call, against the same signing in-process"
        figures.append(figure(name, what, pairs, "1/s", target))
    return figures


async def measure(directory: Path) -> list[Figure]:
    async with open_mesh(directory) as mesh:
        requests = new_requests(SIGNINGS)
        work = directory / "work"
        Work.of(await join(mesh, SERVICE), requests).write(work)
        async with open_load(work, f"{mesh.control}:7443") as load:
            return await compare(load, await own_issuing(), requests)


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        return trio.run(measure, Path(directory))
