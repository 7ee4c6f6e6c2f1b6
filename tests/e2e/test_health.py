"""Who is in discovery: an app that is not well is not; many that fall silent at once are."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import msgspec
import pytest
import trio

import trio_etcd
from controlplane.store.leases import pulse_of
from schemas import codec
from schemas.keys import EndpointRef, StatusRef
from schemas.names import ServiceRef
from schemas.objects import Service
from schemas.objects.health import AppHealthCheck
from schemas.records import SidecarStatus
from tests.e2e.app import HEALTH_HOST
from tests.e2e.load import open_loop
from tests.e2e.mesh import API, KEYS, TEST, E2eMesh
from tests.support.net import eventually

OFTEN = {"interval": "300ms", "timeout": "10s"}  # who is only slow is not ill
CHECK = {
    **OFTEN,
    "type": "HTTP",
    "port": "http",
    "http": {"path": "/health", "hostname": HEALTH_HOST, "expectedStatuses": [200, 202]},
    "unhealthyThreshold": 2,
    "healthyThreshold": 2,
}
# Answers with which it goes after the sixth and comes back with the last. A default timeout or threshold would have it
# back earlier, or never gone.
ONCE_OUT_AND_IN = ("503", "late", "200", "200", "503", "503", "200", "503", "503", "200", "200")
_SOON_S = 20  # for all of them: they take 5, and 31 at the default interval
GRPC_CHECK = {
    **OFTEN,
    "type": "GRPC",
    "port": "grpc",
    "grpc": {"service": HEALTH_HOST},
    "unhealthyThreshold": 1,
    "healthyThreshold": 2,
}
TCP_CHECK_PORT = 7999  # on the addresses of the hosts of this mesh, which nobody else has
TCP_CHECK = {**OFTEN, "type": "TCP", "port": TCP_CHECK_PORT, "unhealthyThreshold": 1}
BOTH = {"api-1", "api-2"}
API_REF, REPORTS_REF = ServiceRef("shop", "api"), ServiceRef("back-office", "reports")


def checked(how: object) -> Service:
    check = msgspec.convert(how, AppHealthCheck)
    return msgspec.structs.replace(API, spec=msgspec.structs.replace(API.spec, health_check=check))


async def discovered(etcd: trio_etcd.Client, service: ServiceRef = API_REF) -> set[str]:
    """Its instances."""
    return {kv.key.decode().rpartition("/")[2] for kv in (await etcd.list(KEYS.endpoints_of(service))).kvs}


async def said_by(etcd: trio_etcd.Client, service: ServiceRef, instance: str) -> str:
    """What that sidecar says of its app."""
    stored = await etcd.get(KEYS.status(StatusRef(service.namespace, f"{service.name}.{instance}")))
    return codec.decode(stored.value, SidecarStatus, "status").app_health if stored else ""


async def test_an_app_that_is_not_well_is_not_called(mesh: E2eMesh) -> None:
    async with mesh.etcd("tooling") as etcd:

        async def one_left() -> bool:
            return await discovered(etcd) == {"api-1"}

        async def both() -> bool:
            return await discovered(etcd) == BOTH

        async def said() -> bool:
            return await said_by(etcd, API_REF, "api-2") == "unhealthy: GET /health was answered with 503"

        async def asked() -> list[dict[str, str]]:
            async with mesh.http() as client:
                return [(await client.get("http://api.shop/")).json() for _ in range(6)]

        async with open_loop(mesh) as load:
            await load.more(3)
            async with mesh.applied(checked(CHECK)):
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


async def test_times_and_thresholds_count(mesh: E2eMesh) -> None:
    """Each of the four: were it the default, api-2 would not leave, or not come back just with the last answer."""
    key, there = KEYS.endpoint(EndpointRef(API_REF, "api-2")), [True]
    async with mesh.etcd("tooling") as etcd, mesh.applied(checked(CHECK)), etcd.watch(key) as watch:
        await mesh.ask_app("api-2", f"/next/{','.join(ONCE_OUT_AND_IN)}")
        try:
            with trio.fail_after(_SOON_S):
                while there[-2:] != [False, True]:
                    there += [not event.deleted for event in (await anext(watch)).events]
            assert await mesh.ask_app("api-2", "/not-asked-for") == "[]"
        finally:
            await mesh.ask_app("api-2", "/well")


async def test_by_the_health_protocol_of_grpc(mesh: E2eMesh) -> None:
    async with mesh.etcd("tooling") as etcd, mesh.applied(checked(GRPC_CHECK)):
        await mesh.ask_app("api-2", "/unwell")
        try:
            await _left(etcd, {"api-1"})
        finally:
            await mesh.ask_app("api-2", "/well")
        await _left(etcd, BOTH)


async def test_by_connections(mesh: E2eMesh) -> None:
    """To a port where api-1 listens all the time, and api-2 with a pause."""

    def listening(name: str) -> socket.socket:
        return socket.create_server((mesh.instances[name].local, TCP_CHECK_PORT))

    with ExitStack() as open_until:
        open_until.enter_context(listening("api-1"))
        first = open_until.enter_context(listening("api-2"))
        async with mesh.etcd("tooling") as etcd, mesh.applied(checked(TCP_CHECK)):
            first.close()
            await _left(etcd, {"api-1"})
            open_until.enter_context(listening("api-2"))
            await _left(etcd, BOTH)


async def test_by_a_command(mesh: E2eMesh) -> None:
    """Which is among the settings of the sidecar of reports-1."""
    async with mesh.etcd("tooling") as etcd:

        async def said() -> bool:
            return await said_by(etcd, REPORTS_REF, "reports-1") == f"unhealthy: {TEST} ended with 1"

        mesh.reports_are_ill.touch()
        try:
            await _left(etcd, set(), REPORTS_REF)
            await eventually("it says why", said, 20)
        finally:
            mesh.reports_are_ill.unlink()
        await _left(etcd, {"reports-1"}, REPORTS_REF)


async def _left(etcd: trio_etcd.Client, who: set[str], service: ServiceRef = API_REF) -> None:
    async def are_left() -> bool:
        return await discovered(etcd, service) == who

    await eventually(f"{who} are in discovery", are_left, 20)


@pytest.mark.fault(29)
async def test_half_of_the_sidecars_silent_at_once_stay_in_discovery(mesh: E2eMesh) -> None:
    """All instances of api are cut off from etcd, and go on answering: its callers are not left without any."""
    names = ("api-1", "api-2")
    keys = [KEYS.endpoint(EndpointRef(API_REF, name)) for name in names]
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
            stored = await etcd.get(KEYS.endpoint(EndpointRef(API_REF, name)))
            if stored is None or (await etcd.lease_status(pulse_of(stored.lease))).ttl < 0:
                return False
    return True
