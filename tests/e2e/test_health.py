"""Who is in discovery: an app that is not well is not; many that fall silent at once are."""

from __future__ import annotations

import msgspec
import pytest

from controlplane.store.leases import pulse_of
from schemas import codec
from schemas.keys import EndpointRef, StatusRef
from schemas.names import ServiceRef
from schemas.objects.health import AppHealthCheck
from schemas.records import SidecarStatus
from tests.e2e.load import open_loop
from tests.e2e.mesh import API, KEYS, E2eMesh
from tests.support.net import eventually

CHECK = {
    "type": "HTTP",
    "port": "http",
    "http": {"path": "/health"},
    "interval": "300ms",
    "timeout": "10s",  # who is only slow is not ill
    "unhealthyThreshold": 2,
}


async def test_an_app_that_is_not_well_is_not_called(mesh: E2eMesh) -> None:
    check = msgspec.convert(CHECK, AppHealthCheck)
    checked = msgspec.structs.replace(API, spec=msgspec.structs.replace(API.spec, health_check=check))
    async with mesh.etcd("tooling") as etcd:

        async def discovered() -> set[str]:
            names = ("api-1", "api-2")
            refs = [EndpointRef(ServiceRef("shop", "api"), name) for name in names]
            return {name for name, ref in zip(names, refs, strict=True) if await etcd.get(KEYS.endpoint(ref))}

        async def one_left() -> bool:
            return await discovered() == {"api-1"}

        async def both() -> bool:
            return await discovered() == {"api-1", "api-2"}

        async def said() -> bool:
            stored = await etcd.get(KEYS.status(StatusRef("shop", "api.api-2")))
            status = codec.decode(stored.value, SidecarStatus, "status") if stored else None
            return status is not None and status.app_health == "unhealthy: GET /health was answered with 503"

        async def asked() -> list[dict[str, str]]:
            async with mesh.http() as client:
                return [(await client.get("http://api.shop/")).json() for _ in range(6)]

        async with open_loop(mesh) as load:
            await load.more(3)
            async with mesh.applied(checked):
                await load.more(3)
                assert await both()  # a check that is added takes nobody out
                await mesh.ask_app("api-2", "/unwell")
                try:
                    await eventually("api-2 has left", one_left, 20)
                    await eventually("it says why", said, 20)
                    assert {who["instance"] for who in await asked()} == {"api-1"}
                finally:
                    await mesh.ask_app("api-2", "/well")
                await eventually("api-2 is back", both, 20)
                await load.more(3)
        assert not load.failures


@pytest.mark.fault(29)
async def test_half_of_the_sidecars_silent_at_once_stay_in_discovery(mesh: E2eMesh) -> None:
    """All instances of api are cut off from etcd, and go on answering: its callers are not left without any."""
    names = ("api-1", "api-2")
    keys = [KEYS.endpoint(EndpointRef(ServiceRef("shop", "api"), name)) for name in names]
    with mesh.paused(mesh.agent_pid("api-1")), mesh.paused(mesh.agent_pid("api-2")):
        async with mesh.etcd() as etcd:
            for key in keys:
                stored = await etcd.get(key)
                assert stored is not None
                await etcd.revoke(pulse_of(stored.lease))

            def kept() -> bool:
                logs = [mesh.log(f"replica-{replica}") for replica in mesh.local.replicas]
                return all(_says(log, name) for log in logs for name in names)

            await eventually("each replica keeps both", kept, 40)  # a replica looks when the pulse could have ended
            assert [await etcd.get(key) is not None for key in keys] == [True, True]
        async with mesh.http() as client:
            found = {(await client.get("http://api.shop/")).json()["instance"] for _ in range(12)}
        assert found == set(names)
    await eventually("they have registered anew", lambda: _others_than(mesh, names), 40)


def _says(log: str, name: str) -> bool:
    return any("kept in discovery" in line and f"shop/api.{name}" in line for line in log.splitlines())


async def _others_than(mesh: E2eMesh, names: tuple[str, ...]) -> bool:
    """Their keys lie under leases whose pulse is alive."""
    async with mesh.etcd() as etcd:
        for name in names:
            stored = await etcd.get(KEYS.endpoint(EndpointRef(ServiceRef("shop", "api"), name)))
            if stored is None or (await etcd.lease_status(pulse_of(stored.lease))).ttl < 0:
                return False
    return True
