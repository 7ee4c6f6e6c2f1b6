"""One client connection: HTTP/2 by `h2` on a non-blocking socket, without a task of its own.

Whoever waits for something reads for all: the first becomes the reader, the others sleep until what they wait for has
come, or until the reader has what it wanted and one of them must take over. So the answer to the one caller that there
mostly is wakes that caller, and nobody in between.
"""

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio
from grpc import StatusCode
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from trio_grpc.errors import RpcError

from . import wire

PING_AFTER_S = 10.0  # of silence while somebody waits; etcd forbids pings more often than every 5 s
PING_TIMEOUT_S = 5.0
WINDOW_BYTES = 1 << 20  # of a stream: what may be on its way
_RECORD_BYTES = 16 * 1024  # a TLS record has no more: one read takes the whole of it, and nothing waits in OpenSSL
_RECEIVE_BYTES = 64 * 1024  # of one read; above 128 KiB malloc would map memory for each, and unmap it
_GONE = (OSError, trio.ClosedResourceError)


class Receiver(Protocol):
    """One call on the connection."""

    def take(self, event: h2.events.Event) -> None: ...

    def fail(self, error: RpcError) -> None: ...


class Carrier:
    """`broken` says why it can't be used any more."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.broken: RpcError | None = None
        self._receivers: dict[int, Receiver] = {}
        self._unwritten = bytearray()
        self._writing = trio.Lock()
        self._reading = False
        self._more = True
        """There may be more to read at once: the last read was full."""
        self._followers: dict[trio.Event, Callable[[], bool]] = {}
        self._heard = trio.current_time()
        self._pinged: float | None = None
        self._pause: trio.CancelScope | None = None
        """The reader's wait for the socket."""
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES, SettingCodes.ENABLE_PUSH: 0})
        self.h2.increment_flow_control_window(16 * WINDOW_BYTES)  # one slow stream must not hold up the others
        self.push()

    # -- calls

    def begin(self, headers: list[tuple[str, str]], receiver: Receiver) -> int:
        """The number of the new stream. Raises RpcError."""
        if self.broken is not None:
            raise self.broken
        try:
            number = self.h2.get_next_available_stream_id()
            self.h2.send_headers(number, headers)
        except h2.exceptions.ProtocolError as error:  # too many streams, or no numbers left
            self.fail(f"no more calls on this connection: {error}")
            raise self.broken or RpcError(StatusCode.UNAVAILABLE, str(error)) from None
        self._receivers[number] = receiver
        return number

    def end(self, number: int, *, cancel: bool) -> None:
        """Nothing more is wanted of that stream."""
        if self._receivers.pop(number, None) is not None and cancel and self.broken is None:
            with contextlib.suppress(h2.exceptions.ProtocolError):  # it has ended meanwhile
                self.h2.reset_stream(number, ErrorCodes.CANCEL)
            self.push()

    def release(self, number: int, count: int) -> None:
        """The server may send that many bytes more."""
        if count and self.broken is None:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.h2.acknowledge_received_data(count, number)
            self.push()

    # -- writing

    def push(self) -> None:
        """Write what there is, as far as the socket takes it at once."""
        self._unwritten += self.h2.data_to_send()
        while self._unwritten and self.broken is None:
            try:
                del self._unwritten[: self._socket.send(self._unwritten)]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            except OSError as error:
                while self.broken is None and self.read_nowait():
                    pass  # the server may have said why
                self._lost(error)

    async def flushed(self) -> None:
        """Returns when the socket has taken what there was to write, or is broken."""
        self.push()
        if not self._unwritten:
            return
        async with self._writing:
            while self._unwritten and self.broken is None:
                try:
                    await trio.lowlevel.wait_writable(self._socket)
                except _GONE as error:
                    self._lost(error)
                self.push()

    # -- reading

    async def wait(self, ready: Callable[[], bool]) -> None:
        """Returns when `ready()`: something was read, or `wake` was called. It must be so once `broken` is set."""
        while not ready():
            if self._reading:
                await self._follow(ready)
            else:
                await self._lead(ready)

    async def _lead(self, ready: Callable[[], bool]) -> None:
        self._reading = True
        try:
            while not ready():
                if self._unwritten:
                    await self.flushed()
                await self._read()
                self._wake_followers()
        finally:
            self._reading = False
            self._hand_over()

    async def _follow(self, ready: Callable[[], bool]) -> None:
        event = trio.Event()
        self._followers[event] = ready
        try:
            await event.wait()
        except BaseException:
            del self._followers[event]
            if not self._reading:  # it was told to read, and won't
                self._hand_over()
            raise
        del self._followers[event]

    def _wake_followers(self) -> None:
        for event, ready in self._followers.items():
            if ready():
                event.set()

    def wake(self) -> None:
        """Something has happened that was not read: whoever waits looks again."""
        self._wake_followers()
        if self._pause is not None:
            self._pause.cancel()

    def look(self) -> None:
        """Find out whether it is broken, before it is used: there may have been nobody to read."""
        while not self._reading and self.broken is None and self.read_nowait():
            self._wake_followers()

    def _hand_over(self) -> None:
        for event in self._followers:
            if not event.is_set():
                event.set()
                return

    async def _read(self) -> None:
        """Take what comes next, or find out that nothing does; returns without either when woken."""
        if self.broken is not None or (self._more and self.read_nowait()):
            return
        due = self._heard + PING_AFTER_S if self._pinged is None else self._pinged + PING_TIMEOUT_S
        with trio.move_on_at(due) as self._pause:
            try:
                await trio.lowlevel.wait_readable(self._socket)
            except _GONE as error:
                self._lost(error)
        self._pause = None
        if trio.current_time() >= due:
            self._silent()
        else:
            self.read_nowait()

    def _silent(self) -> None:
        if self.read_nowait():
            return
        if self._pinged is not None:
            self.fail(f"no answer to a ping within {PING_TIMEOUT_S:g} s")
            return
        self._pinged = trio.current_time()
        self.h2.ping(b"alive???")
        self.push()

    def read_nowait(self) -> bool:
        """Take what has come; False: nothing has."""
        if self.broken is not None:
            return True
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._more = False
            return False
        except OSError as error:
            self._lost(error)
            return True
        self._more = len(data) >= _RECORD_BYTES
        if not data:
            self.fail("the server has closed the connection")
            return True
        self._heard, self._pinged = trio.current_time(), None
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.push()
            self.fail(f"the server breaks HTTP/2: {error}")
            return True
        for event in events:
            if isinstance(event, h2.events.ConnectionTerminated):
                self.fail(f"the server sends us away: {event.additional_data!r}")
                return True
            number = getattr(event, "stream_id", 0)
            receiver = self._receivers.get(number)
            if receiver is not None:
                receiver.take(event)
            elif isinstance(event, h2.events.DataReceived):
                self.release(number, event.flow_controlled_length or 0)
        self.push()
        return True

    # -- the end

    def _lost(self, error: Exception) -> None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            self.fail(f"{wire.TLS_FAILED}: {error}")
        else:
            self.fail(f"the connection is lost: {error}")

    def fail(self, text: str, code: StatusCode = StatusCode.UNAVAILABLE) -> None:
        """The connection is of no use any more; so are all calls on it."""
        if self.broken is not None:
            return
        self.broken = RpcError(code, text)
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        for receiver in list(self._receivers.values()):
            receiver.fail(RpcError(code, text))
        self._receivers.clear()
        self._wake_followers()
