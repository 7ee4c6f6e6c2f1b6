"""Whoever is no longer allowed loses what is open, of every kind, within the bound that the documentation states."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import trio

from dataplane.compile.open_streams import GATHER_MS, REPORT_EVERY_S
from schemas.objects.authorization import Operation
from tests.e2e.app import GREETING, HTTP, TCP
from tests.e2e.mesh import BOUND_GRPC, REPORTS_ID, WEB_ID, E2eMesh, caller
from tests.states.build import policy, revocation, rule
from trio_grpc import Channel, RpcError, Stream

# Seconds. `REPORT_EVERY_S` and `GATHER_MS` are by design; the rest is for a machine that is busy.
BOUND_S = REPORT_EVERY_S + GATHER_MS / 1000 + 5.0

BOTH_MAY = policy("web-may", "ALLOW", rule(caller(WEB_ID, REPORTS_ID)), on=["api"])
REPORTS_MAY = policy("web-may", "ALLOW", rule(caller(REPORTS_ID)), on=["api"])

Echo = Callable[[bytes], Awaitable[bytes]]
"""Says it to the app over what is open, and returns what comes back: nothing when that has ended."""


async def over(stream: trio.SocketStream, message: bytes) -> bytes:
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


def web_socket(mesh: E2eMesh, by: str, path: str = "/socket") -> AbstractAsyncContextManager[Echo]:
    upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    return by_proxy(mesh, by, f"GET {path} HTTP/1.1\r\nHost: api.shop:{HTTP}\r\n{upgrade}", "101 Switching")


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


async def ended(echo: Echo, name: str) -> None:
    """Returns with the last byte that passes: it asks again and again, as whoever is not willing to go would."""
    with trio.move_on_after(BOUND_S) as patience:
        while await echo(b"still?"):  # noqa: ASYNC110  (no event tells what passes; the pace spares the machine)
            await trio.sleep(0.01)
    assert not patience.cancelled_caught, f"{name} passes bytes after {BOUND_S} s"


async def all_ended(named: Sequence[tuple[str, Echo]]) -> None:
    async with trio.open_nursery() as nursery:
        for name, echo in named:
            nursery.start_soon(ended, echo, name)


@pytest.mark.fault(24)
async def test_a_policy_that_no_longer_allows_ends_what_is_open_and_nothing_of_others(mesh: E2eMesh) -> None:
    async with mesh.applied(BOTH_MAY), AsyncExitStack() as stack, trio.open_nursery() as nursery:
        webs = [
            (kind.__name__, await stack.enter_async_context(kind(mesh, "web-1")))
            for kind in (tunnel, web_socket, grpc_chat)
        ]
        others = [await stack.enter_async_context(kind(mesh, "reports-1")) for kind in (tunnel, web_socket)]
        answers: dict[str, int] = {}

        async def held(by: str) -> None:
            answers[by] = await mesh.status(f"/held/cut-{by}", by=by)

        for by in ("web-1", "reports-1"):
            nursery.start_soon(held, by)
            await arrived(mesh, f"cut-{by}")
        assert [await echo(b"open") for _, echo in webs] == [b"open"] * 3
        assert [await echo(b"open") for echo in others] == [b"open"] * 2

        await mesh.apply(REPORTS_MAY)
        await all_ended(webs)
        assert [await echo(b"open") for echo in others] == [b"open"] * 2
        for instance in ("api-1", "api-2"):
            for by in ("web-1", "reports-1"):
                await mesh.ask_app(instance, f"/release/cut-{by}")
        nursery.cancel_scope.deadline = trio.current_time() + 10
    assert answers == {"web-1": 503, "reports-1": 200}


@pytest.mark.fault(24)
async def test_a_revocation_ends_what_is_open_and_nothing_of_others(mesh: E2eMesh) -> None:
    async with mesh.applied(BOTH_MAY), AsyncExitStack() as stack, mesh.etcd() as etcd:
        revoked = [
            (kind.__name__, await stack.enter_async_context(kind(mesh, "reports-1"))) for kind in (tunnel, web_socket)
        ]
        others = [await stack.enter_async_context(kind(mesh, "web-1")) for kind in (tunnel, web_socket, grpc_chat)]
        assert [await echo(b"open") for _, echo in revoked] == [b"open"] * 2
        assert [await echo(b"open") for echo in others] == [b"open"] * 3
        try:
            await etcd.put(*revocation("reports.back-office", 1))
            await all_ended(revoked)
        finally:
            await etcd.put(*revocation("reports.back-office", 2, revoked=False))
        assert [await echo(b"open") for echo in others] == [b"open"] * 3


@pytest.mark.fault(24)
async def test_what_stays_allowed_stays_open(mesh: E2eMesh) -> None:
    """Policies change, and nobody whose streams they allow notices; who has lost one of two paths loses that."""
    sockets = policy("sockets", "ALLOW", rule(caller(REPORTS_ID), to=[Operation(paths=("/a", "/b"))]), on=["api"])
    only_b = policy("sockets", "ALLOW", rule(caller(REPORTS_ID), to=[Operation(paths=("/b",))]), on=["api"])
    async with mesh.applied(sockets), web_socket(mesh, "web-1") as stays:
        async with web_socket(mesh, "reports-1", "/a?q=1") as goes:
            assert await goes(b"open") == b"open"
            await mesh.apply(only_b)
            await ended(goes, "a web socket to a path that is denied")
        async with web_socket(mesh, "reports-1", "/b") as again:
            # Longer than it takes to be reported: it is judged, and may go on.
            with trio.move_on_after(2 * REPORT_EVERY_S):
                while await again(b"open") == b"open":  # noqa: ASYNC110  (as above)
                    await trio.sleep(0.05)
                raise AssertionError("a web socket that is allowed was closed")
        assert await stays(b"open") == b"open"


async def arrived(mesh: E2eMesh, name: str) -> None:
    async with trio.open_nursery() as nursery:

        async def look(instance: str) -> None:
            await mesh.ask_app(instance, f"/arrived/{name}")
            nursery.cancel_scope.cancel()

        for instance in ("api-1", "api-2"):
            nursery.start_soon(look, instance)
