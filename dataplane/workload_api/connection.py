"""[edge] One connection: HTTP/2 by `h2`, gRPC's calls on it.

One task reads, one writes, one serves each call; whoever has something to say waits until the client has taken it, the
reader too, so nothing piles up here.
"""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from dataplane.workload_api import wire
from dataplane.workload_api.callers import Facts
from dataplane.workload_api.limits import Limits
from dataplane.workload_api.peer import Doubt, Peer
from trio_grpc import RpcAbort, StatusCode

_CONFIGURATION = h2.config.H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_outbound_headers=False,  # `wire` makes them, and says what it makes
    normalize_outbound_headers=False,
)
_RECEIVE_BYTES = 64 * 1024
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `peer`: the attested process; the text of the doubt where there is one. `send`: one message."""

    request: wire.Request
    message: bytes
    peer: Peer | Doubt
    send: Callable[[bytes], Awaitable[None]]


Handler = Callable[[Call], Awaitable[None]]
"""Serves one call; on return it has ended well, with RpcAbort as that says."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """knows: whether somebody is served at all. hash_decides: whether it takes the hash of the executable to know.

    on_error: gets what is a fault of ours.
    """

    socket: Path
    handler: Handler
    knows: Callable[[Facts], bool]
    hash_decides: Callable[[Facts], bool]
    on_error: Callable[[str, Exception], None]
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class Usage:
    """How much of a server is in use, by uid; `strangers`: connections of whom we don't know."""

    connections: Counter[int] = field(default_factory=Counter)
    strangers: int = 0
    streams: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True, eq=False)
class _Stream:
    """One call on a connection."""

    request: wire.Request
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    body: bytearray = field(default_factory=bytearray)
    complete: trio.Event = field(default_factory=trio.Event)
    room: trio.Event = field(default_factory=trio.Event)
    """Set when the client has opened its window."""
    answered: bool = False
    """Response headers are out."""
    cut_short: RpcAbort = field(default_factory=lambda: RpcAbort(StatusCode.CANCELLED, "the call was taken back"))
    """What its end is when the scope is cancelled."""


class Connection:
    """One client. `usage` is shared by all connections of a server."""

    def __init__(
        self, stream: trio.SocketStream, uid: int, peer: Peer | Doubt, settings: ServerSettings, usage: Usage
    ) -> None:
        self._stream = stream
        self._uid = uid
        self._peer = peer
        self._settings = settings
        self._limits = settings.limits
        self._usage = usage
        self._h2 = h2.connection.H2Connection(_CONFIGURATION)
        self._h2.decoder.max_header_list_size = self._limits.header_bytes
        self._streams: dict[int, _Stream] = {}
        self._patience = trio.CancelScope(deadline=trio.current_time() + self._limits.handshake)
        self._greeted = False
        self._unsent, self._flushed = trio.Event(), trio.Event()
        self._resets = 0
        self._answered = 0

    async def run(self) -> None:
        """Until either side closes it, the peer ends, or a limit is passed."""
        try:
            async with trio.open_nursery() as nursery:
                if isinstance(self._peer, Peer):
                    nursery.start_soon(self._end_with_peer, self._peer, nursery.cancel_scope)
                nursery.start_soon(self._write)
                with self._patience:
                    code = await self._read(nursery)
                if self._patience.cancelled_caught:
                    code = ErrorCodes.NO_ERROR
                if code is not None:
                    self._h2.close_connection(code)
                    await self._flush()
                nursery.cancel_scope.cancel()
        except* _GONE:
            pass

    async def _end_with_peer(self, peer: Peer, scope: trio.CancelScope) -> None:
        """Whoever has inherited the connection was not attested."""
        await peer.wait_ended()
        scope.cancel()

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
        await self._flush()
        while data := await self._stream.receive_some(_RECEIVE_BYTES):
            try:
                events = self._h2.receive_data(data)
            except h2.exceptions.ProtocolError:
                await self._flush()  # h2 has its GOAWAY ready
                return None
            for event in events:
                with contextlib.suppress(h2.exceptions.ProtocolError):  # about a call that is taken back further on
                    self._take(event, nursery)
            if self._resets > self._limits.resets + self._answered:
                return ErrorCodes.ENHANCE_YOUR_CALM
            await self._flush()
        return None

    def _take(self, event: h2.events.Event, nursery: trio.Nursery) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=int(stream_id)):
                self._open(stream_id, event.headers or [], nursery)
            case h2.events.DataReceived(stream_id=int(stream_id)):
                self._receive(stream_id, event.data or b"", event.flow_controlled_length or 0)
            case h2.events.StreamEnded(stream_id=int(stream_id)):
                if stream := self._streams.get(stream_id):
                    stream.complete.set()
            case h2.events.StreamReset(stream_id=int(stream_id)):
                self._resets += 1
                if stream := self._streams.get(stream_id):
                    stream.scope.cancel()
            case h2.events.WindowUpdated():
                self._look_for_room()
            case h2.events.RemoteSettingsChanged():
                self._greeted = True
                self._be_patient()
                self._look_for_room()

    def _open(self, stream_id: int, headers: wire.RawHeaders, nursery: trio.Nursery) -> None:
        try:
            request = wire.request_of(headers)
        except wire.NotGrpc as error:
            self._h2.send_headers(stream_id, [(b":status", str(error.status).encode())], end_stream=True)
            return
        except RpcAbort as abort:
            self._refuse(stream_id, abort)
            return
        if len(self._streams) >= self._limits.streams_per_connection:
            # Before it has seen our settings a client may open more: it knows that nothing was done, and tries again.
            self._h2.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        if self._usage.streams[self._uid] >= self._limits.streams_per_uid:
            self._refuse(stream_id, RpcAbort(StatusCode.RESOURCE_EXHAUSTED, "too many calls of this user at once"))
            return
        self._streams[stream_id] = stream = _Stream(request)
        self._count_streams(1)
        self._be_patient()
        nursery.start_soon(self._run_call, stream_id, stream)

    def _refuse(self, stream_id: int, abort: RpcAbort) -> None:
        self._h2.send_headers(stream_id, [*wire.RESPONSE_HEADERS, *wire.trailers(abort)], end_stream=True)
        self._h2.reset_stream(stream_id, ErrorCodes.NO_ERROR)  # RFC 9113, 8.1: the rest of the request is unwanted

    def _receive(self, stream_id: int, data: bytes, counted: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.scope.cancel_called:
            stream.body += data
            if len(stream.body) > self._limits.request_bytes:
                stream.body.clear()
                limit = f"a request may have {self._limits.request_bytes} bytes"
                stream.cut_short = RpcAbort(StatusCode.RESOURCE_EXHAUSTED, limit)
                stream.scope.cancel()
        if counted:
            self._h2.acknowledge_received_data(counted, stream_id)

    def _look_for_room(self) -> None:
        for stream in self._streams.values():
            stream.room.set()

    def _be_patient(self) -> None:
        """Set for how long nothing may come."""
        if self._greeted:
            idle = trio.current_time() + self._limits.idle
            self._patience.deadline = float("inf") if self._streams else idle

    def _count_streams(self, more: int) -> None:
        self._usage.streams[self._uid] += more
        if not self._usage.streams[self._uid]:
            del self._usage.streams[self._uid]

    # -- one call

    async def _run_call(self, stream_id: int, stream: _Stream) -> None:
        abort: RpcAbort | None = None
        try:
            with stream.scope:
                abort = await self._call(stream_id, stream)
            if stream.scope.cancelled_caught:
                abort = stream.cut_short
            self._end(stream_id, stream, abort)
            self._answered += 1
        except h2.exceptions.ProtocolError:
            pass  # the call was taken back: there is nobody to tell
        finally:
            del self._streams[stream_id]
            self._count_streams(-1)
            self._be_patient()

    async def _call(self, stream_id: int, stream: _Stream) -> RpcAbort | None:
        async def send(message: bytes) -> None:
            await self._send_message(stream_id, stream, message)

        timeout = stream.request.timeout
        try:
            with trio.move_on_after(float("inf") if timeout is None else timeout) as waits:
                with trio.move_on_after(self._limits.request):
                    await stream.complete.wait()
                if not stream.complete.is_set():
                    return RpcAbort(StatusCode.DEADLINE_EXCEEDED, "the request did not come to an end")
                message = wire.only_message(bytes(stream.body))
                stream.body.clear()
                await self._settings.handler(Call(stream.request, message, self._peer, send))
            if waits.cancelled_caught:
                return RpcAbort(StatusCode.DEADLINE_EXCEEDED, "the caller's time is over")
        except RpcAbort as abort:
            return abort
        except h2.exceptions.ProtocolError:
            raise
        except Exception as error:  # the boundary: no call may take the agent down
            self._settings.on_error(stream.request.path, error)
            return RpcAbort(StatusCode.INTERNAL, "internal error; it has been reported in the agent's log")
        return None

    # -- writing

    async def _send_message(self, stream_id: int, stream: _Stream, message: bytes) -> None:
        if not stream.answered:
            self._h2.send_headers(stream_id, wire.RESPONSE_HEADERS)
            stream.answered = True
        rest = wire.framed(message)
        while rest:
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room > 0:
                self._h2.send_data(stream_id, rest[:room])
                rest = rest[room:]
                await self._flush()
                continue
            stream.room = trio.Event()
            with trio.move_on_after(self._limits.send) as waits:
                await stream.room.wait()
            if waits.cancelled_caught:
                raise RpcAbort(StatusCode.CANCELLED, "the client takes nothing")

    def _end(self, stream_id: int, stream: _Stream, abort: RpcAbort | None) -> None:
        """Does not wait: a client that has seen the end may begin another call, and this one must not count by then."""
        last = wire.trailers(abort)
        headers = last if stream.answered else [*wire.RESPONSE_HEADERS, *last]
        self._h2.send_headers(stream_id, headers, end_stream=True)
        if not stream.complete.is_set():
            self._h2.reset_stream(stream_id, ErrorCodes.NO_ERROR)  # RFC 9113, 8.1: the rest of the request is unwanted
        self._unsent.set()

    async def _flush(self) -> None:
        """Returns when all that there is to send has been taken."""
        flushed = self._flushed
        self._unsent.set()
        await flushed.wait()

    async def _write(self) -> None:
        """The one task that writes: a call that is taken back half-way through must not cut a frame in two."""
        while True:
            await self._unsent.wait()
            self._unsent = trio.Event()
            while data := self._h2.data_to_send():
                with trio.move_on_after(self._limits.send) as waits:
                    await self._stream.send_all(data)
                if waits.cancelled_caught:
                    raise trio.BrokenResourceError("the client takes nothing")
            flushed, self._flushed = self._flushed, trio.Event()
            flushed.set()
