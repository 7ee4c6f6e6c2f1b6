"""gRPC calls over HTTP/2 in trio alone: no thread, and no task but the caller's. See `carrier`."""

import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

import h2.events
import h2.exceptions
import trio
from grpc import StatusCode

from trio_grpc.errors import Metadata, RpcAbort, RpcError
from trio_grpc.tls import TLS

from . import wire
from .carrier import Carrier
from .sockets import Target, context_of, open_socket

CONNECT_TIMEOUT_S = 3.0  # TLS handshake included
MESSAGE_BYTES = 4 << 20  # as gRPC's own clients have it
HELD_BYTES = 16 << 20  # received of one stream and not yet taken; above it flow control holds the server back


class Http2Channel:
    """One connection to one target, made by the first call and remade by the first one after it was lost.

    `target`: "host:port" or "unix:/path". `tls` None is plaintext. `max_message`: bytes of a message received. Raises
    ValueError for a malformed target, ssl.SSLError for credentials that can't be read.
    """

    def __init__(self, target: str, *, tls: TLS | None = None, max_message: int = MESSAGE_BYTES) -> None:
        self._target = Target.parse(target)
        self._context = None if tls is None else context_of(tls)
        self.max_message = max_message
        self._carrier: Carrier | None = None
        self._connecting = trio.Lock()
        self._attempts = 0
        self._failure: RpcError | None = None
        """Of the last attempt to connect."""
        self._closed = False

    async def unary(self, path: str, payload: bytes, *, timeout: float, metadata: Metadata = ()) -> bytes:
        """One request, one response. `timeout` in seconds, sent to the server as the deadline.

        Raises RpcError; after a cancelled or failed call it is unknown whether the server acted on it.
        """
        sent = False
        with trio.move_on_after(timeout):
            carrier = await self.connected()
            with Http2Stream(self, path, metadata, timeout) as stream:
                stream.attach(carrier)
                sent = True
                await stream.send_last(payload)
                return await stream.only_message()
        why = f"no answer within {timeout:g} s"
        raise RpcError(StatusCode.DEADLINE_EXCEEDED, why if sent else f"{wire.NOT_CONNECTED} {self._where}: {why}")

    def stream(self, path: str, *, metadata: Metadata = ()) -> "Http2Stream":
        """A stream in both directions; returns at once, what goes wrong is raised by `receive`. Use it in `with`."""
        return Http2Stream(self, path, metadata, None)

    def close(self) -> None:
        """End the connection; calls in flight fail with CANCELLED."""
        self._closed = True
        if self._carrier is not None:
            self._carrier.fail("the channel has been closed", StatusCode.CANCELLED)

    async def connected(self) -> Carrier:
        """Raises RpcError."""
        carrier = self._usable()
        if carrier is None:
            carrier = await self._connect(self._attempts)
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        return carrier

    async def _connect(self, attempts: int) -> Carrier:
        async with self._connecting:
            if self._attempts == attempts:
                try:
                    self._carrier, self._failure = Carrier(await self._open()), None
                except RpcError as failure:
                    self._failure = failure
                self._attempts += 1
            # Else another call has tried meanwhile, and its outcome is ours.
        if self._failure is not None:
            raise RpcError(self._failure.code, self._failure.details)
        if self._closed:
            self.close()
        assert self._carrier is not None  # noqa: S101 - made above, or there is a failure
        if (broken := self._carrier.broken) is not None:
            raise RpcError(broken.code, f"{wire.NOT_CONNECTED} {self._where}: {broken.details}")
        return self._carrier

    def _usable(self) -> Carrier | None:
        carrier = self._carrier
        if carrier is not None and carrier.broken is None:
            carrier.look()
        return carrier if carrier is not None and carrier.broken is None else None

    async def _open(self) -> socket.socket:
        if self._closed:
            raise RpcError(StatusCode.CANCELLED, "the channel has been closed")
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                return await open_socket(self._target, self._context)
        except trio.TooSlowError:
            why = f"no answer within {CONNECT_TIMEOUT_S:g} s"
        except ssl.SSLError as error:
            why = f"{wire.TLS_FAILED}: {error}"
        except OSError as error:
            why = str(error)
        raise RpcError(StatusCode.UNAVAILABLE, f"{wire.NOT_CONNECTED} {self._where}: {why}")

    @property
    def _where(self) -> str:
        return self._target.path or self._target.authority

    def headers(self, path: str, metadata: Metadata, timeout: float | None) -> list[tuple[str, str]]:
        """Of a request."""
        fields = [
            (":method", "POST"),
            (":scheme", "http" if self._context is None else "https"),
            (":path", path),
            (":authority", self._target.authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        if timeout is not None:
            fields.append(("grpc-timeout", wire.timeout_field(timeout)))
        return [*fields, *((name, value if isinstance(value, str) else value.decode()) for name, value in metadata)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Http2Stream:
    """One call. One task receives; any tasks send. Leaving `with` (or `close`) cancels it at the server."""

    def __init__(self, channel: Http2Channel, path: str, metadata: Metadata, timeout: float | None) -> None:
        self._channel = channel
        self._request = (path, metadata, timeout)
        self._carrier: Carrier | None = None
        self._number = 0
        self._opening = trio.Lock()
        self._reader = wire.Messages(channel.max_message)
        self._messages: deque[bytes] = deque()
        self._held = 0
        self._withheld = 0
        self._end: RpcError | trio.EndOfChannel | trio.ClosedResourceError | None = None
        self._sent_all = False
        self._heard_all = False
        self._sending = trio.Lock()
        self._receiving = False
        self._hand_on: Callable[[bytes], None] | None = None
        """What gets each message at once; None: they wait for `receive`."""
        self._fault: Exception | None = None
        """What that has raised."""

    # -- for its user

    async def send(self, payload: bytes) -> None:
        """Returns when it is on its way. Raises trio.BrokenResourceError when the stream has ended (`receive` says
        why)."""
        try:
            await self._open()
        except RpcError as error:
            self.fail(error)
        await self._send(wire.framed(payload), last=False)

    async def send_last(self, payload: bytes) -> None:
        """The only message; what goes wrong is raised by `receive`."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self._send(wire.framed(payload), last=True)

    async def receive(self) -> list[bytes]:
        """All messages that have arrived, at least one, in order.

        Raises trio.EndOfChannel when the server ended the stream with OK, RpcError when with anything else,
        trio.ClosedResourceError after `close`.
        """
        await self._receive_until(self._heard)
        if not self._messages:
            assert self._end is not None  # noqa: S101 - `_heard` says so
            raise self._end
        return self._taken()

    async def each(self, take: Callable[[bytes], None]) -> NoReturn:
        """`take` gets every message as it is read, by whatever task reads: the way to another one costs more than most
        messages do. It must not wait.

        Raises at the end as `receive` does, and what `take` raises, after which it gets nothing more.
        """
        await self._receive_until(lambda: self._end is not None, take)
        if self._fault is not None:
            raise self._fault
        assert self._end is not None  # noqa: S101 - that was waited for
        raise self._end

    async def only_message(self) -> bytes:
        """The one response. Raises RpcError."""
        found: list[bytes] = []
        try:
            while True:
                found += await self.receive()
        except trio.EndOfChannel:
            pass
        if len(found) != 1:
            raise RpcError(StatusCode.INTERNAL, f"expected one message, got {len(found)}")
        return found[0]

    def close(self) -> None:
        """Cancel the stream; safe to call twice."""
        self._finish(trio.ClosedResourceError("this stream has been closed"))
        if self._carrier is not None:
            self._carrier.end(self._number, cancel=not (self._sent_all and self._heard_all))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside

    async def _receive_until(self, ready: Callable[[], bool], take: Callable[[bytes], None] | None = None) -> None:
        if self._receiving:
            raise trio.BusyResourceError("another task is already receiving from this stream")
        self._receiving, self._hand_on = True, take
        try:
            if take is not None:
                self._hand_over(self._taken())
            await trio.lowlevel.checkpoint()
            if self._carrier is None:
                await self._open()
            if self._carrier is not None:
                await self._carrier.wait(ready)
        finally:
            self._receiving, self._hand_on = False, None

    def _taken(self) -> list[bytes]:
        found = list(self._messages)
        self._messages.clear()
        self._held = 0
        self._release()
        return found

    async def _open(self) -> None:
        """Raises RpcError."""
        async with self._opening:
            if self._carrier is None and self._end is None:
                carrier = await self._channel.connected()
                if self._end is None:
                    self.attach(carrier)

    def attach(self, carrier: Carrier) -> None:
        """Begin on this connection. Raises RpcError."""
        self._number = carrier.begin(self._channel.headers(*self._request), self)
        self._carrier = carrier

    def _heard(self) -> bool:
        return bool(self._messages) or self._end is not None

    def _room(self) -> int:
        if self._carrier is None or self._end is not None:
            return 0
        try:
            window = self._carrier.h2.local_flow_control_window(self._number)
        except h2.exceptions.ProtocolError:
            return 0
        return min(window, self._carrier.h2.max_outbound_frame_size)

    async def _send(self, rest: bytes, *, last: bool) -> None:
        async with self._sending:
            while rest:
                carrier = self._carrier
                if self._end is not None or carrier is None:
                    raise trio.BrokenResourceError("this stream has ended: nothing more can be sent on it")
                room = self._room()
                if room <= 0:
                    await carrier.wait(lambda: self._end is not None or self._room() > 0)
                    continue
                now, rest = rest[:room], rest[room:]
                self._sent_all = last and not rest
                try:
                    carrier.h2.send_data(self._number, now, end_stream=self._sent_all)
                except h2.exceptions.ProtocolError as error:
                    self.fail(RpcError(StatusCode.UNAVAILABLE, f"the stream has ended: {error}"))
                await carrier.flushed()

    def _release(self) -> None:
        count, self._withheld = self._withheld, 0
        if self._carrier is not None:
            self._carrier.release(self._number, count)

    # -- for the carrier

    def take(self, event: h2.events.Event) -> None:
        """What the server says."""
        match event:
            case h2.events.DataReceived():
                self._take_data(event.data or b"", event.flow_controlled_length or 0)
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                self._take_headers({str(name): str(value) for name, value in event.headers or []})
            case h2.events.StreamReset():
                self._sent_all = self._heard_all = True
                self.fail(wire.reset(int(event.error_code or 0)))
            case h2.events.StreamEnded():
                self._heard_all = True
                self.fail(RpcError(StatusCode.UNKNOWN, "the server ended the call without a status"))

    def _take_data(self, data: bytes, counted: int) -> None:
        self._withheld += counted
        if self._end is None:
            try:
                messages = self._reader.feed(data)
            except RpcAbort as abort:
                self.fail(RpcError(abort.code, abort.message))
                return
            if self._hand_on is not None:
                self._hand_over(messages)
            else:
                self._messages += messages
                self._held += sum(map(len, messages))
        if self._held < HELD_BYTES:
            self._release()

    def _hand_over(self, messages: list[bytes]) -> None:
        """What goes wrong is for the task of `each`, not for the one that happens to read."""
        for message in messages:
            if self._hand_on is None:
                return
            try:
                self._hand_on(message)
            except Exception as fault:
                self._hand_on, self._fault = None, fault
                self._finish(trio.ClosedResourceError("what took its messages has failed"))

    def _take_headers(self, fields: dict[str, str]) -> None:
        if fields.get(":status", "200") != "200":
            self.fail(RpcError(StatusCode.UNAVAILABLE, f"the server answers with HTTP status {fields[':status']}"))
        elif (status := fields.get("grpc-status")) is not None:
            end = wire.outcome(status, fields.get("grpc-message", ""))
            self._finish(trio.EndOfChannel() if end is None else end)

    def fail(self, error: RpcError) -> None:
        """It is over; the first reason counts."""
        self._finish(error)

    def _finish(self, end: RpcError | trio.EndOfChannel | trio.ClosedResourceError) -> None:
        if self._end is None:
            self._end = end
            self._release()
            if self._carrier is not None:
                self._carrier.wake()
