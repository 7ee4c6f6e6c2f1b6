"""One call at the server: what has come and is not taken yet, what is said and not sent yet."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio
from grpc import StatusCode

from trio_grpc.errors import RpcAbort

from . import wire
from .limits import Limits


class Port(Protocol):
    """What a call needs of its connection."""

    def transmit(self, call: "Call") -> None:
        """Send what its flow control allows, as far as the socket takes it at once."""

    async def flushed(self) -> None:
        """Returns when the socket has taken what there was to send. Raises trio.BrokenResourceError."""

    def release(self, call: "Call", count: int) -> None:
        """The client may send that many bytes more."""


class Call:
    """For its handler: `request`, `receive`, `send`. All else is for the connection."""

    def __init__(self, number: int, request: wire.Request, limits: Limits, port: Port) -> None:
        self.number = number
        """HTTP/2's stream id."""
        self.request = request
        self.scope = trio.CancelScope()
        self.unsent = bytearray()
        self.answered = False
        """Response headers are out."""
        self.gone = False
        """There is nobody to tell anything."""
        self.cut_short = RpcAbort(StatusCode.CANCELLED, "the call was taken back")
        """What its end is when the scope is cancelled."""
        self.ended = False
        """The client has said all."""
        self._limits = limits
        self._port = port
        self._reader = wire.Messages(limits.message_bytes)
        self._messages: deque[bytes] = deque()
        self._arrived = trio.Event()
        self._room = trio.Event()
        self._withheld = 0

    # -- for its handler

    async def receive(self) -> bytes:
        """The next message. Raises trio.EndOfChannel when the client has said all."""
        if self._messages:
            await trio.lowlevel.checkpoint()
        while not self._messages:
            if self.ended:
                raise trio.EndOfChannel
            self._arrived = trio.Event()
            await self._arrived.wait()
        message = self._messages.popleft()
        if self._withheld and len(self._messages) < self._limits.messages:
            self.release_all()
        return message

    async def only_message(self, timeout: float) -> bytes:
        """The one message of a request that is no stream, within so many seconds. Raises RpcAbort."""
        message: bytes | None = None
        with trio.move_on_after(timeout) as waits:
            try:
                message = await self.receive()
                await self.receive()
                message = None  # there is a second one
            except trio.EndOfChannel:
                pass
        if waits.cancelled_caught:
            raise RpcAbort(StatusCode.DEADLINE_EXCEEDED, "the request did not come to an end")
        if message is None:
            raise RpcAbort(StatusCode.INVALID_ARGUMENT, "expected exactly one message")
        return message

    async def send(self, message: bytes) -> None:
        """Returns when the client has taken it. Raises trio.BrokenResourceError when it is gone, RpcAbort when it takes
        nothing for too long."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.send_nowait(message)
        await self.drained()

    def send_nowait(self, message: bytes) -> None:
        """Queue it, without bound, and send what can be sent at once. Raises trio.BrokenResourceError."""
        if self.gone or self.scope.cancel_called:
            raise trio.BrokenResourceError("the call has ended: nothing more can be sent")
        self.unsent += wire.framed(message)
        self._port.transmit(self)

    async def drained(self) -> None:
        """Returns when the client has taken all. Raises as `send` does."""
        while self.unsent:
            if self.gone:
                raise trio.BrokenResourceError("the client is gone")
            self._room = trio.Event()
            with trio.move_on_after(self._limits.send) as waits:
                await self._room.wait()
            if waits.cancelled_caught:
                raise RpcAbort(StatusCode.CANCELLED, "the client takes nothing")
        await self._port.flushed()

    # -- for its connection

    def take_data(self, data: bytes, counted: int) -> None:
        """`counted`: what flow control makes of it."""
        self._withheld += counted
        if self.scope.cancel_called:
            self.release_all()
            return
        try:
            self._messages += self._reader.feed(data)
        except RpcAbort as abort:
            self.cut(abort)
        if self._messages:
            self._arrived.set()
        if len(self._messages) < self._limits.messages:
            self.release_all()

    def take_end(self) -> None:
        self.ended = True
        if not self._reader.whole:
            self.cut(RpcAbort(StatusCode.INVALID_ARGUMENT, "the request ends within a message"))
        self._arrived.set()

    def cut(self, abort: RpcAbort) -> None:
        """Its handler is cancelled; what the client is told is `abort`."""
        self.cut_short = abort
        self._messages.clear()
        self.scope.cancel()
        self.release_all()

    def lose(self) -> None:
        """The client has taken it back, or can't be reached."""
        self.gone = True
        self.unsent.clear()
        self.room_changed()
        self.scope.cancel()

    def room_changed(self) -> None:
        """Some of what was unsent is not any more."""
        self._room.set()

    def release_all(self) -> None:
        count, self._withheld = self._withheld, 0
        if count:
            self._port.release(self, count)


Handler = Callable[[Call], Awaitable[None]]
"""Serves one call; on return it has ended well, with RpcAbort as that says."""
