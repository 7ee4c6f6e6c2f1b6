"""Load that does not wait for answers, as many callers make it together; and somebody who must never be let in.

Requests start at fixed times whatever became of those before: a stall shows as requests that fail or are late, never as
requests that were not made.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import httpx
import trio

from tests.e2e.app import GREETING, HTTP
from tests.e2e.mesh import E2eMesh
from tests.support.net import eventually

PER_SECOND = 15.0  # of each protocol; what two cores carry beside the processes of a whole mesh
REQUEST_SECONDS = 10.0
KINDS = ("http", "http2", "grpc", "tcp")

Once = Callable[[], Awaitable[str | None]]
"""One request: None when it was answered as it should be, else what happened instead."""


@dataclass
class Load:
    """By protocol, as in `KINDS`."""

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
        """Returns when that many more of each protocol have been answered."""
        wanted = {kind: self.answered[kind] + requests for kind in KINDS}

        def answered() -> bool:
            return all(self.answered[kind] >= count for kind, count in wanted.items())

        await eventually(f"{requests} more requests of each protocol have been answered", answered, 60)


@asynccontextmanager
async def open_loop(mesh: E2eMesh, by: str = "web-1", *, passed: int | None = None) -> AsyncIterator[Load]:
    """From `by` to api.shop, by every protocol, for the time of the body; then waits for what is in flight.

    HTTP/1.1, HTTP/2 and gRPC keep their connections; each TCP request is a connection, and so a tunnel, of its own.
    passed: a port of api for HTTP/1.1 whose bytes its sidecar passes on: every other request of HTTP/1.1 is for it.
    """
    load = Load()
    ports = itertools.cycle([HTTP] if passed is None else [HTTP, passed])
    async with mesh.http(by) as http, AsyncExitStack() as open_until:
        http2 = _Http2(mesh, by, open_until)
        with mesh.grpc(by) as channel:
            ways: tuple[Once, ...] = (
                lambda: _http(http, f"http://api.shop:{next(ports)}/"),
                http2.ask,
                lambda: _grpc(channel),
                lambda: _tcp(mesh, by),
            )
            async with trio.open_nursery() as requests, trio.open_nursery() as starters:
                for kind, once in zip(KINDS, ways, strict=True):
                    starters.start_soon(_start, load, requests, kind, once)
                yield load
                starters.cancel_scope.cancel()


async def _start(load: Load, requests: trio.Nursery, kind: str, once: Once) -> None:
    due = trio.current_time()
    while True:
        requests.start_soon(load.one, kind, once)
        due += 1 / PER_SECOND
        await trio.sleep_until(due)


async def _http(client: httpx.AsyncClient, url: str) -> str | None:
    answer = await client.get(url)
    return None if answer.status_code == 200 else f"{answer.status_code} {answer.text}"


class _Http2:
    """Kept connections, each with one stream at a time: httpcore loses count of streams that share one, and then waits
    for ever. Concurrent streams are gRPC's part of the load."""

    def __init__(self, mesh: E2eMesh, by: str, open_until: AsyncExitStack) -> None:
        self._mesh, self._by, self._open_until = mesh, by, open_until
        self._idle: list[httpx.AsyncClient] = []

    async def ask(self) -> str | None:
        if self._idle:
            client = self._idle.pop()
        else:
            client = await self._open_until.enter_async_context(self._mesh.http2(self._by))
        said = await _http(client, "/")
        self._idle.append(client)  # not one whose request has failed
        return said


async def _grpc(channel: grpc.Channel) -> str | None:
    call = channel.unary_unary("/e2e.Echo/Unary", bytes, bytes).future(b"x", timeout=REQUEST_SECONDS)
    done, token = trio.Event(), trio.lowlevel.current_trio_token()
    call.add_done_callback(lambda _: token.run_sync_soon(done.set))
    await done.wait()
    return None if call.code() is grpc.StatusCode.OK else f"{call.code()} {call.details()}"


async def _tcp(mesh: E2eMesh, by: str) -> str | None:
    async with await mesh.tcp(by) as stream:
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
