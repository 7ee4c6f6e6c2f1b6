"""What a server serves: one `Method` a path, and the `Context` that each of its calls brings."""

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from .errors import Metadata

Request = TypeVar("Request")
Response = TypeVar("Response")
Send = Callable[[Response], Awaitable[None]]
"""Queues one response; waits while 16 are queued. Raises trio.BrokenResourceError when the call has ended."""


class Kind(enum.Enum):
    """Which of the two directions is a stream."""

    UNARY = "unary"
    SERVER_STREAM = "server stream"
    BIDI_STREAM = "bidirectional stream"


@dataclass(frozen=True, slots=True)
class Method:
    """Made by `unary`, `server_stream` or `bidi_stream`, which check the types that are erased here."""

    kind: Kind
    handler: Callable[..., Awaitable[Any]]
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Context:
    """Who calls, and how long they wait.

    `peer` is gRPC's peer address ("ipv4:127.0.0.1:40000", "unix:"). `auth` is gRPC's auth context, empty on plaintext
    and Unix sockets. `deadline` is a trio clock time, None when the caller set none. `metadata` as sent.
    """

    method: str
    peer: str
    metadata: Metadata
    auth: Mapping[str, tuple[bytes, ...]]
    deadline: float | None

    @property
    def peer_certificate(self) -> bytes | None:
        """The caller's verified leaf certificate in PEM; None when it showed none."""
        found = self.auth.get("x509_pem_cert")
        return found[0] if found else None

    def seconds_left(self) -> float | None:
        """Until the caller's deadline, never below 0; None when it set none. Call it in trio."""
        return None if self.deadline is None else max(0.0, self.deadline - trio.current_time())


def unary(
    handler: Callable[[Request, Context], Awaitable[Response]],
    decode: Callable[[bytes], Request],
    encode: Callable[[Response], bytes],
) -> Method:
    """One request, one response: `async def handler(request, context) -> response`."""
    return Method(Kind.UNARY, handler, decode, encode)


def server_stream(
    handler: Callable[[Request, Send[Response], Context], Awaitable[None]],
    decode: Callable[[bytes], Request],
    encode: Callable[[Response], bytes],
) -> Method:
    """One request, many responses: `async def handler(request, send, context)`; the call ends with OK on return."""
    return Method(Kind.SERVER_STREAM, handler, decode, encode)


def bidi_stream(
    handler: Callable[[trio.MemoryReceiveChannel[Request], Send[Response], Context], Awaitable[None]],
    decode: Callable[[bytes], Request],
    encode: Callable[[Response], bytes],
) -> Method:
    """Many of both: `async def handler(requests, send, context)`.

    `requests` ends when the client half-closes; a client that goes away cancels the handler instead.
    """
    return Method(Kind.BIDI_STREAM, handler, decode, encode)
