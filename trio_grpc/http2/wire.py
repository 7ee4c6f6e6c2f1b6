"""gRPC over HTTP/2: headers, framing, statuses. Pure.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from grpc import StatusCode

from trio_grpc.errors import RpcAbort, RpcError

RawHeaders = Sequence[tuple[bytes, bytes]]

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PREFIX_BYTES = 5  # one for the flag "compressed", four for the length


@dataclass(frozen=True, slots=True)
class Request:
    """The headers of a call. `metadata`: names in lower case, in the order in which they came."""

    path: str
    metadata: tuple[tuple[str, str], ...]
    timeout: float | None
    """Seconds that the caller waits; None: without end."""

    def values(self, name: str) -> tuple[str, ...]:
        return tuple(value for key, value in self.metadata if key == name)


class NotGrpc(Exception):
    """A request of plain HTTP; `status` is HTTP's answer to it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def request_of(headers: RawHeaders) -> Request:
    """Raises NotGrpc; RpcAbort for a time-out that can't be read and for what is not compressed in our way (not)."""
    text = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
    pseudo = {name: value for name, value in text if name.startswith(":")}
    metadata = tuple((name, value) for name, value in text if not name.startswith(":"))
    fields = dict(metadata)
    if pseudo.get(":method") != "POST":
        raise NotGrpc(405)
    kind = fields.get("content-type", "")
    if kind != "application/grpc" and not kind.startswith(("application/grpc+proto", "application/grpc;")):
        raise NotGrpc(415)
    if fields.get("grpc-encoding", "identity") != "identity":
        raise RpcAbort(StatusCode.UNIMPLEMENTED, "requests must not be compressed")
    return Request(pseudo.get(":path", ""), metadata, _seconds(fields.get("grpc-timeout")))


def _seconds(value: str | None) -> float | None:
    if value is None:
        return None
    match = _TIMEOUT.fullmatch(value.encode("latin-1"))
    if match is None:
        raise RpcAbort(StatusCode.INVALID_ARGUMENT, "grpc-timeout can't be read")
    return int(match[1]) * _UNITS[match[2]]


class Messages:
    """Cuts one direction of a call into its messages. Holds no more than what of one message has come."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """What is whole by now. Raises RpcAbort for what is too long, by its announced length, or compressed."""
        held = self._held
        held += data
        found: list[bytes] = []
        while len(held) >= _PREFIX_BYTES:
            size = int.from_bytes(held[1:_PREFIX_BYTES], "big")
            if held[0]:
                raise RpcAbort(StatusCode.UNIMPLEMENTED, "messages must not be compressed")
            if size > self._max_bytes:
                text = f"a message of {size} bytes is larger than max ({self._max_bytes})"
                raise RpcAbort(StatusCode.RESOURCE_EXHAUSTED, text)
            end = _PREFIX_BYTES + size
            if len(held) < end:
                break
            with memoryview(held) as view:
                found.append(bytes(view[_PREFIX_BYTES:end]))
            del held[:end]
        return found

    @property
    def whole(self) -> bool:
        """Nothing of a message has come whose end has not."""
        return not self._held


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


RESPONSE_HEADERS = [(b":status", b"200"), (b"content-type", b"application/grpc")]


def trailers(abort: RpcAbort | None) -> list[tuple[bytes, bytes]]:
    """How a call ends; None: well."""
    if abort is None:
        return [(b"grpc-status", b"0")]
    number: int = abort.code.value[0]
    return [(b"grpc-status", str(number).encode()), (b"grpc-message", _percent_encoded(abort.message))]


def _percent_encoded(text: str) -> bytes:
    return b"".join(
        bytes([one]) if 0x20 <= one <= 0x7E and one != 0x25 else b"%%%02X" % one for one in text.encode("utf-8")
    )


# -- the client's side

# How the details of an RpcError begin: nothing was sent; the two could not agree on TLS.
NOT_CONNECTED = "can't connect to"
TLS_FAILED = "TLS failed"

_CODES = {int(code.value[0]): code for code in StatusCode}
_MOST_DIGITS = 8
# RFC 9113, 7, as gRPC reads it; anything else is INTERNAL.
_RESETS = {
    0x7: StatusCode.UNAVAILABLE,  # REFUSED_STREAM
    0x8: StatusCode.CANCELLED,  # CANCEL
    0xB: StatusCode.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: StatusCode.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}


def timeout_field(seconds: float) -> str:
    """grpc-timeout: at most eight digits and a unit; the finest that fits."""
    for unit, scale in (("u", 1e6), ("m", 1e3), ("S", 1)):
        count = max(1, int(seconds * scale))
        if len(str(count)) <= _MOST_DIGITS:
            return f"{count}{unit}"
    return "9" * _MOST_DIGITS + "S"


def outcome(status: str, message: str) -> RpcError | None:
    """What the trailers say; None: all is well."""
    code = _CODES.get(int(status) if status.isascii() and status.isdigit() else -1, StatusCode.UNKNOWN)
    return None if code is StatusCode.OK else RpcError(code, unquote(message))


def reset(code: int) -> RpcError:
    """The server has taken the stream back."""
    return RpcError(_RESETS.get(code, StatusCode.INTERNAL), f"the server has reset the stream: HTTP/2 error {code}")
