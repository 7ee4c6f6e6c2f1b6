"""gRPC for trio: the one place where grpcio's threads meet an event loop. Client and server, raw bytes and paths.

Client::

    with Channel("127.0.0.1:2379", tls=TLS(ca, cert, key)) as channel:
        answer = await channel.unary("/package.Service/Method", payload, timeout=5)
        with channel.stream("/package.Service/Watch") as stream:
            await stream.send(payload)
            for message in await stream.receive():
                ...

Server::

    methods = {"/package.Service/Method": unary(handler, Request.FromString, Response.SerializeToString)}
    async with serve(methods, [Listener("127.0.0.1:0")], on_error=report) as server:
        print(server.bound_ports)
"""

from grpc import StatusCode

from .background import background_nursery
from .client import BidiStream, Channel, ChannelOptions, Stream
from .errors import BindError, Metadata, RpcAbort, RpcError, is_of_unknown_root
from .methods import Context, Kind, Method, Send, bidi_stream, server_stream, unary
from .server import Listener, Server, serve
from .tls import TLS, ReloadableTLS, ServerTLS

__all__ = [
    "TLS",
    "BidiStream",
    "BindError",
    "Channel",
    "ChannelOptions",
    "Context",
    "Kind",
    "Listener",
    "Metadata",
    "Method",
    "ReloadableTLS",
    "RpcAbort",
    "RpcError",
    "Send",
    "Server",
    "ServerTLS",
    "StatusCode",
    "Stream",
    "background_nursery",
    "bidi_stream",
    "is_of_unknown_root",
    "serve",
    "server_stream",
    "unary",
]
