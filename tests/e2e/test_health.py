"""An app that is not well leaves discovery, and comes back; callers notice neither."""

from __future__ import annotations

import msgspec

from schemas import codec
from schemas.keys import EndpointRef, StatusRef
from schemas.names import ServiceRef
from schemas.objects.health import AppHealthCheck
from schemas.records import SidecarStatus
from tests.e2e.load import open_loop
from tests.e2e.mesh import API, KEYS, E2eMesh
from tests.support.net import eventually

CHECK = {"type": "HTTP", "port": "http", "http": {"path": "/health"}, "interval": "300ms", "unhealthyThreshold": 2}


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
