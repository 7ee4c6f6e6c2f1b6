"""One app for all tests: HTTP/1.1, HTTP/2, gRPC and TCP on an instance's own address. Run as a process.

Each protocol says the same: which instance answers and what reached it. HTTP requests for ``/held/<name>`` wait until
somebody asks ``/release/<name>``, so that a test decides how long a request is in flight. ``/health`` is answered with
503 from ``/unwell`` on, until ``/well``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import h11
import trio

HTTP, HTTP2, GRPC, TCP = 8080, 8081, 9000, 7000
GREETING = "hello from "
_CHUNK = 64 * 1024

Headers = Iterable[tuple[bytes, bytes]]


class App:
    def __init__(self, instance: str) -> None:
        self.instance = instance
        self._released: defaultdict[str, trio.Event] = defaultdict(trio.Event)
        self.well = True
        self._arrived: defaultdict[str, trio.Event] = defaultdict(trio.Event)

    async def answer(self, method: str, path: str, headers: Headers) -> bytes:
        match path.split("/"):
            case ["", "held", name]:
                self._arrived[name].set()
                await self._released[name].wait()
            case ["", "arrived", name]:
                await self._arrived[name].wait()
            case ["", "release", name]:
                self._released[name].set()
            case ["", "unwell" | "well" as how]:
                self.well = how == "well"
        seen = [(name.decode(), value.decode("latin-1")) for name, value in headers]
        return json.dumps({"instance": self.instance, "method": method, "path": path, "headers": seen}).encode()

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
                body = await self.answer(request.method.decode(), request.target.decode(), request.headers)
                if any(name == b"upgrade" for name, _ in request.headers):
                    await self._upgrade(connection, stream)
                    return
                length = ("Content-Length", str(len(body)))
                status = 503 if request.target == b"/health" and not self.well else 200
                await self._send(connection, stream, h11.Response(status_code=status, headers=[length]))
                await self._send(connection, stream, h11.Data(data=body))
                await self._send(connection, stream, h11.EndOfMessage())
                if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
                    connection.start_next_cycle()

    async def _upgrade(self, connection: h11.Connection, stream: trio.SocketStream) -> None:
        """What comes over it is said again, byte by byte: what a WebSocket frames is of no interest here."""
        headers = [("Connection", "upgrade"), ("Upgrade", "websocket")]
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
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(connection.data_to_send())
            while data := await stream.receive_some(_CHUNK):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        requests[event.stream_id] = list(event.headers)
                    elif isinstance(event, h2.events.DataReceived):
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        await self._answer_stream(connection, event.stream_id, requests.pop(event.stream_id))
                await stream.send_all(connection.data_to_send())

    async def _answer_stream(
        self, connection: h2.connection.H2Connection, stream_id: int, headers: list[tuple[bytes, bytes]]
    ) -> None:
        pseudo = dict(headers)
        plain = [(name, value) for name, value in headers if not name.startswith(b":")]
        body = await self.answer(pseudo[b":method"].decode(), pseudo[b":path"].decode(), plain)
        connection.send_headers(stream_id, [(":status", "200"), ("content-length", str(len(body)))])
        connection.send_data(stream_id, body, end_stream=True)

    # -- TCP: speaks first, as databases do; then says every line again

    async def tcp(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(f"{GREETING}{self.instance}\n".encode())
            async for data in stream:
                await stream.send_all(data)

    # -- gRPC

    def grpc_server(self, address: str) -> grpc.Server:
        server = grpc.server(ThreadPoolExecutor(16), handlers=[_Grpc(self.instance)])
        server.add_insecure_port(f"{address}:{GRPC}")
        return server


class _Grpc(grpc.GenericRpcHandler):
    """``/e2e.Echo/Unary`` and ``/e2e.Echo/Chat`` (both ways): ``instance caller message`` for each message."""

    def __init__(self, instance: str) -> None:
        self._instance = instance

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        caller = dict(details.invocation_metadata).get("x-forwarded-client-cert", "nobody")
        start = f"{self._instance} {caller!s} ".encode()

        def chat(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            for message in messages:
                yield start + message

        match details.method.rpartition("/")[2]:
            case "Unary":
                return grpc.unary_unary_rpc_method_handler(lambda message, context: start + message)
            case "Chat":
                return grpc.stream_stream_rpc_method_handler(chat)
        return None


async def serve(instances: dict[str, str]) -> None:
    servers = []
    async with trio.open_nursery() as nursery:
        for name, address in instances.items():
            app = App(name)
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
