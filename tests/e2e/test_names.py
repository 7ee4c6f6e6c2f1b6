"""An app that knows of the mesh only the names of its services: looked up, connected to, every protocol."""

from __future__ import annotations

import ipaddress
import socket

import dns.asyncquery
import dns.message
import dns.rcode
import grpc
import httpx
import pytest
import trio

from schemas.objects import Service
from schemas.objects.service import Dependency
from tests.e2e.app import GREETING, GRPC, HTTP, HTTP2, TCP
from tests.e2e.mesh import API, NO_TLS, UPSTREAM_DNS, WEB_ID, E2eMesh
from tests.e2e.test_traffic import XFCC, _same, header
from tests.states.build import need, port, service


async def ask(mesh: E2eMesh, name: str, rdtype: str = "A", *, tcp: bool = False) -> dns.message.Message:
    """As the resolver of web-1's host does."""
    way = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await way(dns.message.make_query(name, rdtype), mesh.instances["web-1"].local, port=15053, timeout=10)


async def look_up(mesh: E2eMesh, name: str) -> str:
    reply = await ask(mesh, name)
    assert reply.rcode() == dns.rcode.NOERROR
    address = str(reply.answer[0][0])
    assert ipaddress.ip_address(address) in ipaddress.ip_network(mesh.ranges.spec.virtual_addresses.ipv4)
    return address


async def get(url: str, **more: bool) -> httpx.Response:
    """Without any proxy."""
    async with httpx.AsyncClient(trust_env=False, timeout=10, verify=NO_TLS, **more) as client:  # type: ignore[arg-type]  # its options
        return await client.get(url)


async def test_every_protocol_by_name(mesh: E2eMesh) -> None:
    address = await look_up(mesh, "api.shop.mesh")
    assert await look_up(mesh, "api.mesh") == await look_up(mesh, "api") == address
    answer = await get(f"http://{address}:{HTTP}/by-name")
    assert (answer.status_code, answer.json()["path"]) == (200, "/by-name")
    assert f"URI={WEB_ID}" in header(answer, XFCC)[0]
    answer = await get(f"http://{address}:{HTTP2}/", http1=False, http2=True)
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
    with grpc.insecure_channel(f"{address}:{GRPC}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary("/e2e.Echo/Unary", _same, _same)
        said = await trio.to_thread.run_sync(lambda: call(b"hello", timeout=10))
    assert said.endswith(b" hello")
    async with await trio.open_tcp_stream(address, TCP) as stream:
        assert (await stream.receive_some()).startswith(GREETING.encode())
    with socket.socket() as second:  # as another sidecar of this host and user would: connections under its identity
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            second.bind((address, HTTP))
    port_of = await ask(mesh, "_grpc._tcp.api.shop.mesh", "SRV", tcp=True)
    assert port_of.answer[0][0].to_text() == f"0 0 {GRPC} api.shop.mesh."
    assert port_of.additional[0][0].to_text() == address


async def test_names_come_and_go_with_their_services(mesh: E2eMesh) -> None:
    """web does not depend on it: its name is looked up in etcd, and true until it changes."""
    late = service("late", port("http", HTTP))
    assert (await ask(mesh, "late.shop.mesh")).rcode() == dns.rcode.NXDOMAIN
    async with mesh.applied(late):
        address = await look_up(mesh, "late.shop.mesh")
        with pytest.raises(OSError, match=r"refused|all attempts"):
            await trio.open_tcp_stream(address, HTTP)  # no sidecar of ours serves what is not declared
        with mesh.paused(mesh.processes.pid("etcd")):
            assert await look_up(mesh, "late.shop.mesh") == address, "known, so etcd's silence changes nothing"
            assert await look_up(mesh, "api.shop.mesh")
    assert (await ask(mesh, "late.shop.mesh")).rcode() == dns.rcode.NXDOMAIN
    async with mesh.applied(late):
        assert await look_up(mesh, "late.shop.mesh") == address, "it is the same again"


@pytest.mark.parametrize(("name", "needs"), [("undeclared", None), ("starred", [need("*")])])
async def test_what_is_looked_up_is_there_when_it_is_answered(
    mesh: E2eMesh, name: str, needs: list[Dependency] | None
) -> None:
    """A name of its own each: what was learnt stays, and other tests begin with who has learnt nothing of api."""
    async with mesh.applied(service("web", port("http", HTTP), needs=needs), service(name, port("http", HTTP))):
        address = await look_up(mesh, name)
        answer = await get(f"http://{address}:{HTTP}/first")
        assert (answer.status_code, "no healthy upstream" in answer.text) == (503, True)


async def test_other_names_go_on_and_ours_never(mesh: E2eMesh) -> None:
    heard: list[str] = []
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind((mesh.local.control, UPSTREAM_DNS))

        async def answer() -> None:
            while True:
                data, sender = await sock.recvfrom(4096)
                query = dns.message.from_wire(data)
                heard.append(query.question[0].name.to_text())
                await sock.sendto(dns.message.make_response(query).to_wire(), sender)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert (await ask(mesh, "nobody.shop.mesh")).rcode() == dns.rcode.NXDOMAIN
            assert (await ask(mesh, "a.b.c.d.mesh", "TXT")).rcode() == dns.rcode.NXDOMAIN
            assert (await ask(mesh, "example.com")).rcode() == dns.rcode.NOERROR
            nursery.cancel_scope.cancel()
    assert heard == ["example.com."]


async def test_the_address_stands_in_the_object(mesh: E2eMesh) -> None:
    async with mesh.client() as client:
        stored = await client.get(API.ref)
    assert isinstance(stored.object, Service)
    assert stored.object.spec.virtual_address is not None
    assert stored.object.spec.virtual_address.ipv4 == await look_up(mesh, "api.shop.mesh")
