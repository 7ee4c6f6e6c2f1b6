"""A port takes plaintext beside mTLS, and stops: who sends is told, and nobody is cut off unasked. Under load."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
import trio

from controlplane.meshadm.changes import put_of
from controlplane.meshadm.client import new_request_id
from schemas.api import mesh_pb2 as pb
from schemas.codec import Document
from schemas.errors import Conflict
from schemas.objects import AnyObject
from schemas.objects.authorization import Source
from tests.e2e.app import HTTP, TCP
from tests.e2e.load import open_loop
from tests.e2e.mesh import APPLY_SECONDS, NO_TLS, E2eMesh
from tests.states.build import peers, policy, rule
from tests.support.net import eventually

PERMISSIVE, STRICT = peers("api", "PERMISSIVE", ["api"]), peers("api", "STRICT", ["api"])
BY_ADDRESS = policy("not-moved-yet", "ALLOW", rule(Source(ip_blocks=("127.0.0.0/8",))), on=["api"])
XFCC = "x-forwarded-client-cert"


async def plaintext(mesh: E2eMesh, name: str = "api-1") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=10, verify=NO_TLS) as client:
        forged = {XFCC: "URI=spiffe://forged", "x-forwarded-for": "10.9.9.9"}
        return await client.get(f"http://{mesh.instances[name].advertised}:{HTTP}/", headers=forged)


async def echoed(mesh: E2eMesh) -> bytes:
    async with await trio.open_tcp_stream(mesh.instances["api-1"].advertised, TCP) as stream:
        try:
            await stream.send_all(b"hello")
            with trio.fail_after(10):
                return bytes(await stream.receive_some())
        except trio.BrokenResourceError:
            return b""


async def readiness(mesh: E2eMesh) -> tuple[int, dict[str, Any]]:
    code, said = await mesh.local.meshadm("mtls", "readiness", "api.shop", "-o", "json", check=False)
    return code, json.loads(said)


async def change(mesh: E2eMesh, value: AnyObject, *, force: bool = False) -> pb.ApplyReply:
    async with mesh.client() as client:
        change = put_of(Document("test", value))
        request = pb.ApplyRequest(request_id=new_request_id(), changes=[change], force=force)
        return await client.apply(request, APPLY_SECONDS)


async def test_plaintext_comes_and_goes_and_no_request_fails(mesh: E2eMesh) -> None:
    async with open_loop(mesh) as load:
        async with mesh.applied(PERMISSIVE):
            denied = await plaintext(mesh)  # no rule by identity lets it in
            assert denied.status_code == 403
            assert await echoed(mesh) == b""
            async with mesh.applied(BY_ADDRESS):
                answer = await plaintext(mesh)
                assert answer.status_code == 200
                said = answer.json()["headers"]
                assert XFCC not in {name.lower() for name, _ in said}
                assert "10.9.9.9" not in json.dumps(said)
                assert (await echoed(mesh)).startswith(b"hello")
                assert await mesh.status() == 200

                async def seen() -> bool:
                    ports = {one.port: one for one in (await mesh.statuses())["api-1"].plaintext}
                    return {number for number, one in ports.items() if one.sources} >= {HTTP, TCP}

                await eventually("the sidecar tells who sends", seen, 20)
                code, found = await readiness(mesh)
                assert code == 4
                by_port = {one["port"]: one for one in found["ports"]}
                why = {number: one["holdouts"][0]["why"] for number, one in by_port.items()}
                assert all(re.match(r"plaintext \d+ s ago, from 127\.0\.0\.1", why[number]) for number in (HTTP, TCP))
                assert re.match(r"nobody in \d+ s, and it has not looked for longer: wait \d+ s", why[9000])
                (of_api_1,) = (one for one in by_port[HTTP]["sidecars"] if one["sidecar"] == "shop/api.api-1")
                assert [one["address"] for one in of_api_1["sources"]] == ["127.0.0.1"]
                with pytest.raises(Conflict, match=r"shop/api\.api-1, port 8080: plaintext .* from 127\.0\.0\.1"):
                    await change(mesh, STRICT)
                assert (await plaintext(mesh)).status_code == 200
                revision = (await change(mesh, STRICT, force=True)).revision
                assert revision
                await mesh.everyone_current()
                with pytest.raises(httpx.TransportError):
                    await plaintext(mesh)
                assert b"hello" not in await echoed(mesh)  # an alert of TLS
                code, found = await readiness(mesh)
                assert (code, {one["mode"] for one in found["ports"]}) == (0, {"STRICT"})
        await load.more(2)
        assert not load.failures
    assert any("plaintext refused by force" in mesh.log(f"replica-{replica}") for replica in mesh.local.replicas)
