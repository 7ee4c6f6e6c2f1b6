"""What the client needs of a transport, and the one on h2: grpcio's threads would cost each event two hops."""

from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Protocol, Self
from urllib.parse import urlsplit

from trio_grpc import TLS, Metadata
from trio_grpc.http2 import Http2Channel

# A page of a listing must fit; `list` asks for smaller pages when one does not.
MESSAGE_BYTES = 32 << 20


class TransportStream(Protocol):
    """A bidirectional stream. `receive` raises trio_grpc.RpcError, or trio.EndOfChannel when it ended with OK.

    `each` too, when it has given every message to `take`, which may be called in any task.
    """

    async def send(self, payload: bytes) -> None: ...

    async def receive(self) -> list[bytes]: ...

    async def each(self, take: Callable[[bytes], None]) -> NoReturn: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Transport(Protocol):
    """A connection to one endpoint, made on demand and remade by itself. Failures are trio_grpc.RpcError."""

    async def unary(self, path: str, payload: bytes, *, timeout: float, metadata: Metadata = ()) -> bytes: ...

    def stream(self, path: str, *, metadata: Metadata = ()) -> TransportStream: ...

    def close(self) -> None: ...


Connect = Callable[[str, TLS | None], Transport]
"""Makes the transport for one endpoint ("host:port" or "unix:/path"); must not block."""


def connect_http2(endpoint: str, tls: TLS | None) -> Transport:
    """The transport on h2. Raises ssl.SSLError for credentials that can't be read."""
    return Http2Channel(endpoint, tls=tls, max_message=MESSAGE_BYTES)


def parse_endpoint(text: str, *, tls: bool) -> str:
    """`host:port`, `http://host:port`, `https://host:port` or `unix:/path` → gRPC's name for it.

    Raises ValueError when it is none of these, or when an `https` endpoint has no TLS or an `http` one has.
    """
    if text.startswith("unix:"):
        return text
    parts = urlsplit(text if "://" in text else f"//{text}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("", "http", "https") or not parts.hostname or not port or parts.path not in ("", "/"):
        raise ValueError(f"not an etcd endpoint: {text!r}; expected host:port, or a URL such as https://host:2379")
    if parts.scheme == "https" and not tls:
        raise ValueError(f"the endpoint {text!r} wants TLS: pass tls=TLS(ca, cert, key)")
    if parts.scheme == "http" and tls:
        raise ValueError(f"the endpoint {text!r} is plaintext but TLS was given: use https://")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"
