"""A service that declares no dependencies: its first requests wait until its sidecar has learnt whom they are for."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import AsyncExitStack

import httpx
import trio

from dataplane.envoy import stats
from schemas.names import ServiceRef, SpiffeId
from tests.e2e.app import GREETING, HTTP, TCP
from tests.e2e.lasting import tunnel, web_socket
from tests.e2e.mesh import E2eMesh
from tests.e2e.test_changes import ended_by_envoy, nothing_ended
from tests.states.build import external, port, service

NOBODY = "no such service in the mesh, nor has an ExternalService this host\n"
UNDECLARED = service("web", port("http", HTTP), needs=None)


async def test_first_requests_are_not_lost(mesh: E2eMesh) -> None:
    async with mesh.applied(UNDECLARED):
        held = [key["cluster"]["name"] for key in await _clusters(mesh)]
        assert not any("api.shop" in name for name in held), "nobody has called it yet"
        statuses: dict[str, int] = {}

        async def first(host: str, method: str) -> None:
            async with mesh.http() as client:
                answer = await client.request(method, f"http://{host}/first", content=b"x" * 100_000)
                statuses[f"{method} {host}"] = answer.status_code
                assert answer.json()["path"] == "/first"
                names = [name.lower() for name, _ in answer.json()["headers"]]
                assert "x-mesh-second-pass" not in names

        async with trio.open_nursery() as nursery:
            for host in ("api", "api.shop", "API.shop.mesh", f"api.shop.mesh:{HTTP}"):
                for method in ("GET", "POST", "PUT"):
                    nursery.start_soon(first, host, method)
        assert set(statuses.values()) == {200}
        assert len(statuses) == 12

        async with await trio.open_tcp_stream(mesh.instances["web-1"].local, 15001) as stream:
            await stream.send_all(f"CONNECT api:{TCP} HTTP/1.1\r\nHost: api:{TCP}\r\n\r\n".encode())
            got = b""
            while GREETING.encode() not in got:
                part = await stream.receive_some()
                assert part, got
                got += part

        held = [key["cluster"]["name"] for key in await _clusters(mesh)]
        assert {f"outbound|api.shop|{HTTP}", "api", "api.shop"} <= set(held)
        assert not any("reports" in name for name in held), "a sidecar holds what its app calls, and no more"


async def test_who_calls_nobody_is_told_at_once_and_later_finds_who_came(mesh: E2eMesh) -> None:
    async with mesh.applied(UNDECLARED):
        started, before = time.monotonic(), await _failed(mesh)
        answers = [await mesh.get("/", host="latecomer") for _ in range(3)]
        assert [(one.status_code, one.text) for one in answers] == [(503, NOBODY)] * 3
        assert time.monotonic() - started < 4, "it waited for a cluster that nobody will send"
        assert await _failed(mesh) - before == Counter(unknown=3), "each is counted once, whatever passes it made"
        assert (await mesh.get("/", host="not a host")).status_code in (400, 503)
        # A name that came into being later needs no second lesson.
        async with mesh.applied(service("latecomer", port("http", HTTP))):
            answer = await mesh.get("/", host="latecomer")
            assert answer.status_code == 503
            assert "no such service" not in answer.text, "it exists, and has no instance"


async def test_an_external_service_is_learnt_too(mesh: E2eMesh) -> None:
    """One with a sidecar at the other end, named as services are."""
    api = f"spiffe://{mesh.local.trust_domain}/ns/shop/svc/api"
    at = mesh.instances["api-1"].advertised
    partner = external("stock.partner", api, port("http", HTTP), at=[at])
    async with mesh.applied(UNDECLARED, partner):
        answers = [await mesh.get("/", host=f"stock.partner:{HTTP}") for _ in range(3)]
        assert [one.status_code for one in answers] == [200] * 3, answers[0].text
        assert (await mesh.get("/", host="stock.partner")).status_code == 200
        held = [key["cluster"]["name"] for key in await _clusters(mesh)]
        assert f"outbound|stock.partner|{HTTP}" in held


async def test_what_was_learnt_outlives_the_agent(mesh: E2eMesh) -> None:
    async with mesh.applied(UNDECLARED):
        assert await mesh.status("/") == 200
        await mesh.processes.kill("sidecar-web-1")
        await mesh.local.restart_sidecar(mesh.instances["web-1"])
        await mesh.everyone_current()
        assert "api.shop" in [key["cluster"]["name"] for key in await _clusters(mesh)]
        assert await mesh.status("/") == 200


async def test_who_ceases_to_say_whom_it_calls_keeps_what_is_open(mesh: E2eMesh) -> None:
    before = await ended_by_envoy(mesh, "web-1")
    async with AsyncExitStack() as stack, mesh.http() as kept:
        opened = [await stack.enter_async_context(way(mesh, "web-1")) for way in (tunnel, web_socket)]
        async with mesh.applied(UNDECLARED):
            assert (await kept.get(f"http://api.shop:{HTTP}/")).status_code == 200
            assert await nothing_ended(mesh, "web-1", before)
            opened += [await stack.enter_async_context(way(mesh, "web-1")) for way in (tunnel, web_socket)]
        assert (await kept.get(f"http://api.shop:{HTTP}/")).status_code == 200
        assert await nothing_ended(mesh, "web-1", before), "what is open would be cut some seconds later"
        assert [await echo(b"x") for echo in opened] == [b"x"] * 4


async def _failed(mesh: E2eMesh) -> Counter[str]:
    """Requests, by destination."""
    own = SpiffeId.of_service(mesh.local.trust_domain, ServiceRef("shop", "web"))
    found: Counter[str] = Counter()
    for labels, number in stats.read(await mesh.admin("web-1").statistics(), own).errors.items():
        found[labels[2]] += int(number)
    return found


async def _clusters(mesh: E2eMesh) -> list[dict[str, dict[str, str]]]:
    transport = httpx.AsyncHTTPTransport(uds=str(mesh.local.runtime_dir(mesh.instances["web-1"]) / "admin.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=10) as client:
        answer = await client.get("/config_dump?resource=dynamic_active_clusters")
    return list(answer.json().get("configs", []))
