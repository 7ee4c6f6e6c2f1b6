"""etcd in memory, below the client's transport: `open_etcd(fake.endpoints, connect=fake.connect)` runs all its code.

A real store plus faults that a test injects at a chosen moment. Time is trio's, so an autojump clock works.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NoReturn, Self

import trio
from google.protobuf.message import Message

from tests.fakes.etcd_store import Store, in_range, refuse
from trio_etcd import wire
from trio_etcd._proto import etcd_pb2 as pb
from trio_grpc import TLS, Metadata, RpcError, StatusCode
from trio_grpc.http2 import NOT_CONNECTED, TLS_FAILED

CLUSTER_ID = 0xFA4E
MIN_TTL = 1  # seconds; a real cluster's depends on its election timeout


@dataclass
class _Lease:
    ttl: int
    expires: float


@dataclass
class _FakeWatch:
    request: pb.WatchCreateRequest
    next_revision: int


@dataclass
class _Fault:
    """For the next calls of one path: wait, then maybe do it, then maybe fail."""

    delay: float = 0.0
    applied: bool = True
    error: RpcError | None = None


@dataclass
class FakeEtcd:
    """One cluster whose members, `endpoints`, share one store and one fate unless a test separates them."""

    endpoints: Sequence[str] = ("member-1:2379",)
    version: str = "3.5.30"
    fragment_events: int = 0
    """Split watch responses after so many events, as etcd does with large ones; 0: never."""

    hold_channel: bool = False
    """Keep events and progress back while "created" passes them, as a busy etcd may; see `release_channel`."""

    cluster_id: int = CLUSTER_ID
    down: set[str] = field(default_factory=set)
    """Endpoints that refuse calls, such as killed members."""
    frozen: set[str] = field(default_factory=set)
    """Endpoints that take calls and never answer, such as stopped processes."""
    leaderless: set[str] = field(default_factory=set)
    denied: set[bytes] = field(default_factory=set)
    """Key prefixes that nobody may touch."""
    accepts: Callable[[TLS | None], bool] = lambda tls: True
    """Which credentials pass the handshake."""

    def __post_init__(self) -> None:
        self.store = Store(self._committed)
        self.streams: set[FakeStream] = set()
        self.calls: list[tuple[str, str]] = []
        """(endpoint, path) of every unary call and stream, in order."""
        self._leases: dict[int, _Lease] = {}
        self._faults: dict[str, deque[_Fault]] = defaultdict(deque)
        self._lease_changed = trio.Event()
        self._next_lease = 1

    def connect(self, endpoint: str, tls: TLS | None) -> FakeTransport:
        """For `open_etcd(connect=…)`."""
        assert endpoint in self.endpoints, f"{endpoint} is not a member of this fake"
        return FakeTransport(self, endpoint, tls)

    async def run(self) -> None:
        """Leases expire while this runs; start it in a nursery."""
        while True:
            soonest = min((lease.expires for lease in self._leases.values()), default=float("inf"))
            self._lease_changed = trio.Event()
            with trio.move_on_at(soonest):
                await self._lease_changed.wait()
            for lease_id in [one for one, lease in self._leases.items() if lease.expires <= trio.current_time()]:
                self._drop_lease(lease_id)

    # --- faults ---

    def cut(self, words: str = "Connection reset by peer") -> None:
        """End every stream, as a broken connection does."""
        for stream in list(self.streams):
            stream.end(RpcError(StatusCode.UNAVAILABLE, words))

    def release_channel(self) -> None:
        """What was held goes out, in its order."""
        self.hold_channel = False
        for stream in list(self.streams):
            stream.wake()

    def stop(self, endpoint: str) -> None:
        """A member dies: its streams end, its calls are refused until `start`."""
        self.down.add(endpoint)
        for stream in [one for one in self.streams if one.endpoint == endpoint]:
            stream.end(RpcError(StatusCode.UNAVAILABLE, "Socket closed"))

    def start(self, endpoint: str) -> None:
        self.down.discard(endpoint)

    def lose_leader(self, endpoint: str) -> None:
        """The member is cut off from the others: streams that asked for it end, linearizable calls fail."""
        self.leaderless.add(endpoint)
        for stream in [one for one in self.streams if one.endpoint == endpoint and one.needs_leader]:
            stream.end(refuse(StatusCode.UNAVAILABLE, "no leader"))

    def fail_next(
        self, path: str, *, applied: bool, error: RpcError | None = None, delay: float = 0.0, times: int = 1
    ) -> None:
        """The next calls of `path` are carried out or not, and answered late or with `error`."""
        self._faults[path].extend([_Fault(delay, applied, error)] * times)

    def lose_next_response(self, path: str, *, applied: bool) -> None:
        """The connection breaks before the answer arrives."""
        self.fail_next(path, applied=applied, error=RpcError(StatusCode.UNAVAILABLE, "Socket closed"))

    def restore(self, revision_of: Store | None = None) -> None:
        """The store is put back to an empty one (or to another store): revisions go back, connections break."""
        self.store = revision_of or Store(self._committed)
        self.cut()

    # --- calls ---

    async def unary(self, endpoint: str, path: str, payload: bytes, timeout: float, tls: TLS | None) -> bytes:
        self.calls.append((endpoint, path))
        await trio.lowlevel.checkpoint()
        fault = self._faults[path].popleft() if self._faults[path] else _Fault()
        with trio.move_on_after(timeout):
            self._refuse_connection(endpoint, tls)
            if endpoint in self.frozen:
                await trio.sleep_forever()
            if endpoint in self.leaderless and path != wire.STATUS:
                await trio.sleep_forever()
            await trio.sleep(fault.delay)
            answer = self._answer(path, payload) if fault.applied else pb.StatusResponse()
            if fault.error is not None:
                raise fault.error
            return answer.SerializeToString()
        raise RpcError(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _refuse_connection(self, endpoint: str, tls: TLS | None) -> None:
        if endpoint in self.down:
            words = f"{NOT_CONNECTED} {endpoint}: connection refused"
            raise RpcError(StatusCode.UNAVAILABLE, words)
        if not self.accepts(tls):
            raise RpcError(StatusCode.UNAVAILABLE, f"{TLS_FAILED}: [SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]")

    def _answer(self, path: str, payload: bytes) -> Message:
        handler, request = {
            wire.RANGE: (self._range, pb.RangeRequest),
            wire.PUT: (self._put, pb.PutRequest),
            wire.DELETE_RANGE: (self._delete_range, pb.DeleteRangeRequest),
            wire.TXN: (self._txn, pb.TxnRequest),
            wire.COMPACT: (self._compact, pb.CompactionRequest),
            wire.LEASE_GRANT: (self._lease_grant, pb.LeaseGrantRequest),
            wire.LEASE_REVOKE: (self._lease_revoke, pb.LeaseRevokeRequest),
            wire.LEASE_LEASES: (self._lease_leases, pb.LeaseLeasesRequest),
            wire.LEASE_TIME_TO_LIVE: (self._lease_time_to_live, pb.LeaseTimeToLiveRequest),
            wire.STATUS: (self._status, pb.StatusRequest),
        }[path]
        response: Message = handler(request.FromString(payload))  # type: ignore[operator,attr-defined] # one table, many types
        response.header.CopyFrom(self.header())  # type: ignore[attr-defined] # every response has one
        return response

    def header(self) -> pb.ResponseHeader:
        return pb.ResponseHeader(cluster_id=self.cluster_id, member_id=1, revision=self.store.revision, raft_term=2)

    def _check_access(self, key: bytes, end: bytes) -> None:
        for prefix in self.denied:
            if key.startswith(prefix) or in_range(prefix, key, end):
                raise refuse(StatusCode.PERMISSION_DENIED, "permission denied")

    def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        self._check_access(request.key, request.range_end)
        return self.store.range(request)

    def _put(self, request: pb.PutRequest) -> pb.PutResponse:
        self._check_access(request.key, b"")
        return self.store.put(request)

    def _delete_range(self, request: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:
        self._check_access(request.key, request.range_end)
        return self.store.delete(request)

    def _txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        for operation in (*request.success, *request.failure):
            part = getattr(operation, operation.WhichOneof("request") or "")
            self._check_access(part.key, getattr(part, "range_end", b""))
        return self.store.txn(request)

    def _compact(self, request: pb.CompactionRequest) -> pb.CompactionResponse:
        self.store.compact(request.revision)
        return pb.CompactionResponse()

    def _status(self, request: pb.StatusRequest) -> pb.StatusResponse:
        return pb.StatusResponse(version=self.version, leader=0 if self.leaderless else 1, raftTerm=2)

    # --- leases ---

    def _lease_grant(self, request: pb.LeaseGrantRequest) -> pb.LeaseGrantResponse:
        lease_id = request.ID or self._next_lease
        self._next_lease = max(self._next_lease, lease_id) + 1
        if lease_id in self._leases:
            raise refuse(StatusCode.FAILED_PRECONDITION, "lease already exists")
        ttl = max(request.TTL, MIN_TTL)
        self._leases[lease_id] = _Lease(ttl, trio.current_time() + ttl)
        self.store.leases[lease_id] = set()
        self._lease_changed.set()
        return pb.LeaseGrantResponse(ID=lease_id, TTL=ttl)

    def _lease_revoke(self, request: pb.LeaseRevokeRequest) -> pb.LeaseRevokeResponse:
        if request.ID not in self._leases:
            raise refuse(StatusCode.NOT_FOUND, "requested lease not found")
        self._drop_lease(request.ID)
        return pb.LeaseRevokeResponse()

    def _lease_leases(self, request: pb.LeaseLeasesRequest) -> pb.LeaseLeasesResponse:
        return pb.LeaseLeasesResponse(leases=[pb.LeaseStatus(ID=one) for one in self._leases])

    def _lease_time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> pb.LeaseTimeToLiveResponse:
        lease = self._leases.get(request.ID)
        if lease is None:
            return pb.LeaseTimeToLiveResponse(ID=request.ID, TTL=-1)
        keys = sorted(self.store.leases[request.ID]) if request.keys else []
        left = int(lease.expires - trio.current_time())
        return pb.LeaseTimeToLiveResponse(ID=request.ID, TTL=left, grantedTTL=lease.ttl, keys=keys)

    def _drop_lease(self, lease_id: int) -> None:
        del self._leases[lease_id]
        self.store.drop_lease(lease_id)

    def expire_lease(self, lease_id: int) -> None:
        """As if its time were up."""
        self._drop_lease(lease_id)

    def renew_lease(self, lease_id: int) -> int:
        """A keep-alive's answer: the new time to live, 0 when there is no such lease."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return 0
        lease.expires = trio.current_time() + lease.ttl
        self._lease_changed.set()
        return lease.ttl

    # --- watches ---

    def _committed(self, revision: int, events: list[pb.Event]) -> None:
        for stream in list(self.streams):
            stream.catch_up()


class FakeTransport:
    """One client's connection to one member."""

    def __init__(self, etcd: FakeEtcd, endpoint: str, tls: TLS | None) -> None:
        self._etcd = etcd
        self._endpoint = endpoint
        self._tls = tls
        self._streams: set[FakeStream] = set()

    async def unary(self, path: str, payload: bytes, *, timeout: float, metadata: Metadata = ()) -> bytes:
        return await self._etcd.unary(self._endpoint, path, payload, timeout, self._tls)

    def stream(self, path: str, *, metadata: Metadata = ()) -> FakeStream:
        self._etcd.calls.append((self._endpoint, path))
        stream = FakeStream(self._etcd, self._endpoint, path, needs_leader=("hasleader", "true") in tuple(metadata))
        self._streams.add(stream)
        try:
            self._etcd._refuse_connection(self._endpoint, self._tls)
        except RpcError as refused:
            stream.end(refused)
        if stream.needs_leader and self._endpoint in self._etcd.leaderless:
            stream.end(refuse(StatusCode.UNAVAILABLE, "no leader"))
        return stream

    def close(self) -> None:
        for stream in self._streams:
            stream.end(RpcError(StatusCode.CANCELLED, "Channel closed!"))


class FakeStream:
    """A Watch or LeaseKeepAlive stream, both ends."""

    def __init__(self, etcd: FakeEtcd, endpoint: str, path: str, *, needs_leader: bool) -> None:
        self._etcd = etcd
        self.endpoint = endpoint
        self.needs_leader = needs_leader
        self._path = path
        self._inbox: deque[bytes] = deque()  # "created" and "canceled"
        self._channel: deque[bytes] = deque()  # events and progress; the first overtake these
        self._end: RpcError | None = None
        self._closed = False
        self._wake = trio.Event()
        self._watches: dict[int, _FakeWatch] = {}
        self._next_watch = 0
        etcd.streams.add(self)

    # --- the client's end ---

    async def send(self, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._end is not None or self._closed:
            raise trio.BrokenResourceError
        if self.endpoint in self._etcd.frozen:
            return
        if self._path == wire.WATCH:
            self._take_watch_request(pb.WatchRequest.FromString(payload))
        else:
            lease = pb.LeaseKeepAliveRequest.FromString(payload).ID
            ttl = self._etcd.renew_lease(lease)
            self._say(pb.LeaseKeepAliveResponse(header=self._etcd.header(), ID=lease, TTL=ttl))

    async def receive(self) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        while not self._deliverable() or self.endpoint in self._etcd.frozen:
            if self._closed:
                raise trio.ClosedResourceError
            if self._end is not None:
                raise self._end
            self._wake = trio.Event()
            await self._wake.wait()
        taken = list(self._inbox)
        self._inbox.clear()
        if not self._etcd.hold_channel:
            taken += self._channel
            self._channel.clear()
        return taken

    async def each(self, take: Callable[[bytes], None]) -> NoReturn:
        while True:
            for message in await self.receive():
                take(message)

    def _deliverable(self) -> bool:
        return bool(self._inbox or (self._channel and not self._etcd.hold_channel))

    def wake(self) -> None:
        """Look again for what can be delivered."""
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._etcd.streams.discard(self)
        self._wake.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the server's end ---

    def end(self, error: RpcError) -> None:
        """No more messages after those on their way."""
        self._end = self._end or error
        self._etcd.streams.discard(self)
        self._wake.set()

    def cut_after(self, messages: int) -> None:
        """The connection breaks when the client has received so many more messages of events and progress."""
        while len(self._channel) > messages:
            self._channel.pop()
        self.end(RpcError(StatusCode.UNAVAILABLE, "Socket closed"))

    def _say(self, response: Message, *, channel: bool = False) -> None:
        if self._end is None:
            (self._channel if channel else self._inbox).append(response.SerializeToString())
            self._wake.set()

    def _take_watch_request(self, request: pb.WatchRequest) -> None:
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            self._create(request.create_request)
        elif kind == "cancel_request":
            watch_id = request.cancel_request.watch_id
            if self._watches.pop(watch_id, None) is not None:
                self._say(pb.WatchResponse(header=self._etcd.header(), watch_id=watch_id, canceled=True))
        else:
            self._say(pb.WatchResponse(header=self._etcd.header(), watch_id=-1), channel=True)

    def _create(self, request: pb.WatchCreateRequest) -> None:
        header = self._etcd.header()
        try:
            self._etcd._check_access(request.key, request.range_end)
        except RpcError:
            words = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
            refused = pb.WatchResponse(header=header, watch_id=-1, created=True, canceled=True, cancel_reason=words)
            return self._say(refused)
        watch_id, self._next_watch = self._next_watch, self._next_watch + 1
        self._say(pb.WatchResponse(header=header, watch_id=watch_id, created=True))
        start = request.start_revision or header.revision + 1
        compacted = self._etcd.store.compacted
        if start < compacted:
            gone = pb.WatchResponse(header=header, watch_id=watch_id, canceled=True, compact_revision=compacted)
            return self._say(gone)
        self._watches[watch_id] = _FakeWatch(request, start)
        return self.catch_up()

    def catch_up(self) -> None:
        """Send what each watch has not had yet."""
        for watch_id, watch in self._watches.items():
            request = watch.request
            since = self._etcd.store.events_since(watch.next_revision, request.key, request.range_end)
            watch.next_revision = max(watch.next_revision, self._etcd.store.revision + 1)
            events = [_shown(event, request.prev_kv) for _, part in since for event in part]
            for part, is_last in _fragments(events, self._etcd.fragment_events if request.fragment else 0):
                response = pb.WatchResponse(watch_id=watch_id, events=part, fragment=not is_last)
                response.header.CopyFrom(self._etcd.header())
                self._say(response, channel=True)


def _shown(event: pb.Event, previous: bool) -> pb.Event:
    if previous:
        return event
    bare = pb.Event()
    bare.CopyFrom(event)
    bare.ClearField("prev_kv")
    return bare


def _fragments(events: list[pb.Event], size: int) -> Iterator[tuple[list[pb.Event], bool]]:
    if not events:
        return
    size = size or len(events)
    for start in range(0, len(events), size):
        yield events[start : start + size], start + size >= len(events)
