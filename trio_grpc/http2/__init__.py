"""gRPC over HTTP/2 in trio alone, by `h2`: no thread, and so no hop between threads, which costs more than a call.

Server, on a Unix socket; who the peer is can be asked of the kernel::

    async def handle(call: Call) -> None:
        while True:
            await call.send(answer(await call.receive()))

    async def serve(socket, uid, usage):
        await Connection(socket, uid, handle, limits, usage, report).run()

    async with open_unix_server(path, mode=0o600, serve=serve, limits=limits, on_error=report):
        ...

Client, as `trio_grpc.Channel` is, on TCP with TLS or a Unix socket::

    with Http2Channel("127.0.0.1:2379", tls=TLS(ca, cert, key)) as channel:
        answer = await channel.unary("/package.Service/Method", payload, timeout=5)
"""

from .call import Call, Handler
from .client import Http2Channel, Http2Stream
from .connection import Connection, Usage
from .limits import Limits
from .server import MAX_SOCKET_PATH, open_unix_server
from .wire import NOT_CONNECTED, TLS_FAILED

__all__ = [
    "MAX_SOCKET_PATH",
    "NOT_CONNECTED",
    "TLS_FAILED",
    "Call",
    "Connection",
    "Handler",
    "Http2Channel",
    "Http2Stream",
    "Limits",
    "Usage",
    "open_unix_server",
]
