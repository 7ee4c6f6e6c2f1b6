"""What stays open for long, by kind, as an app opens it through the sidecar of its own host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import trio

from tests.e2e.app import GREETING, HTTP, TCP
from tests.e2e.mesh import API, BOUND_GRPC, E2eMesh
from tests.states.build import port, service
from trio_grpc import Channel, RpcError, Stream

# A port of the app of HTTP, whose sidecar reads no HTTP.
PASSED = 8082
API_PASSES = service("api", *API.spec.ports, port("passed", PASSED, target=HTTP, identity_header=False))

UPGRADE = "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
"""The end of a request's head."""

Echo = Callable[[bytes], Awaitable[bytes]]
"""Says it to the app over what is open, and returns what comes back: nothing when that has ended."""


async def over(stream: trio.abc.Stream, message: bytes) -> bytes:
    try:
        await stream.send_all(message)
        return bytes(await stream.receive_some())
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return b""


@asynccontextmanager
async def by_proxy(mesh: E2eMesh, by: str, head: str, until: str) -> AsyncIterator[Echo]:
    """Through the proxy port: `head` asks for it; it is open when `until` has come."""
    async with await trio.open_tcp_stream(mesh.instances[by].local, 15001) as stream:
        await stream.send_all(head.encode())
        got = b""
        with trio.fail_after(10):
            while until.encode() not in got:
                part = await stream.receive_some()
                assert part, got
                got += part
        yield partial(over, stream)


def tunnel(mesh: E2eMesh, by: str) -> AbstractAsyncContextManager[Echo]:
    return by_proxy(mesh, by, f"CONNECT api.shop:{TCP} HTTP/1.1\r\nHost: api.shop:{TCP}\r\n\r\n", GREETING)


@asynccontextmanager
async def bound_connection(mesh: E2eMesh, by: str) -> AsyncIterator[Echo]:
    """By the bound port of TCP."""
    async with await mesh.tcp(by) as stream:
        assert (await stream.receive_some()).startswith(GREETING.encode())
        yield partial(over, stream)


def web_socket(
    mesh: E2eMesh, by: str, path: str = "/socket", *, number: int = HTTP, protocol: str = "websocket", header: str = ""
) -> AbstractAsyncContextManager[Echo]:
    """number: of the port of api. protocol: what HTTP is left for. header: one more, ``name: value``."""
    upgrade = (f"{header}\r\n" if header else "") + UPGRADE.replace("websocket", protocol)
    return by_proxy(mesh, by, f"GET {path} HTTP/1.1\r\nHost: api.shop:{number}\r\n{upgrade}", "101 Switching")


def bytes_passed(mesh: E2eMesh, by: str) -> AbstractAsyncContextManager[Echo]:
    """Where api is as in `API_PASSES`."""
    return web_socket(mesh, by, number=PASSED)


async def over_chat(stream: Stream, message: bytes) -> bytes:
    try:
        await stream.send(message)
        return b"".join(one.rpartition(b" ")[2] for one in await stream.receive())
    except (RpcError, trio.EndOfChannel, trio.BrokenResourceError):
        return b""


@asynccontextmanager
async def grpc_chat(mesh: E2eMesh, by: str) -> AsyncIterator[Echo]:
    with (
        Channel(f"{mesh.instances[by].local}:{BOUND_GRPC}") as channel,
        channel.stream("/e2e.Echo/Chat") as stream,
    ):
        yield partial(over_chat, stream)


async def arrived(mesh: E2eMesh, name: str) -> None:
    """Returns when an instance of api holds the request to ``/held/<name>``."""
    async with trio.open_nursery() as nursery:

        async def look(instance: str) -> None:
            await mesh.ask_app(instance, f"/arrived/{name}")
            nursery.cancel_scope.cancel()

        for instance in (one for one in mesh.instances if one.startswith("api-")):
            nursery.start_soon(look, instance)
