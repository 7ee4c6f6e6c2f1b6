"""The same question by each protocol, as web-1's app asks it; and what came back, in one form."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
import httpx
import trio

from tests.e2e.app import GRPC, HTTP, HTTP2, PLAN, PLANNED
from tests.e2e.mesh import BOUND_HTTP2, NO_TLS, E2eMesh
from tests.support.net import eventually

Way = Literal["http", "http2", "unary", "chat"]
WEB_WAYS: tuple[Way, ...] = ("http", "http2")
CALLS: tuple[Way, ...] = ("unary", "chat")
PORTS: dict[Way, int] = {"http": HTTP, "http2": HTTP2, "unary": GRPC, "chat": GRPC}
"""Of api."""
_SECONDS = 30.0  # a bound for a busy machine
_MESSAGES = 3  # of a chat, each way

_numbers = itertools.count()  # of plans: apps keep them from test to test


@dataclass(frozen=True)
class Answer:
    code: str
    """As 200 or OK."""
    headers: Sequence[tuple[str, str]]
    """Names in lower case; of gRPC the metadata before and after the messages."""
    seen: dict[str, Any]
    """What the app saw; empty where none has answered."""
    text: str
    seconds: float

    @property
    def instance(self) -> str:
        """The code where no app has answered."""
        return str(self.seen.get("instance", self.code))

    @property
    def tries(self) -> int:
        return int(self.seen["tries"])

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def sent(self, name: str) -> list[str]:
        """The request's header as the app saw it."""
        return [value for key, value in self.seen["headers"] if key == name]


@dataclass
class Ways:
    """Connections of web-1, kept for all questions."""

    mesh: E2eMesh
    http: httpx.AsyncClient
    channel: grpc.Channel
    open_until: AsyncExitStack
    _idle: list[httpx.AsyncClient] = field(default_factory=list)

    async def ask(
        self, way: Way, where: str, path: str = "", *, plan: str = "", method: str = "GET", **headers: str
    ) -> Answer:
        """Of rule `where`: below ``/f/<where>``, or the gRPC service ``fields.<where>``. In a header's name `_` is
        `-`. A plan without a name gets one of its own."""
        if ":" not in plan:
            plan = f"{where}-{way}-{next(_numbers)}:{plan}"
        named = {PLAN: plan, **{name.replace("_", "-"): value for name, value in headers.items()}}
        began = time.monotonic()
        if way in WEB_WAYS:
            at = "http://api.shop" if way == "http" else f"http://{self.mesh.instances['web-1'].local}:{BOUND_HTTP2}"
            asked = httpx.Request(method, f"{at}/f/{where}{path}", headers=named)  # not by a client: that keeps cookies
            answer = await (self.http.send(asked) if way == "http" else self._http2(asked))
            found = [(name.lower(), value) for name, value in answer.headers.multi_items()]
            return Answer(str(answer.status_code), found, _json(answer.text), answer.text, time.monotonic() - began)
        return await trio.to_thread.run_sync(call, self.channel, way, where, tuple(named.items()), began)

    async def _http2(self, asked: httpx.Request) -> httpx.Response:
        """One stream a connection at a time: httpcore loses count of streams that share one."""
        client = self._idle.pop() if self._idle else await self.open_until.enter_async_context(self.mesh.http2())
        client.timeout = httpx.Timeout(_SECONDS)
        answer = await client.send(asked)
        self._idle.append(client)
        return answer


def call(channel: grpc.Channel, way: Way, where: str, metadata: tuple[tuple[str, str], ...], began: float) -> Answer:
    """Of the service ``fields.<where>``; waits for its end."""
    name = f"{PLANNED}{where}/{'Unary' if way == 'unary' else 'Chat'}"
    messages: list[bytes] = []
    made: Any  # a future or an iterator, and a call; typeshed's stubs know no class that is all of it
    if way == "unary":
        one: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(name)
        made = one.future(b"x", timeout=_SECONDS, metadata=metadata)
    else:
        many: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(name)
        made = many(iter([b"x"] * _MESSAGES), timeout=_SECONDS, metadata=metadata)
    try:
        messages = [made.result()] if way == "unary" else list(made)
    except grpc.RpcError:
        pass  # the code says what
    else:
        assert len(messages) == (1 if way == "unary" else _MESSAGES)
    text = messages[-1].decode() if messages else str(made.details())
    found = [(str(key), str(value)) for key, value in [*made.initial_metadata(), *made.trailing_metadata()]]
    return Answer(made.code().name, found, _json(text), text, time.monotonic() - began)


def _json(text: str) -> dict[str, Any]:
    return dict(json.loads(text)) if text.startswith("{") else {}


@dataclass(frozen=True)
class Ask:
    """One row's way of asking."""

    ways: Ways
    way: Way
    where: str

    @property
    def is_grpc(self) -> bool:
        return self.way in CALLS

    @property
    def well(self) -> str:
        return "OK" if self.is_grpc else "200"

    async def __call__(self, path: str = "", **more: str) -> Answer:
        return await self.ways.ask(self.way, self.where, path, **more)

    async def times(self, count: int, **more: str) -> list[Answer]:
        """One after the other."""
        return [await self(**more) for _ in range(count)]

    async def together(self, count: int, **more: str) -> list[Answer]:
        answers = []

        async def one() -> None:
            answers.append(await self(**more))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        return answers

    async def served(self, count: int, **more: str) -> Counter[str]:
        """By instance, or by the code of what was not answered by any."""
        return Counter(answer.instance for answer in await self.times(count, **more))

    async def arrive(self, plan: str, wanted: dict[str, int]) -> None:
        """Returns when so many requests of that plan, each with its copies, have reached the instances."""

        async def arrived() -> bool:
            return await seen(self.ways.mesh, plan) == wanted

        await eventually(f"{wanted} have arrived", arrived, _SECONDS)


async def seen(mesh: E2eMesh, plan: str) -> dict[str, int]:
    """How many requests of that plan each instance has got."""
    async with httpx.AsyncClient(trust_env=False, timeout=_SECONDS, verify=NO_TLS) as client:
        return dict((await client.get(f"http://{mesh.instances['api-1'].local}:{HTTP}/seen/{plan}")).json())


@asynccontextmanager
async def ways_of(mesh: E2eMesh) -> AsyncIterator[Ways]:
    async with mesh.http() as http, AsyncExitStack() as open_until:
        http.timeout = httpx.Timeout(_SECONDS)
        with mesh.grpc() as channel:
            yield Ways(mesh, http, channel, open_until)
