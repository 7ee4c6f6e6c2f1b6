"""[edge] ``GET /metrics`` over plain HTTP/1.1, for Prometheus.

Nothing secret is in a metric, and nobody is asked who they are: it belongs on a loopback or management address. Each
connection is one request, bounded in time and size.
"""

import contextlib
from collections.abc import Awaitable, Callable

import h11
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONNECTION_SECONDS = 5.0  # a scrape takes milliseconds
MAX_CONNECTIONS = 16  # scrapers are one or two; a connection more waits in the kernel
MAX_REQUEST_BYTES = 8 * 1024  # of headers
_CHUNK = 16 * 1024


async def serve_metrics(
    registry: CollectorRegistry,
    address: str,
    *,
    before: Callable[[], Awaitable[None]] | None = None,
    connection_seconds: float = CONNECTION_SECONDS,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """For ever, on `address`, ``host:port``. Started with the port. Raises OSError where it can't listen.

    before: is awaited before the registry is asked, for what others have to be asked for.
    """
    host, _, port = address.rpartition(":")
    listeners = await trio.open_tcp_listeners(int(port), host=host.strip("[]"))
    limit = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def render() -> bytes:
        if before is not None:
            await before()
        return generate_latest(registry)

    async def handle(stream: trio.SocketStream) -> None:
        async with limit, stream:
            with trio.move_on_after(connection_seconds):
                with contextlib.suppress(trio.BrokenResourceError, h11.ProtocolError):  # theirs to know
                    await _answer(stream, render)

    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(handle, listeners)


async def _answer(stream: trio.SocketStream, render: Callable[[], Awaitable[bytes]]) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
    while (request := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(bytes(await stream.receive_some(_CHUNK)))
    if not isinstance(request, h11.Request):
        return
    status, kind, body = 404, "text/plain; charset=utf-8", b"metrics are at /metrics\n"
    if request.target.partition(b"?")[0] == b"/metrics":
        status, body = 405, b"use GET\n"
        if request.method == b"GET":
            status, kind, body = 200, CONTENT_TYPE_LATEST, await render()
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
    data = connection.send(h11.Response(status_code=status, headers=headers)) or b""
    data += connection.send(h11.Data(data=body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    await stream.send_all(data)
