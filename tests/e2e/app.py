"""One app for all tests: HTTP/1.1, HTTP/2, gRPC and TCP on an instance's own address. Run as a process.

Each protocol says the same: which instance answers and what reached it. HTTP requests for ``/held/<name>`` wait until
somebody asks ``/release/<name>``, so that a test decides how long a request is in flight. ``/health`` is answered with
503 for 202, and gRPC's health protocol with NOT_SERVING, from ``/unwell`` on, until ``/well``; after ``/next/<words>``
its next answers are those words, as in a plan, and ``/not-asked-for`` tells which are left. `Plans` says how a request
is answered that brings its own plan.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h11
import trio

HTTP, HTTP2, GRPC, TCP = 8080, 8081, 9000, 7000
GREETING = "hello from "
_CHUNK = 64 * 1024

Headers = Iterable[tuple[bytes, bytes]]
PLAN = "x-plan"
HEALTH_HOST = "health.test"  # to whom health is told: as Host, and as the service of gRPC's protocol
PLANNED = "/fields."  # how the names of gRPC services begin that answer in JSON, as HTTP does
# Above every limit that a test sets; for what is to be under way together; above a health check's default timeout.
SECONDS = {"slow": 8.0, "pause": 1.0, "late": 1.5}


class Plans:
    """Requests with ``x-plan: name:503,slow`` are answered with that, one after another: a retry is the next one.

    A word is a status, of HTTP as a number and of gRPC by its name, or ``slow``, ``pause``, or, by HTTP/2, ``refuse``;
    after the last, all is well. One for all instances: it does not matter which of them is tried again, and `seen`
    tells which were.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Name of a plan -> instance -> how many requests."""

    def next(self, plan: str, instance: str) -> tuple[int, str]:
        """Which try this is, from 1 on, and its word: empty where all is well."""
        name, _, words = plan.partition(":")
        with self._lock:
            self.seen[name][instance] += 1
            number = self.seen[name].total()
        return number, dict(enumerate(words.split(","), 1)).get(number, "")


class _Refused(Exception):
    """A stream of HTTP/2 that nothing is done for (RFC 9113, 8.7)."""


class App:
    def __init__(self, instance: str, plans: Plans) -> None:
        self.instance = instance
        self.plans = plans
        self._released: defaultdict[str, trio.Event] = defaultdict(trio.Event)
        self.well = True
        self.next: list[str] = []
        """How its health is told, before `well` counts again."""
        self._arrived: defaultdict[str, trio.Event] = defaultdict(trio.Event)

    async def answer(self, method: str, path: str, headers: Headers) -> tuple[int, bytes]:
        """Status and body."""
        seen = [(name.decode().lower(), value.decode("latin-1")) for name, value in headers]
        tries, word = self.plans.next(dict(seen).get(PLAN, ""), self.instance)
        await trio.sleep(SECONDS.get(word, 0))
        if word == "refuse":
            raise _Refused
        match path.split("/"):
            case ["", "held", name]:
                self._arrived[name].set()
                await self._released[name].wait()
            case ["", "arrived", name]:
                await self._arrived[name].wait()
            case ["", "release", name]:
                self._released[name].set()
            case ["", "unwell" | "well" as how]:
                self.well, self.next = how == "well", []
            case ["", "next", words]:
                self.next = words.split(",")
            case ["", "not-asked-for"]:
                return 200, json.dumps(self.next).encode()
            case ["", "seen", name]:
                return 200, json.dumps(self.plans.seen[name]).encode()
            case ["", "health"]:
                word = await self._health() if dict(seen).get("host") == HEALTH_HOST else "400"
        status = int(word) if word.isdigit() else 200
        said = {"instance": self.instance, "method": method, "path": path, "headers": seen, "tries": tries}
        return status, json.dumps(said).encode()

    async def _health(self) -> str:
        if not self.next:
            return "202" if self.well else "503"
        word = self.next.pop(0)
        await trio.sleep(SECONDS.get(word, 0))
        return "202" if word in SECONDS else word

    # -- HTTP/1.1

    async def http(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            while connection.our_state is not h11.MUST_CLOSE:
                request = await self._next(connection, stream)
                if not isinstance(request, h11.Request):
                    return
                while not isinstance(await self._next(connection, stream), h11.EndOfMessage):
                    pass
                status, body = await self.answer(request.method.decode(), request.target.decode(), request.headers)
                upgrade = [value for name, value in request.headers if name == b"upgrade"]
                if upgrade:
                    await self._upgrade(connection, stream, upgrade[0])
                    return
                headers = [("Content-Length", str(len(body))), ("X-From", self.instance)]
                await self._send(connection, stream, h11.Response(status_code=status, headers=headers))
                await self._send(connection, stream, h11.Data(data=body))
                await self._send(connection, stream, h11.EndOfMessage())
                if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
                    connection.start_next_cycle()

    async def _upgrade(self, connection: h11.Connection, stream: trio.SocketStream, protocol: bytes) -> None:
        """What comes over it is said again, byte by byte: what a WebSocket frames is of no interest here."""
        headers = [(b"Connection", b"upgrade"), (b"Upgrade", protocol)]
        await self._send(connection, stream, h11.InformationalResponse(status_code=101, headers=headers))
        await stream.send_all(connection.trailing_data[0])
        async for data in stream:
            await stream.send_all(data)

    async def _next(self, connection: h11.Connection, stream: trio.SocketStream) -> object:
        while True:
            event = connection.next_event()
            if event is not h11.NEED_DATA:
                return event
            connection.receive_data(await stream.receive_some(_CHUNK))

    async def _send(self, connection: h11.Connection, stream: trio.SocketStream, event: h11.Event) -> None:
        await stream.send_all(connection.send(event) or b"")

    # -- HTTP/2, without TLS, by prior knowledge

    async def http2(self, stream: trio.SocketStream) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        requests: dict[int, list[tuple[bytes, bytes]]] = {}
        sending = trio.Lock()  # answers are made side by side, and a slow one holds up none

        async def send() -> None:
            async with sending:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await stream.send_all(connection.data_to_send())

        async def answer(stream_id: int, headers: list[tuple[bytes, bytes]]) -> None:
            await self._answer_stream(connection, stream_id, headers)
            await send()

        async with trio.open_nursery() as nursery:
            await send()
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await stream.receive_some(_CHUNK):
                    for event in connection.receive_data(data):
                        if isinstance(event, h2.events.RequestReceived):
                            requests[event.stream_id] = list(event.headers)
                        elif isinstance(event, h2.events.DataReceived):
                            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        elif isinstance(event, h2.events.StreamEnded):
                            nursery.start_soon(answer, event.stream_id, requests.pop(event.stream_id))
                    await send()
            nursery.cancel_scope.cancel()

    async def _answer_stream(
        self, connection: h2.connection.H2Connection, stream_id: int, headers: list[tuple[bytes, bytes]]
    ) -> None:
        pseudo = dict(headers)
        plain = [(name, value) for name, value in headers if not name.startswith(b":")]
        try:
            status, body = await self.answer(pseudo[b":method"].decode(), pseudo[b":path"].decode(), plain)
        except _Refused:
            connection.reset_stream(stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        head = [(":status", str(status)), ("content-length", str(len(body))), ("x-from", self.instance)]
        with contextlib.suppress(h2.exceptions.ProtocolError):  # who asked does not wait any more
            connection.send_headers(stream_id, head)
            connection.send_data(stream_id, body, end_stream=True)

    # -- TCP: speaks first, as databases do; then says every line again

    async def tcp(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(f"{GREETING}{self.instance}\n".encode())
            async for data in stream:
                await stream.send_all(data)

    # -- gRPC

    def grpc_server(self, address: str) -> grpc.Server:
        server = grpc.server(ThreadPoolExecutor(32), handlers=[_Grpc(self)])
        server.add_insecure_port(f"{address}:{GRPC}")
        return server


class _Grpc(grpc.GenericRpcHandler):
    """``/e2e.Echo/Unary`` and ``/e2e.Echo/Chat`` (both ways): ``instance caller message`` for each message.

    Services of `PLANNED` say in JSON what HTTP says; any of them has both methods.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        metadata = [(str(name), str(value)) for name, value in details.invocation_metadata]
        start = f"{self._app.instance} {dict(metadata).get('x-forwarded-client-cert', 'nobody')} ".encode()

        def begin(context: grpc.ServicerContext) -> Callable[[bytes], bytes]:
            if not details.method.startswith(PLANNED):
                return lambda message: start + message
            tries = self._planned(dict(metadata).get(PLAN, ""), context)
            said = {"instance": self._app.instance, "path": details.method, "headers": metadata, "tries": tries}
            return lambda message: json.dumps(said).encode()

        def unary(message: bytes, context: grpc.ServicerContext) -> bytes:
            return begin(context)(message)

        def chat(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            answer = begin(context)
            for message in messages:
                yield answer(message)

        def check(message: bytes, context: grpc.ServicerContext) -> bytes:
            if HEALTH_HOST.encode() not in message:
                context.abort(grpc.StatusCode.NOT_FOUND, "another service")
            return b"\x08\x01" if self._app.well else b"\x08\x02"  # HealthCheckResponse: SERVING, NOT_SERVING

        match details.method.rpartition("/")[2]:
            case "Unary":
                return grpc.unary_unary_rpc_method_handler(unary)
            case "Chat":
                return grpc.stream_stream_rpc_method_handler(chat)
            case "Check":
                return grpc.unary_unary_rpc_method_handler(check)
        return None

    def _planned(self, plan: str, context: grpc.ServicerContext) -> int:
        """Waits, or ends the call, as the plan says; which try this is."""
        tries, word = self._app.plans.next(plan, self._app.instance)
        metadata = (("x-from", self._app.instance),)
        if word in SECONDS:
            ended = threading.Event()
            context.add_callback(ended.set)
            ended.wait(SECONDS[word])
        elif word:
            context.set_trailing_metadata(metadata)
            context.abort(grpc.StatusCode[word], "as planned")
        context.send_initial_metadata(metadata)
        return tries


async def serve(instances: dict[str, str]) -> None:
    servers = []
    plans = Plans()
    async with trio.open_nursery() as nursery:
        for name, address in instances.items():
            app = App(name, plans)
            servers.append(app.grpc_server(address))  # kept: one that nobody holds is shut down
            servers[-1].start()
            for handler, port in ((app.http, HTTP), (app.http2, HTTP2), (app.tcp, TCP)):
                await nursery.start(partial(trio.serve_tcp, handler, port, host=address))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("instances", nargs="+", help="name=address")
    trio.run(serve, dict(one.split("=", 1) for one in parser.parse_args().instances))


if __name__ == "__main__":
    main()
