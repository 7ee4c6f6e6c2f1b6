"""Whom a caller takes for the service that it meant."""

from __future__ import annotations

import msgspec
import pytest
import trio

from schemas import codec
from schemas.keys import EndpointRef
from schemas.names import ServiceRef
from schemas.records import Endpoint
from tests.e2e.app import HTTP, TCP
from tests.e2e.mesh import KEYS, WEB, WEB_ID, E2eMesh, caller
from tests.e2e.model import assert_runs_the_model
from tests.states.build import need, policy, port, rule, service
from tests.support.net import eventually


async def test_a_rogue_endpoint_with_another_services_identity_is_refused(mesh: E2eMesh) -> None:
    """It has a good certificate of the mesh and would let the caller in: it is just not whom the caller meant."""
    vault = service("vault", port("http", HTTP), port("tcp", TCP, "tcp"))
    needs = (*(WEB.spec.dependencies or ()), need("vault"), need("reports.back-office"))
    web = msgspec.structs.replace(WEB, spec=msgspec.structs.replace(WEB.spec, dependencies=needs))
    welcome = policy("welcome.back-office", "ALLOW", rule(caller(WEB_ID)))
    rogue = Endpoint(address=mesh.instances["reports-1"].advertised, ports={"http": HTTP, "tcp": HTTP})
    key = KEYS.endpoint(EndpointRef(ServiceRef("shop", "vault"), "vault-1"))
    async with mesh.applied(vault, web, welcome), mesh.put_by_hand(key, codec.encode(rogue)):
        assert await mesh.status("/", host="reports.back-office") == 200

        async def refusals() -> int:
            reply = await mesh.admin("web-1").get("/stats?filter=vault.*ssl.fail_verify_san")
            return sum(int(line.rpartition(b":")[2]) for line in reply.body.splitlines())

        async def refused() -> bool:
            answer = await mesh.get("/secret", host="vault.shop")
            assert answer.status_code == 503, answer.text
            return await refusals() > 0

        await eventually("the server's identity was refused", refused)
        async with await trio.open_tcp_stream(mesh.instances["web-1"].local, 15001) as stream:
            await stream.send_all(f"CONNECT vault.shop:{TCP} HTTP/1.1\r\nHost: vault.shop:{TCP}\r\n\r\n".encode())
            assert b" 503 " in await stream.receive_some()
        await assert_runs_the_model(mesh, "web-1", "reports-1")


@pytest.mark.parametrize("name", ["web-1", "api-1", "reports-1"])
async def test_at_rest_envoy_runs_what_the_compiler_makes_of_etcd(mesh: E2eMesh, name: str) -> None:
    await assert_runs_the_model(mesh, name)
