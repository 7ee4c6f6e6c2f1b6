"""Liveness needs no replica: a sidecar renews its own lease in etcd, and only one that is gone leaves discovery."""

from __future__ import annotations

import json
from pathlib import Path

import trio

from deploy.demo.local_mesh import LocalMesh
from deploy.demo.processes import Processes
from schemas.keys import EndpointRef, Keyspace
from schemas.names import ServiceRef
from tests.support.net import eventually
from trio_etcd import TLS, Client, open_etcd

TTL = 8  # seconds; replicas grant 5, which a machine that starts three meshes at once may starve
KEY = Keyspace().endpoint(EndpointRef(ServiceRef("shop", "orders"), "orders-1"))
SERVICE = {
    "apiVersion": "mesh/v1",
    "kind": "Service",
    "metadata": {"name": "orders", "namespace": "shop"},
    "spec": {"ports": [{"name": "http", "port": 8080, "protocol": "http"}], "dependencies": []},
}


async def test_an_instance_outlives_the_replicas_and_not_itself(tmp_path: Path) -> None:
    processes = Processes(tmp_path / "log")
    mesh = LocalMesh(tmp_path, processes, replicas=("a",))
    try:
        await mesh.init("--files-only")
        await mesh.start_etcd()
        await mesh.init()
        await mesh.start_replica("a")
        manifest = tmp_path / "service.yaml"
        manifest.write_text(json.dumps(SERVICE))
        await mesh.meshadm("apply", "-f", str(manifest))
        orders = mesh.instance("orders.shop", "orders-1")
        await mesh.start_sidecar(orders, leaseTtlSeconds=TTL)
        files = [(mesh.etc / "etcd" / name).read_bytes() for name in ("ca.crt", "replica.crt", "replica.key")]
        async with open_etcd(mesh.etcd_endpoint, tls=TLS(*files)) as etcd:

            async def discovered() -> bool:
                return await etcd.get(KEY) is not None

            async def gone() -> bool:
                return not await discovered()

            await eventually("the instance is discovered", discovered, 20)
            first = await etcd.get(KEY)
            assert first is not None
            await processes.kill("replica-a")
            end = trio.current_time() + TTL + 2
            while trio.current_time() < end:
                assert await discovered()
                status = await etcd.lease_status(first.lease | 1)
                assert 0 <= status.ttl <= TTL  # -1 were its end
                await trio.sleep(0.2)
            await processes.kill("sidecar-orders-1")  # nobody renews, and nobody is there to notice
            await eventually("its pulse has ended", lambda: _ended(etcd, first.lease | 1), TTL + 10)
            assert await discovered()
            await mesh.start_replica("a")
            await eventually("a replica has taken it out of discovery", gone, 10)
        log = processes.log("sidecar-orders-1").read_text()
        assert "registering anew" not in log
    finally:
        await processes.stop_all()
        processes.kill_left_over()


async def _ended(etcd: Client, lease: int) -> bool:
    status = await etcd.lease_status(lease)
    return status.ttl < 0
