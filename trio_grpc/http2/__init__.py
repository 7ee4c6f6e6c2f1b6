"""gRPC over HTTP/2 in trio alone, by `h2`: for Unix sockets, where a thread's hop would cost more than the call.

No thread, no hop, and the socket at hand: who the peer is can be asked of the kernel. Server::

    async def handle(call: Call) -> None:
        while True:
            request = await call.receive()
            await call.send(answer(request))

    async with open_unix_server(path, mode=0o600, serve=serve_calls(handle, Limits(), report), ...):
        ...
"""

from .call import Call, Handler
from .connection import Connection, Usage
from .limits import Limits
from .server import MAX_SOCKET_PATH, open_unix_server

__all__ = ["MAX_SOCKET_PATH", "Call", "Connection", "Handler", "Limits", "Usage", "open_unix_server"]
