"""One service with its sidecar in a real mesh, which says when its Envoy has acked each revision."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import trio

from deploy.demo.local_mesh import Instance, LocalMesh
from deploy.demo.processes import Processes
from tests.bench.objects import SERVICE

LOST_S = 10.0


@asynccontextmanager
async def one_service(directory: Path) -> AsyncIterator[LocalMesh]:
    """etcd and a replica, which know of the service."""
    processes = Processes(directory / "log")
    mesh = LocalMesh(directory, processes, replicas=("a",))
    try:
        await mesh.init("--files-only")
        await mesh.start_etcd()
        await mesh.init()
        await mesh.start_replica("a")
        manifest = directory / "service.yaml"
        manifest.write_text(json.dumps(SERVICE))
        await mesh.meshadm("apply", "-f", str(manifest))
        yield mesh
    finally:
        await processes.stop_all()
        processes.kill_left_over()


@asynccontextmanager
async def sidecar(mesh: LocalMesh, instance: Instance) -> AsyncIterator["Acks"]:
    """An instance of that service; it serves by now."""
    await mesh.write_sidecar_settings(instance)
    command = [sys.executable, "-m", "tests.bench.stamped_sidecar", str(mesh.settings_file(instance))]
    async with subject(command) as acks:
        await acks.first()
        yield acks


def etcd_channel(mesh: LocalMesh) -> grpc.Channel:
    """As a replica. To be closed."""
    files = mesh.etc / "etcd"
    ca, certificate, key = ((files / one).read_bytes() for one in ("ca.crt", "replica.crt", "replica.key"))
    return grpc.secure_channel(mesh.etcd_endpoint, grpc.ssl_channel_credentials(ca, key, certificate))


class Acks:
    """The stamps that a subject prints, by revision."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._stamps: dict[int, int] = {}
        self._arrived = trio.Event()

    async def read(self) -> None:
        buffer = b""
        assert self._process.stdout is not None
        async for chunk in self._process.stdout:
            buffer += chunk
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                revision, stamp = line.split()
                self._stamps[int(revision)] = int(stamp)
            arrived, self._arrived = self._arrived, trio.Event()
            arrived.set()

    async def of(self, revision: int) -> int:
        """When it was acked, or a later revision that includes it, in ns of the monotonic clock."""
        with trio.fail_after(LOST_S):
            while True:
                later = [stamp for acked, stamp in self._stamps.items() if acked >= revision]
                if later:
                    return min(later)
                await self._arrived.wait()

    async def first(self) -> None:
        await self.of(1)


@asynccontextmanager
async def subject(command: list[str]) -> AsyncIterator[Acks]:
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(command, stdout=-1)
        acks = Acks(process)
        nursery.start_soon(acks.read)
        try:
            yield acks
        finally:
            process.terminate()
            with trio.CancelScope(shield=True), trio.move_on_after(10):
                await process.wait()
            nursery.cancel_scope.cancel()
