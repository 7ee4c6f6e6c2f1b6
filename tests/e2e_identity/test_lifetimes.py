"""SVIDs that are renewed under load, and SVIDs that nobody can renew."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
import trio

from dataplane import status
from tests.e2e.load import open_loop
from tests.e2e_identity.mesh import LEAF_SECONDS, IdentityMesh
from tests.support.net import eventually

pytestmark = pytest.mark.xdist_group("short-lived mesh")

EXPIRY = "hostmesh_certificate_expiry_timestamp_seconds"
ISSUED = "hostmesh_replica_issued_identities_total"
INSTANCES = ("web-1", "api-1")
# What a listener that goes leaves to the connections that are open (Envoy's --drain-time-s), and a bound for the rest.
CUT_S = 10 + 10


async def expiries(mesh: IdentityMesh) -> dict[str, int]:
    return {name: status.svid_expires for name, status in (await mesh.statuses()).items()}


# Requests that are in flight when an SVID ends may fail.
MARGIN_S = 1.0


def local_status(mesh: IdentityMesh, name: str) -> dict[str, Any]:
    """What the sidecar says on its own host, which needs nobody alive."""
    return status.read(mesh.local.runtime_dir(mesh.instances[name]) / "status.json", now=time.time())


async def test_renewals_under_load_fail_no_request(mesh: IdentityMesh) -> None:
    """Two of each sidecar: the second with a certificate that was renewed itself."""
    issued = sum([(await mesh.metrics(replica))[ISSUED] for replica in mesh.local.replicas])
    await mesh.admin("api-1").post("/logging?paths=config:trace,secret:trace,grpc:trace,misc:trace")
    async with open_loop(mesh) as load:
        for _ in range(2):
            before = await expiries(mesh)

            async def renewed(before: dict[str, int] = before) -> bool:
                now = await expiries(mesh)
                return all(now[name] > before[name] for name in INSTANCES)

            await eventually("both sidecars have renewed", renewed)
            await load.more(10)
    assert load.failures == {}
    await mesh.admin("api-1").post("/logging?level=warning")
    await eventually("Envoy has written of it", lambda: "Secret is updated" in mesh.log("sidecar-api-1"))
    mesh.assert_no_secret_in_logs()  # nor those that Envoy has got meanwhile
    seen = [await mesh.metrics(replica) for replica in mesh.local.replicas]
    assert sum(one[ISSUED] for one in seen) >= issued + 4
    for one in seen:
        assert one["hostmesh_replica_sidecars"] == len(INSTANCES)
        assert one["hostmesh_replica_can_issue"] == 1
        assert one["hostmesh_replica_etcd_silent_seconds"] == one["hostmesh_replica_sidecars_behind"] == 0
        assert 0 <= one["hostmesh_replica_etcd_leases"] < one["hostmesh_replica_etcd_leases_limit"]
        assert time.time() < one["hostmesh_replica_soonest_svid_expiry_timestamp_seconds"] < time.time() + LEAF_SECONDS
        for key in ("mesh-root", "mesh-issuing", "etcd-client", "serving"):
            assert one[f"{EXPIRY}{{{key}}}"] > time.time()


@pytest.mark.fault(11)
async def test_nobody_can_renew_until_the_end_of_the_svids(mesh: IdentityMesh) -> None:
    """All of etcd and all replicas down: traffic to the end, an alarm before it, then nothing, then all by itself.

    The hosts joined by tokens that are long used up: nothing but their SVIDs, which have ended, vouches for them.
    """
    async with mesh.http() as kept_alive, await mesh.tcp() as tunnel:
        await tunnel.receive_some()
        async with open_loop(mesh) as load:
            for process in ("etcd", *(f"replica-{one}" for one in mesh.local.replicas)):
                await mesh.processes.kill(process)
            await eventually("the alarm was raised", lambda: "ALARM" in mesh.log("sidecar-web-1"))
            end = min(local_status(mesh, name)["svidExpires"] for name in INSTANCES)
            metrics = await mesh.metrics("web-1")
            assert metrics["hostmesh_envoy_up"] == 1
            assert metrics[f"{EXPIRY}{{svid}}"] == local_status(mesh, "web-1")["svidExpires"]
            assert metrics["hostmesh_sidecar_renewals_total{failed}"] > 0
            assert metrics["hostmesh_sidecar_stale_seconds"] > 0
            assert metrics["hostmesh_sidecar_problems"] > 0
            problems = local_status(mesh, "web-1")["problems"]
            assert any("renewing it fails" in problem for problem in problems)
            assert (await kept_alive.get("http://api.shop/")).status_code == 200
            assert time.time() < end
            await trio.sleep(max(0.0, end - MARGIN_S - time.time()))
        assert load.failures == {}

        async def refused() -> bool:
            return (await kept_alive.get("http://api.shop/")).status_code in (403, 503)  # by the server, by the caller

        await eventually("open connections are refused too", refused)
        assert time.time() >= end
        with trio.fail_after(CUT_S):
            assert await tunnel.receive_some() == b"", "an open tunnel is cut"

    # The agent that starts now ends the Envoy that it finds.
    old = mesh.envoy_pid("api-1")
    await mesh.processes.kill("sidecar-api-1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh.local.restart_sidecar, mesh.instances["api-1"])
        await eventually("another Envoy runs", lambda: mesh.envoy_pid("api-1") not in (None, old))
        await mesh.local.start_etcd()
        for replica in mesh.local.replicas:
            nursery.start_soon(mesh.local.start_replica, replica)

        async def heals() -> bool:
            try:
                return await mesh.status() == 200
            except httpx.HTTPError:
                return False

        await eventually("it heals by itself", heals, 60)
    for name in INSTANCES:
        assert "after its end, since nobody could issue before" in mesh.log(f"sidecar-{name}")
    excused = [mesh.log(f"replica-{one}").count("expired_svid") for one in mesh.local.replicas]
    assert sum(excused) >= len(INSTANCES)
    async with open_loop(mesh) as load:
        await load.more(10)
    assert load.failures == {}
