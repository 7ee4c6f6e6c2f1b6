"""Load that does not wait for answers, as many callers make it together; and somebody who must never be let in.

Requests start at fixed times whatever became of those before: a stall shows as requests that fail or are late, never as
requests that were not made.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import httpx
import trio

from tests.e2e.app import GREETING, HTTP
from tests.e2e.mesh import BOUND_TCP, E2eMesh
from tests.support.net import eventually

PER_SECOND = 15.0  # of each protocol; what two cores carry beside the processes of a whole mesh
BESIDE_PER_SECOND = PER_SECOND / 3
REQUEST_SECONDS = 10.0
HTTP2_CONNECTIONS = 4  # more than are ever in use together while nothing stalls
KINDS = ("http", "http2", "grpc", "tcp")

Once = Callable[[], Awaitable[str | None]]
"""One request: None when it was answered as it should be, else what happened instead."""


@dataclass
class Load:
    """By protocol, as in `KINDS`, and what is beside them."""

    beside: tuple[str, ...] = ()
    answered: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """The first words of what went wrong, with how often."""

    async def one(self, kind: str, once: Once) -> None:
        try:
            with trio.fail_after(REQUEST_SECONDS):
                failure = await once()
        except (httpx.HTTPError, OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            failure = f"{type(error).__name__}: {error}"
        if failure is None:
            self.answered[kind] += 1
        else:
            self.failures[f"{kind}: {failure[:160]}"] += 1

    async def more(self, requests: int) -> None:
        """Returns when that many more of each protocol have been answered, and half as many of what is beside."""
        wanted = {kind: self.answered[kind] + requests for kind in KINDS}
        wanted |= {kind: self.answered[kind] + requests // 2 for kind in self.beside}

        def answered() -> bool:
            return all(self.answered[kind] >= count for kind, count in wanted.items())

        await eventually(f"{requests} more requests of each protocol have been answered", answered, 60)


@asynccontextmanager
async def open_loop(
    mesh: E2eMesh, by: str = "web-1", *, passed: int | None = None, beside: Mapping[str, Once] | None = None
) -> AsyncIterator[Load]:
    """From `by` to api.shop, by every protocol, for the time of the body; then waits for what is in flight.

    HTTP/1.1, HTTP/2 and gRPC keep their connections; each TCP request is a connection, and so a tunnel, of its own.
    passed: a port of api for HTTP/1.1 whose bytes its sidecar passes on: every other request of HTTP/1.1 is for it.
    beside: what else is asked, a third as often.
    """
    more = dict(beside or {})
    load = Load(tuple(more))
    ports = itertools.cycle([HTTP] if passed is None else [HTTP, passed])
    async with mesh.http(by) as http, AsyncExitStack() as open_until:
        http2 = KeptHttp2(partial(mesh.http2, by), open_until)
        with mesh.grpc(by) as channel:
            ways: tuple[Once, ...] = (
                lambda: ask_http(http, f"http://api.shop:{next(ports)}/"),
                http2.ask,
                lambda: ask_grpc(channel),
                lambda: ask_tcp(mesh.instances[by].local, BOUND_TCP),
            )
            async with trio.open_nursery() as requests, trio.open_nursery() as starters:
                for kind, once in zip(KINDS, ways, strict=True):
                    starters.start_soon(_start, load, requests, kind, once, PER_SECOND)
                for kind, once in more.items():
                    starters.start_soon(_start, load, requests, kind, once, BESIDE_PER_SECOND)
                yield load
                starters.cancel_scope.cancel()


async def _start(load: Load, requests: trio.Nursery, kind: str, once: Once, per_second: float) -> None:
    due = trio.current_time()
    while True:
        requests.start_soon(load.one, kind, once)
        due += 1 / per_second
        await trio.sleep_until(due)


async def ask_http(client: httpx.AsyncClient, url: str, **more: Any) -> str | None:
    answer = await client.get(url, **more)
    return None if answer.status_code == 200 else f"{answer.status_code} {answer.text}"


class KeptHttp2:
    """Kept connections, each with one stream at a time: httpcore loses count of streams that share one, and then waits
    for ever. Concurrent streams are gRPC's part of the load.

    They are few: httpcore takes a hundred turns of the event loop for a new one, and a machine that is busy would be
    the busier for it. Requests wait for one, within their time.
    """

    def __init__(
        self, connect: Callable[[], AbstractAsyncContextManager[httpx.AsyncClient]], open_until: AsyncExitStack
    ) -> None:
        self._connect, self._open_until = connect, open_until
        self._idle: list[httpx.AsyncClient] = []
        self._may_ask = trio.CapacityLimiter(HTTP2_CONNECTIONS)

    async def ask(self, **more: Any) -> str | None:
        async with self._may_ask:
            client = self._idle.pop() if self._idle else await self._open_until.enter_async_context(self._connect())
            said = await ask_http(client, "/", **more)
            self._idle.append(client)  # not one whose request has failed
            return said


async def ask_grpc(channel: grpc.Channel) -> str | None:
    call = channel.unary_unary("/e2e.Echo/Unary", bytes, bytes).future(b"x", timeout=REQUEST_SECONDS)
    done, token = trio.Event(), trio.lowlevel.current_trio_token()
    call.add_done_callback(lambda _: token.run_sync_soon(done.set))
    await done.wait()
    return None if call.code() is grpc.StatusCode.OK else f"{call.code()} {call.details()}"


async def ask_tcp(address: str, port: int) -> str | None:
    """Whether the app greets there."""
    async with await trio.open_tcp_stream(address, port) as stream:
        greeting = await stream.receive_some(100)
    return None if greeting.startswith(GREETING.encode()) else f"{greeting!r}"


@asynccontextmanager
async def nobody_let_in(mesh: E2eMesh, by: str = "reports-1") -> AsyncIterator[Counter[str]]:
    """`by`, whom no policy allows, asks again and again; asserts that it was refused each time, whatever the reason.

    Gives what it was told, by status or by error.
    """
    told: Counter[str] = Counter()

    async def ask() -> None:
        async with mesh.http(by) as client:
            while True:
                try:
                    answer = await client.get("http://api.shop/intruder")
                    told[f"{answer.status_code}"] += 1
                except httpx.HTTPError as error:
                    told[type(error).__name__] += 1
                await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        yield told
        nursery.cancel_scope.cancel()
    assert told
    assert "200" not in told
