"""[edge] The ADS server of one sidecar: delta for its Envoy, state of the world for gRPC's own clients.

    AdsServer.update ──▶ table ──▶ every stream's session ──▶ its responses ──▶ client
    client's request ──▶ its session ──▶ responses; then acks and NACKs ──▶ AdsServer.changed

One Unix socket in a directory that only its owner may enter: what is served holds private keys.
"""

import contextlib
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from dataplane.ads.delta import DeltaSession
from dataplane.ads.session import Session
from dataplane.ads.sotw import SotwSession
from dataplane.ads.table import ResourceTable
from dataplane.compile.resources import Update
from schemas.records import Nack
from trio_grpc import RpcAbort, StatusCode
from trio_grpc.http2 import Call, Connection, Limits, Usage, open_unix_server

SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
ACCESS_LOGS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
DELTA, SOTW = SERVICE + "DeltaAggregatedResources", SERVICE + "StreamAggregatedResources"

PATIENCE_S = 5.0
"""How long updates are held back without any progress, for a cluster that does not get warm or a subscription that
does not come. Either takes milliseconds; Envoy's own wait for a resource (initial_fetch_timeout) is 15 s."""

LIMITS = Limits(
    # A reconnecting Envoy lists every resource that it holds, some 100 bytes each: gRPC's 4 MiB would end at 40,000.
    message_bytes=64 << 20,
    # An Envoy that takes in a large configuration reads nothing meanwhile.
    send=120.0,
)


@dataclass(frozen=True, slots=True)
class AckState:
    """What Envoy made of what it was sent, as last known."""

    connected: bool = False
    acked_revision: int = 0
    """The newest revision whose every consequence Envoy has acked; 0: none. After a reconnect it starts again."""
    nacks: tuple[Nack, ...] = ()
    secrets_current: bool = False
    """Envoy presents the newest SVID and trusts by the newest bundle, wherever it uses them."""
    held_requests: frozenset[str] = frozenset()
    """Names of clusters that don't exist and that requests wait for."""
    acked_sequence: int = 0
    """While there are such, or somebody follows it: the newest update, as `AdsServer.update` counts, whose every
    consequence is acked. Else 0: it would be news at each update."""


OnReport = Callable[[str, als_pb2.StreamAccessLogsMessage], None]


@dataclass(eq=False, slots=True)
class _Stream:
    session: Session[Any, Any]
    call: Call
    nursery: trio.Nursery
    node: str = ""
    held_back: int | None = None
    """The session's `held_back_since`, and the time since when it is the same."""
    held_back_at: float = 0.0
    timer_runs: bool = False


class AdsServer:
    """Made by `open_ads_server`. All methods are for trio's thread."""

    def __init__(self, envoy_node: str, on_report: OnReport) -> None:
        self._envoy_node = envoy_node
        self._on_report = on_report
        self._table = ResourceTable()
        self._streams: set[_Stream] = set()
        self._envoy: _Stream | None = None
        self._state = AckState()
        self._changed = trio.Event()
        self._followers = 0

    def update(self, update: Update) -> int:
        """Take a new desired state and send what follows from it, at once; never blocks. Which update it was: the first
        is 1."""
        change = self._table.apply(update)
        for stream in list(self._streams):
            self._send(stream, stream.session.on_update(change))
        self._publish()
        return self._table.sequence

    @property
    def state(self) -> AckState:
        """Envoy's acks and NACKs."""
        return self._state

    @property
    def acked_revision(self) -> int:
        return self._state.acked_revision

    @property
    def nacks(self) -> tuple[Nack, ...]:
        return self._state.nacks

    @property
    def sessions(self) -> int:
        """Streams that are open, Envoy's included."""
        return len(self._streams)

    @contextmanager
    def following_sequence(self) -> Iterator[None]:
        """`state` tells `acked_sequence` inside."""
        self._followers += 1
        self._publish()
        try:
            yield
        finally:
            self._followers -= 1
            self._publish()

    async def changed(self) -> AckState:
        """Wait until `state` differs from what it is now. Nothing is missed if no await lies between reading `state`
        and calling this."""
        await self._changed.wait()
        return self._state

    async def serve(self, call: Call) -> None:
        """One stream, for as long as the client likes. Raises RpcAbort."""
        if call.request.path == DELTA:
            await self._serve(call, DeltaSession(self._table), discovery_pb2.DeltaDiscoveryRequest)
        elif call.request.path == SOTW:
            await self._serve(call, SotwSession(self._table), discovery_pb2.DiscoveryRequest)
        elif call.request.path == ACCESS_LOGS:
            await self._hear(call)
        else:
            raise RpcAbort(StatusCode.UNIMPLEMENTED, "only aggregated discovery and access logs are served here")

    async def _hear(self, call: Call) -> None:
        """Access logs that Envoy sends, for as long as it likes."""
        name = ""
        with contextlib.suppress(trio.EndOfChannel):
            while True:
                report = _decoded(als_pb2.StreamAccessLogsMessage, await call.receive())
                name = report.identifier.log_name or name  # the first message of a call says it for all
                self._on_report(name, report)

    async def _serve(self, call: Call, session: Session[Any, Any], kind: type[Any]) -> None:
        async with trio.open_nursery() as nursery:
            stream = _Stream(session, call, nursery)
            self._streams.add(stream)
            try:
                while True:
                    request = _decoded(kind, await call.receive())
                    if not stream.node:
                        self._introduce(stream, request.node.id)
                    self._send(stream, session.on_request(request))
                    self._publish()
            except trio.EndOfChannel:
                pass
            finally:
                self._streams.discard(stream)
                if self._envoy is stream:
                    self._envoy = None
                self._publish()
            nursery.cancel_scope.cancel()

    def _introduce(self, stream: _Stream, node: str) -> None:
        if not node:
            raise RpcAbort(StatusCode.INVALID_ARGUMENT, "the first request of a stream must name its node.id")
        stream.node = node
        if node == self._envoy_node:
            if self._envoy is not None:
                # A restarted Envoy, or one whose old connection is not known to be dead yet: only the new one counts.
                self._envoy.nursery.cancel_scope.cancel()
            self._envoy = stream

    def _send(self, stream: _Stream, responses: list[Any]) -> None:
        try:
            for response in responses:  # of each type one is in flight at most: that bounds what waits to be sent
                stream.call.send_nowait(response.SerializeToString())
        except trio.BrokenResourceError:
            return  # the call has ended; its task is about to learn it
        if stream.held_back != stream.session.held_back_since:
            stream.held_back = stream.session.held_back_since
            stream.held_back_at = trio.current_time()
            if stream.held_back is not None and not stream.timer_runs:
                stream.timer_runs = True
                stream.nursery.start_soon(self._bound_waiting, stream)

    async def _bound_waiting(self, stream: _Stream) -> None:
        while stream.held_back is not None:
            await trio.sleep_until(stream.held_back_at + PATIENCE_S)
            if stream.held_back is not None and trio.current_time() >= stream.held_back_at + PATIENCE_S:
                stream.held_back_at = trio.current_time()
                self._send(stream, stream.session.stop_waiting())
                self._publish()
        stream.timer_runs = False

    def _publish(self) -> None:
        if self._envoy is None:
            state = AckState(False, self._state.acked_revision, self._state.nacks)
        else:
            session = self._envoy.session
            state = AckState(True, session.acked_revision, session.nacks, session.secrets_current)
            held = session.held_requests
            if held or self._followers:
                state = replace(state, held_requests=held, acked_sequence=session.acked_sequence)
        if state != self._state:
            self._state = state
            self._changed.set()
            self._changed = trio.Event()


def _decoded(kind: type[Any], payload: bytes) -> Any:
    try:
        return kind.FromString(payload)
    except DecodeError:
        raise RpcAbort(StatusCode.INVALID_ARGUMENT, "a request can't be decoded") from None


@asynccontextmanager
async def open_ads_server(
    socket: Path,
    *,
    envoy_node: str,
    on_error: Callable[[str, Exception], None],
    on_report: OnReport = lambda name, report: None,
) -> AsyncIterator[AdsServer]:
    """Serve on the Unix socket `socket` for the body of the `async with`; its streams end with it.

    `envoy_node` is the node.id of the Envoy whose acks count. `on_error(method, exception)` is told of our own faults,
    `on_report(log's name, message)` of access logs.
    The directory is made with mode 0700 if it is missing; the socket has 0600. A socket file left by a dead agent is
    replaced. Raises PermissionError if others may enter the directory, trio_grpc.BindError if the socket can't be had.
    """
    _check_directory(socket)
    server = AdsServer(envoy_node, on_report)

    async def serve(connection: trio.socket.SocketType, uid: int, usage: Usage) -> None:
        await Connection(connection, uid, server.serve, LIMITS, usage, on_error).run()

    async with open_unix_server(socket, mode=0o600, serve=serve, limits=LIMITS, on_error=on_error):
        yield server


def _check_directory(socket: Path) -> None:
    directory = socket.parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o077:
        raise PermissionError(
            f"{directory} has mode {mode:04o}: others could reach the ADS socket, which serves private keys; "
            f"run `chmod 700 {directory}`"
        )
