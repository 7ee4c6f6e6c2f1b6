"""What the client needs of a transport, and the one on grpcio. Another (h2, say) fits behind these two calls."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from trio_grpc import TLS, Channel, Metadata

RPC_OPTIONS: tuple[tuple[str, str | int], ...] = (
    # A frozen peer is noticed after 10 + 5 s instead of minutes; etcd forbids pings more often than every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # etcd comes back within a second of a restart; the client's own back-off spaces its calls.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # The bound on one attempt to connect, TLS handshake included.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    # Else two clients of one process would share a connection, and one's rotated credentials with it.
    ("grpc.use_local_subchannel_pool", 1),
    # A page of a listing must fit; `list` asks for smaller pages when one does not.
    ("grpc.max_receive_message_length", 32 << 20),
    # etcd judges sizes itself and names its limit.
    ("grpc.max_send_message_length", -1),
)


class TransportStream(Protocol):
    """A bidirectional stream. `receive` raises trio_grpc.RpcError, or trio.EndOfChannel when it ended with OK."""

    async def send(self, payload: bytes) -> None: ...

    async def receive(self) -> list[bytes]: ...

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


def connect_grpc(endpoint: str, tls: TLS | None) -> Transport:
    """The transport on grpcio."""
    return Channel(endpoint, tls=tls, options=RPC_OPTIONS)


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
