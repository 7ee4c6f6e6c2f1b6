"""Requests of every protocol through two sidecars, and how they are spread over the instances."""

from __future__ import annotations

import re
from collections import Counter

import httpx
import pytest
import trio

from tests.e2e.app import GREETING, TCP
from tests.e2e.mesh import API_ID, WEB_ID, E2eMesh
from tests.states.build import balance

XFCC = "x-forwarded-client-cert"
REQUESTS = 400  # standard deviation: 10 of 200, 8.7 of 100


def header(answer: httpx.Response, name: str) -> list[str]:
    """What reached the app."""
    return [value for key, value in answer.json()["headers"] if key.lower() == name]


async def test_http_1_by_the_proxy_variable(mesh: E2eMesh) -> None:
    answer = await mesh.get("/orders/7?q=1", method="PUT")
    assert answer.status_code == 200
    seen = answer.json()
    assert (seen["method"], seen["path"], header(answer, "host")) == ("PUT", "/orders/7?q=1", ["api.shop"])


def _same(message: bytes) -> bytes:
    return message


async def test_http_2_by_prior_knowledge(mesh: E2eMesh) -> None:
    async with mesh.http2() as client:
        answers = [await client.get(f"/{number}") for number in range(3)]
    assert {(answer.status_code, answer.http_version) for answer in answers} == {(200, "HTTP/2")}
    assert [answer.json()["path"] for answer in answers] == ["/0", "/1", "/2"]


async def test_grpc_unary_and_streaming(mesh: E2eMesh) -> None:
    with mesh.grpc() as channel:

        def calls() -> tuple[bytes, list[bytes]]:
            one: bytes = channel.unary_unary("/e2e.Echo/Unary", _same, _same)(b"one", timeout=10)
            many = channel.stream_stream("/e2e.Echo/Chat", _same, _same)(iter([b"a", b"b", b"c"]), timeout=10)
            return one, list(many)

        one, many = await trio.to_thread.run_sync(calls)
    assert one.endswith(b" one")
    assert f"URI={WEB_ID} ".encode() in one
    assert [answer.rpartition(b" ")[2] for answer in many] == [b"a", b"b", b"c"]
    assert len({answer.partition(b" ")[0] for answer in many}) == 1  # one stream, one instance


async def test_tcp_whose_server_speaks_first(mesh: E2eMesh) -> None:
    async with await mesh.tcp() as stream:
        greeting = await stream.receive_some()
        assert greeting.startswith(GREETING.encode())
        await stream.send_all(b"ping\n")
        assert await stream.receive_some() == b"ping\n"


async def test_tcp_by_connect_through_the_proxy_port(mesh: E2eMesh) -> None:
    async with await trio.open_tcp_stream(mesh.instances["web-1"].local, 15001) as stream:
        await stream.send_all(f"CONNECT api.shop:{TCP} HTTP/1.1\r\nHost: api.shop:{TCP}\r\n\r\n".encode())
        got = b""
        while GREETING.encode() not in got:
            part = await stream.receive_some()
            assert part, got
            got += part
        assert got.startswith(b"HTTP/1.1 200")


async def test_the_app_sees_its_caller_as_the_ca_attested_it(mesh: E2eMesh) -> None:
    async with mesh.http() as client:
        answer = await client.get("http://api.shop/", headers={XFCC: "URI=spiffe://shop.example/ns/shop/svc/admin"})
    (said,) = header(answer, XFCC)
    assert re.findall(r"URI=([^;,]+)", said) == [WEB_ID]
    assert re.findall(r"By=([^;,]+)", said) == [API_ID]


@pytest.mark.parametrize("host", ["nothing.shop", "web.nowhere"])
async def test_an_unknown_service_is_said_so(mesh: E2eMesh, host: str) -> None:
    answer = await mesh.get(host=host)
    assert answer.status_code == 503
    assert "no such service" in answer.text


async def test_plaintext_to_an_inbound_port_gets_nothing(mesh: E2eMesh) -> None:
    address = mesh.instances["api-1"].advertised
    for port in (8080, 8081, 9000, 7000):
        async with await trio.open_tcp_stream(address, port) as stream:
            got = b""
            with trio.fail_after(10):
                try:
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
                    got = bytes(await stream.receive_some())
                except trio.BrokenResourceError:
                    pass
            assert got == b"", port


async def served(mesh: E2eMesh, requests: int) -> Counter[str]:
    async with mesh.http() as client:
        return Counter([(await client.get("http://api.shop/")).json()["instance"] for _ in range(requests)])


async def test_round_robin_takes_turns(mesh: E2eMesh) -> None:
    async with mesh.applied(balance("api", "RoundRobin", "api")):
        assert await served(mesh, 100) == {"api-1": 50, "api-2": 50}


async def test_least_request_avoids_who_is_busy(mesh: E2eMesh) -> None:
    """Of two instances that are drawn at random it takes the one with less to do: half each while both are idle; of one
    that is busy a quarter is left, when it is drawn twice. Bounds are four standard deviations and more away.
    """
    async with mesh.applied(balance("api", "LeastRequest", "api")):
        idle = await served(mesh, REQUESTS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mesh.get, "/held/least")
            busy = await _arrived(mesh, "least")
            count = await served(mesh, REQUESTS)
            await mesh.ask_app(busy, "/release/least")
    assert set(idle) == set(count) == {"api-1", "api-2"}
    assert min(idle.values()) > 0.4 * REQUESTS
    assert 0.15 * REQUESTS < count[busy] < 0.35 * REQUESTS


async def _arrived(mesh: E2eMesh, name: str) -> str:
    """At which instance that request is held."""
    found: list[str] = []

    async def look(instance: str, scope: trio.CancelScope) -> None:
        await mesh.ask_app(instance, f"/arrived/{name}")
        found.append(instance)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        for instance in ("api-1", "api-2"):
            nursery.start_soon(look, instance, nursery.cancel_scope)
    return found[0]
