"""All watches of a client on one stream: opened, resumed after every cut, moved between members and credentials."""

from collections import deque
from dataclasses import dataclass

import trio

from trio_grpc import RpcError, StatusCode

from . import wire
from ._proto import etcd_pb2 as pb
from .backoff import Backoff
from .calls import Calls
from .endpoints import Connection
from .errors import (
    Compacted,
    CredentialsRefused,
    EtcdError,
    PermissionDenied,
    StoreReplaced,
    Unauthenticated,
    from_rpc,
)
from .link import Link
from .transport import TransportStream
from .types import parse_version
from .watch import Watch

RECONNECT_FIRST_S = 0.05  # a restarted etcd is back in a fraction of a second
RECONNECT_MOST_S = 5.0
ANSWER_S = 10.0  # a create is answered in milliseconds; a member that takes longer is not serving
STATUS_TIMEOUT_S = 5.0
# etcd does not answer while a watch is still catching up: after opening one, ask again soon.
PROGRESS_FIRST_S = 0.05

# Before 3.5.13 an answer to a progress request could overtake events (etcd issues 15220 and 17557), and a resume after
# it would skip them. The 3.4 line is left out altogether.
PROGRESS_REQUESTS_SINCE = (3, 5, 13)


@dataclass(slots=True)
class _Create:
    """A create that the server has not answered; answers come in the order of the requests."""

    watch: Watch
    sent_at: float
    progress_sent: int
    """Progress requests that went before it."""


class WatchMux:
    """Runs in the client's nursery. Every method but `run` only queues work for it."""

    def __init__(self, calls: Calls, progress_every: float) -> None:
        self.link = Link()
        self._calls = calls
        self._progress_every = progress_every
        self._watches: dict[Watch, None] = {}  # a set that keeps its order
        self._by_id: dict[int, Watch] = {}
        self._outgoing: deque[pb.WatchRequest | Watch] = deque()
        self._unanswered: deque[_Create] = deque()
        self._wake_writer = trio.Event()
        self._wake_timer = trio.Event()
        self._wanted = trio.Event()
        self._session: trio.CancelScope | None = None
        self._cluster_id = 0
        self._may_ask_progress = False
        self._settled = False  # progress was answered since the last watch was opened
        self._unsettled = trio.Event()
        self._progress_sent = 0
        self._progress_answered = 0
        self._store_checked = False
        self._nursery: trio.Nursery | None = None

    # --- what watches and the client ask for ---

    def add(self, watch: Watch) -> None:
        """Open it, now or when the stream is up."""
        self._watches[watch] = None
        self._wanted.set()
        self._queue(watch)

    def remove(self, watch: Watch) -> None:
        """Forget it; the stream ends with the last one."""
        self._watches.pop(watch, None)
        self._cancel_at_server(watch)
        if not self._watches and self._session is not None:
            self._session.cancel()

    def pause(self, watch: Watch) -> None:
        """Its buffer is full."""
        self._cancel_at_server(watch)

    def resume(self, watch: Watch) -> None:
        """Its buffer is empty again."""
        self._queue(watch)

    def move(self) -> None:
        """Open a new stream on the current connection and resume there."""
        if self._session is not None:
            self._session.cancel()

    def request_progress(self) -> None:
        """Where the server's version answers such requests rightly."""
        if self._may_ask_progress:
            self._queue(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    def _queue(self, item: pb.WatchRequest | Watch) -> None:
        if self._session is not None:
            self._outgoing.append(item)
            self._wake_writer.set()

    def _cancel_at_server(self, watch: Watch) -> None:
        if watch.server_id is not None and self._by_id.pop(watch.server_id, None) is not None:
            self._queue_cancel(watch.server_id)
        watch.detached()

    def _queue_cancel(self, server_id: int) -> None:
        self._queue(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=server_id)))

    # --- sessions ---

    async def run(self) -> None:
        """For ever: one session after the other while there are watches."""
        backoff = Backoff(RECONNECT_FIRST_S, RECONNECT_MOST_S, self._calls.rng)
        refused = 0
        while True:
            if not self._watches:
                self._wanted = trio.Event()
                await self._wanted.wait()
            with self._calls.endpoints.current().used() as connection:
                failure = await self._run_session(connection)
            if failure is None:  # moved, or nothing left to watch
                refused = 0
                self.link.lost(connection.endpoint, None)
                await trio.lowlevel.checkpoint()
                continue
            if self.link.state.connected:
                backoff.reset()
                refused = 0
            self.link.lost(connection.endpoint, failure)
            self._calls.endpoints.failed(connection)
            refused = refused + 1 if isinstance(failure, CredentialsRefused) else 0
            if isinstance(failure, PermissionDenied | Unauthenticated) or refused >= len(self._calls.endpoints):
                self._fail_all(failure)
                refused = 0
            await trio.sleep(backoff.pause())

    async def _run_session(self, connection: Connection) -> EtcdError | None:
        """One stream from opening to end; what ended it, or None when this side did."""
        self._by_id.clear()
        self._unanswered.clear()
        self._outgoing = deque(watch for watch in self._watches if watch.open_at_server)
        self._may_ask_progress = self._settled = False
        self._progress_sent = self._progress_answered = 0
        self._store_checked = False
        failure: RpcError | None = None
        with trio.CancelScope() as self._session:
            try:
                with connection.transport.stream(wire.WATCH, metadata=wire.HAS_LEADER) as stream:
                    async with trio.open_nursery() as self._nursery:
                        self._nursery.start_soon(self._write, stream)
                        self._nursery.start_soon(self._ask_progress, connection)
                        self._nursery.start_soon(self._time_out_creates, stream)
                        failure = await self._read(stream, connection)
                        self._nursery.cancel_scope.cancel()
            finally:
                self._session = self._nursery = None
                for watch in self._watches:
                    watch.detached()
        if failure is None:
            return None
        return from_rpc(failure, what="watch stream", endpoint=connection.endpoint, write=False)

    async def _read(self, stream: TransportStream, connection: Connection) -> RpcError:
        def take(message: bytes) -> None:
            self.link.heard(connection.endpoint)
            self._handle(pb.WatchResponse.FromString(message))

        try:
            await stream.each(take)
        except RpcError as failure:
            return failure
        except trio.EndOfChannel:
            return RpcError(StatusCode.UNAVAILABLE, "the server ended the stream")
        except trio.ClosedResourceError:
            return RpcError(StatusCode.UNAVAILABLE, f"a watch was not created within {ANSWER_S:.0f} s")

    async def _write(self, stream: TransportStream) -> None:
        while True:
            while self._outgoing:
                item = self._outgoing.popleft()
                if isinstance(item, Watch):
                    if item not in self._watches or not item.open_at_server:
                        continue
                    self._unanswered.append(_Create(item, trio.current_time(), self._progress_sent))
                    self._wake_timer.set()
                    item = pb.WatchRequest(create_request=item.create_request())
                elif item.HasField("progress_request"):
                    self._progress_sent += 1
                try:
                    await stream.send(item.SerializeToString())
                except trio.BrokenResourceError:
                    return  # the reader is told why
            self._wake_writer = trio.Event()
            await self._wake_writer.wait()

    async def _time_out_creates(self, stream: TransportStream) -> None:
        """A member that accepts the stream and never answers is no better than a dead one."""
        while True:
            while not self._unanswered:
                self._wake_timer = trio.Event()
                await self._wake_timer.wait()
            oldest = self._unanswered[0]
            await trio.sleep_until(oldest.sent_at + ANSWER_S)
            if self._unanswered and self._unanswered[0] is oldest:
                stream.close()
                return

    async def _ask_progress(self, connection: Connection) -> None:
        """Keeps `next_revision` of quiet watches fresh, so that a cut after a compaction elsewhere costs no listing."""
        try:
            status = await self._calls.at(
                connection, wire.STATUS, pb.StatusRequest(), pb.StatusResponse, STATUS_TIMEOUT_S
            )
            self._may_ask_progress = parse_version(status.version) >= PROGRESS_REQUESTS_SINCE
        except PermissionDenied:
            self._may_ask_progress = True  # versions that keep the status from users are all newer than that
        except (EtcdError, ValueError):
            return  # unknown version: the server's own notifications (every 10 min by default) must do
        backoff = Backoff(PROGRESS_FIRST_S, self._progress_every, self._calls.rng)
        while self._may_ask_progress:
            self.request_progress()
            pause = self._progress_every * self._calls.rng.uniform(0.75, 1.25) if self._settled else backoff.pause()
            self._unsettled = trio.Event()
            with trio.move_on_after(pause):
                await self._unsettled.wait()  # a watch was opened
                backoff.reset()

    # --- messages ---

    def _handle(self, response: pb.WatchResponse) -> None:
        if not self._same_cluster(response.header.cluster_id):
            return
        if response.created:
            self._handle_created(response)
        elif response.canceled:
            self._handle_canceled(response)
        elif response.watch_id == -1:
            self._handle_progress_of_all(response.header.revision)
        elif (watch := self._by_id.get(response.watch_id)) is None:
            pass  # cancelled by us, these were on their way
        elif response.events:
            watch.take_events(list(response.events), more_fragments=response.fragment)
        elif not response.fragment:
            watch.take_progress(response.header.revision)

    def _handle_created(self, response: pb.WatchResponse) -> None:
        create = self._unanswered.popleft()
        watch = create.watch
        if response.canceled:  # refused: watch_id is -1
            self._fail(watch, _reason(response, self.link.state.endpoint))
        elif watch not in self._watches or not watch.open_at_server:
            self._queue_cancel(response.watch_id)
        else:
            self._by_id[response.watch_id] = watch
            watch.created(response.watch_id, response.header.revision, create.progress_sent)
            self._settled = False
            self._unsettled.set()
            if response.header.revision < watch.next_revision - 1 and not self._store_checked:
                self._store_checked = True
                assert self._nursery is not None  # noqa: S101 - messages are only read in a session
                self._nursery.start_soon(self._check_store)

    def _handle_canceled(self, response: pb.WatchResponse) -> None:
        watch = self._by_id.pop(response.watch_id, None)
        if watch is not None:
            self._fail(watch, _reason(response, self.link.state.endpoint))

    def _handle_progress_of_all(self, revision: int) -> None:
        """An answer speaks of the watches that existed when it was asked for.

        etcd sends "created" past answers that wait behind events, so an old answer can arrive after it.
        """
        self._progress_answered += 1
        self._settled = True
        for watch in self._by_id.values():
            if watch.is_meant_by(revision, self._progress_answered):
                watch.take_progress(revision)
            else:
                self._settled = False

    def _same_cluster(self, cluster_id: int) -> bool:
        if self._cluster_id not in (0, cluster_id):
            known, self._cluster_id = self._cluster_id, cluster_id
            self._fail_all(StoreReplaced(f"the cluster id changed from {known:x} to {cluster_id:x}: list again"))
            self.move()
            return False
        self._cluster_id = cluster_id
        return True

    async def _check_store(self) -> None:
        """The member knows less than was seen: it is behind, or the store was put back. A linearizable read tells."""
        any_watch = next(iter(self._watches), None)
        if any_watch is None:
            return
        request = pb.RangeRequest(key=any_watch.key, count_only=True)
        try:
            revision = (await self._calls.read(wire.RANGE, request, pb.RangeResponse)).header.revision
        except EtcdError:
            self._store_checked = False  # the next create or session asks again
            return
        for watch in list(self._watches):
            if watch.next_revision - 1 > revision:
                text = f"the store is at revision {revision}, but {watch.next_revision - 1} was seen: list again"
                self._cancel_at_server(watch)
                self._fail(watch, StoreReplaced(text, endpoint=self.link.state.endpoint))

    def _fail(self, watch: Watch, error: EtcdError) -> None:
        self._watches.pop(watch, None)
        watch.fail(error)

    def _fail_all(self, error: EtcdError) -> None:
        for watch in list(self._watches):
            self._fail(watch, error)


def _reason(response: pb.WatchResponse, endpoint: str) -> EtcdError:
    if response.compact_revision:
        text = f"the watch asked for history before revision {response.compact_revision}, which was compacted"
        return Compacted(f"{text}: list again", compact_revision=response.compact_revision, endpoint=endpoint)
    reason = response.cancel_reason or "no reason given"
    failure = RpcError(StatusCode.UNKNOWN, reason)
    error = from_rpc(failure, what="watch cancelled by the server", endpoint=endpoint, write=False)
    if isinstance(error, PermissionDenied):
        return PermissionDenied(f"may not watch this range: {reason}", endpoint=endpoint)
    return error
