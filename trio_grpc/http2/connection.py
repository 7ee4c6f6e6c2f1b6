"""One client's connection: HTTP/2 by `h2`, gRPC's calls on it.

One task reads, one serves each call. Whoever has something to say writes it, as far as the socket takes it at once; a
third task writes the rest. The reader reads no further before that, so nothing piles up here.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio
from grpc import StatusCode
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from trio_grpc.errors import RpcAbort, find_abort

from . import wire
from .call import Call, Handler
from .limits import Limits

_RECEIVE_BYTES = 64 * 1024
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


@dataclass(slots=True)
class Usage:
    """How much of a server is in use, by uid."""

    connections: Counter[int] = field(default_factory=Counter)
    streams: Counter[int] = field(default_factory=Counter)


class Connection:
    """`usage` is shared by all connections of a server. on_error: gets the path and what is a fault of ours."""

    def __init__(
        self,
        socket: trio.socket.SocketType,
        uid: int,
        handler: Handler,
        limits: Limits,
        usage: Usage,
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self._socket = socket
        self._uid = uid
        self._handler = handler
        self._limits = limits
        self._usage = usage
        self._on_error = on_error
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self._h2.decoder.max_header_list_size = limits.header_bytes
        self._calls: dict[int, Call] = {}
        self._patience = trio.CancelScope(deadline=trio.current_time() + limits.handshake)
        self._greeted = False
        self._unwritten = bytearray()
        self._full, self._written = trio.Event(), trio.Event()
        self._resets = 0
        self._served = 0

    async def run(self) -> None:
        """Until either side closes it, or a limit is passed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                with self._patience:
                    code = await self._read(nursery)
                if self._patience.cancelled_caught:
                    code = ErrorCodes.NO_ERROR
                if code is not None:
                    self._h2.close_connection(code)
                    await self.flushed()
                nursery.cancel_scope.cancel()
        except* _GONE:
            pass

    # -- reading

    async def _read(self, nursery: trio.Nursery) -> ErrorCodes | None:
        """Until there is nothing more to read; the code to say goodbye with, None where that was done or is useless."""
        self._h2.initiate_connection()
        self._h2.update_settings(
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: self._limits.streams_per_connection,
                SettingCodes.MAX_HEADER_LIST_SIZE: self._limits.header_bytes,
            }
        )
        await self.flushed()
        while data := await self._socket.recv(_RECEIVE_BYTES):
            try:
                events = self._h2.receive_data(data)
            except h2.exceptions.ProtocolError:
                await self.flushed()  # h2 has its GOAWAY ready
                return None
            for event in events:
                with contextlib.suppress(h2.exceptions.ProtocolError):  # about a call that is taken back further on
                    self._take(event, nursery)
            if self._resets > self._limits.resets + self._served:
                return ErrorCodes.ENHANCE_YOUR_CALM
            self._push()
            if self._unwritten:
                await self.flushed()
        return None

    def _take(self, event: h2.events.Event, nursery: trio.Nursery) -> None:
        match event:
            case h2.events.DataReceived(stream_id=int(number)):
                counted = event.flow_controlled_length or 0
                if call := self._calls.get(number):
                    call.take_data(event.data or b"", counted)
                elif counted:
                    self._h2.acknowledge_received_data(counted, number)
            case h2.events.RequestReceived(stream_id=int(number)):
                self._open(number, event.headers or [], nursery)
            case h2.events.StreamEnded(stream_id=int(number)):
                if call := self._calls.get(number):
                    call.take_end()
            case h2.events.StreamReset(stream_id=int(number)):
                self._resets += 1
                if call := self._calls.get(number):
                    call.lose()
            case h2.events.WindowUpdated():
                self._look_for_room()
            case h2.events.RemoteSettingsChanged():
                self._greeted = True
                self._be_patient()
                self._look_for_room()

    def _open(self, number: int, headers: wire.RawHeaders, nursery: trio.Nursery) -> None:
        try:
            request = wire.request_of(headers)
        except wire.NotGrpc as error:
            self._h2.send_headers(number, [(b":status", str(error.status).encode())], end_stream=True)
            return
        except RpcAbort as abort:
            self._refuse(number, abort)
            return
        if len(self._calls) >= self._limits.streams_per_connection:
            # Before it has seen our settings a client may open more: it knows that nothing was done, and tries again.
            self._h2.reset_stream(number, ErrorCodes.REFUSED_STREAM)
            return
        if self._usage.streams[self._uid] >= self._limits.streams_per_uid:
            self._refuse(number, RpcAbort(StatusCode.RESOURCE_EXHAUSTED, "too many calls of this user at once"))
            return
        self._calls[number] = call = Call(number, request, self._limits, self)
        self._count_streams(1)
        self._be_patient()
        nursery.start_soon(self._run_call, call)

    def _refuse(self, number: int, abort: RpcAbort) -> None:
        self._h2.send_headers(number, [*wire.RESPONSE_HEADERS, *wire.trailers(abort)], end_stream=True)
        self._h2.reset_stream(number, ErrorCodes.NO_ERROR)  # RFC 9113, 8.1: the rest of the request is unwanted

    def _look_for_room(self) -> None:
        for call in self._calls.values():
            if call.unsent:
                self.transmit(call)

    def _be_patient(self) -> None:
        """Set for how long nothing may come."""
        if self._greeted:
            idle = trio.current_time() + self._limits.idle
            self._patience.deadline = float("inf") if self._calls else idle

    def _count_streams(self, more: int) -> None:
        self._usage.streams[self._uid] += more
        if not self._usage.streams[self._uid]:
            del self._usage.streams[self._uid]

    # -- one call

    async def _run_call(self, call: Call) -> None:
        abort: RpcAbort | None = None
        try:
            with call.scope:
                abort = await self._serve(call)
            if call.scope.cancelled_caught:
                abort = call.cut_short
            if not call.gone:
                await self._end(call, abort)
                self._served += 1
        finally:
            del self._calls[call.number]
            call.release_all()
            self._count_streams(-1)
            self._be_patient()

    async def _serve(self, call: Call) -> RpcAbort | None:
        timeout = call.request.timeout
        try:
            with trio.move_on_after(float("inf") if timeout is None else timeout) as waits:
                await self._handler(call)
                await call.drained()
            if waits.cancelled_caught:
                return RpcAbort(StatusCode.DEADLINE_EXCEEDED, "the caller's time is over")
        except Exception as error:  # the boundary: no call may take the server down
            abort = find_abort(error)
            if abort is None:
                if not call.gone:
                    self._on_error(call.request.path, error)
                abort = RpcAbort(StatusCode.INTERNAL, "internal error; it has been reported in the server's log")
            return abort
        return None

    async def _end(self, call: Call, abort: RpcAbort | None) -> None:
        last = wire.trailers(abort)
        headers = last if call.answered else [*wire.RESPONSE_HEADERS, *last]
        try:
            self._h2.send_headers(call.number, headers, end_stream=True)
            if not call.ended:
                self._h2.reset_stream(call.number, ErrorCodes.NO_ERROR)  # as in `_refuse`
        except h2.exceptions.ProtocolError:
            return  # the call was taken back: there is nobody to tell
        await self.flushed()

    # -- writing

    def transmit(self, call: Call) -> None:
        """See Port."""
        before = len(call.unsent)
        try:
            if not call.answered:
                self._h2.send_headers(call.number, wire.RESPONSE_HEADERS)
                call.answered = True
            while call.unsent:
                room = min(self._h2.local_flow_control_window(call.number), self._h2.max_outbound_frame_size)
                if room <= 0:
                    break
                self._h2.send_data(call.number, bytes(call.unsent[:room]))
                del call.unsent[:room]
        except h2.exceptions.ProtocolError:  # it was taken back, or the connection is about to end
            call.lose()
            return
        if len(call.unsent) < before:
            call.room_changed()
            self._push()

    def release(self, call: Call, count: int) -> None:
        """See Port."""
        with contextlib.suppress(h2.exceptions.ProtocolError):  # the connection is about to end
            self._h2.acknowledge_received_data(count, call.number)
            self._push()

    async def flushed(self) -> None:
        """See Port."""
        self._push()
        if self._unwritten:
            await self._written.wait()
        else:
            await trio.lowlevel.checkpoint()

    def _push(self) -> None:
        """Write what h2 has to say; what the socket does not take at once is left to the writer."""
        self._unwritten += self._h2.data_to_send()
        if self._unwritten and not self._full.is_set():
            self._write_some()
            if self._unwritten:
                self._written = trio.Event()
                self._full.set()

    def _write_some(self) -> None:
        try:
            del self._unwritten[: os.write(self._socket.fileno(), self._unwritten)]
        except BlockingIOError:
            pass
        except OSError:
            self._unwritten.clear()  # the reader meets the same error, or the end

    async def _write(self) -> None:
        while True:
            await self._full.wait()
            while self._unwritten:
                with trio.move_on_after(self._limits.send) as waits:
                    await trio.lowlevel.wait_writable(self._socket)
                if waits.cancelled_caught:
                    raise trio.BrokenResourceError("the client takes nothing")
                self._write_some()
            self._full = trio.Event()
            self._written.set()
