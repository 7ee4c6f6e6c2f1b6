"""One watch: what is buffered for its reader, and where it would resume."""

from collections import deque
from typing import Protocol, Self

import trio

from . import wire
from ._proto import etcd_pb2 as pb
from .errors import EtcdError
from .link import Link
from .types import Event, Progress, WatchBatch

BUFFER_BYTES = 16 << 20  # keys and values held for one reader before its watch is paused at the server


class Carrier(Protocol):
    """The stream that carries a watch, as far as the watch uses it. Nothing here waits."""

    @property
    def link(self) -> Link: ...
    def pause(self, watch: "Watch") -> None: ...
    def resume(self, watch: "Watch") -> None: ...
    def request_progress(self) -> None: ...


class Watch:
    """Async iterator of `WatchBatch`: one whole revision each, in order, each exactly once.

    Made by `Client.watch`. A reader that falls behind does not lose events and does not hold up other watches: its
    watch is cancelled at the server and resumed from `next_revision` when the buffer is empty. Iteration ends only by
    an error: Compacted or StoreReplaced (list again), PermissionDenied, CredentialsRefused, ServerError.
    """

    def __init__(
        self,
        carrier: Carrier,
        key: bytes,
        range_end: bytes,
        *,
        start_revision: int,
        previous: bool,
        progress: bool,
        buffer_events: int,
    ) -> None:
        self._carrier = carrier
        self.key = key
        self.range_end = range_end
        self._next_revision = start_revision
        self._previous = previous
        self._progress = progress
        self._buffer_events = buffer_events
        self._buffer: deque[tuple[WatchBatch, int]] = deque()
        self._events_held = 0
        self._bytes_held = 0
        self._arrived = trio.Event()
        self._created = trio.Event()
        self._accepted = False
        self._created_at = 0
        self._progress_before = 0
        self._partial: list[pb.Event] = []
        self._error: EtcdError | None = None
        self._server_id: int | None = None
        self._paused = False

    # --- for its reader ---

    @property
    def next_revision(self) -> int:
        """Where it would resume: everything below has been delivered or is buffered. 0 before it was created."""
        return self._next_revision

    @property
    def link(self) -> Link:
        """The state of the stream that carries it."""
        return self._carrier.link

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchBatch:
        return await self.receive()

    async def receive(self) -> WatchBatch:
        """The next revision's batch; waits for it. What is buffered comes before an error."""
        await trio.lowlevel.checkpoint()
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._paused:
                self._paused = False
                self._carrier.resume(self)
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._pop()

    def receive_buffered(self) -> list[WatchBatch]:
        """What can be had without waiting, possibly nothing: to coalesce after a first `receive`."""
        return [self._pop() for _ in range(len(self._buffer))]

    def request_progress(self) -> None:
        """Ask the server now how far this client's watches are; answered by Progress to those that opted in."""
        self._carrier.request_progress()

    def _pop(self) -> WatchBatch:
        batch, size = self._buffer.popleft()
        self._events_held -= len(batch.events)
        self._bytes_held -= size
        return batch

    # --- for the multiplexer ---

    async def wait_created(self) -> None:
        """Until the server has accepted it; raises what it was refused with."""
        await self._created.wait()
        if self._error is not None and not self._accepted:
            raise self._error

    @property
    def server_id(self) -> int | None:
        """The id on the current stream; None while it is not open there."""
        return self._server_id

    @property
    def open_at_server(self) -> bool:
        """Whether it should exist at the server: not paused, not failed."""
        return not self._paused and self._error is None

    def create_request(self) -> pb.WatchCreateRequest:
        """From `next_revision`; what was held of an incomplete revision is dropped, since it will come whole."""
        self._partial = []
        return pb.WatchCreateRequest(
            key=self.key,
            range_end=self.range_end,
            start_revision=self._next_revision,
            progress_notify=True,
            prev_kv=self._previous,
            fragment=True,
        )

    def created(self, server_id: int, header_revision: int, progress_sent: int) -> None:
        """The server has accepted it, at `header_revision` and after so many progress requests on this stream."""
        self._server_id = server_id
        self._created_at = header_revision
        self._progress_before = progress_sent
        self._accepted = True
        if self._next_revision == 0:
            self._next_revision = header_revision + 1
        self._created.set()

    def detached(self) -> None:
        """It no longer exists at the server: the stream ended, or it was cancelled."""
        self._server_id = None
        self._partial = []

    def fail(self, error: EtcdError) -> None:
        """No more events; the reader gets `error` after what is buffered."""
        if self._error is None:
            self._error = error
        self.detached()
        self._created.set()
        self._arrived.set()

    def take_events(self, events: list[pb.Event], *, more_fragments: bool) -> None:
        """Deliver all revisions that are whole; hold the last one back while fragments of it may follow."""
        held = self._partial + events if self._partial else events
        self._partial = []
        start = 0
        for index in range(1, len(held) + 1):
            if index < len(held) and held[index].kv.mod_revision == held[start].kv.mod_revision:
                continue
            if index == len(held) and more_fragments:
                self._partial = held[start:]
                return
            self._deliver(held[start:index])
            start = index

    def is_meant_by(self, revision: int, answers: int) -> bool:
        """Whether the stream's `answers`-th answer to a progress request, at `revision`, surely speaks of this watch.

        Answers keep the order of their requests and some requests get none: the n-th answer is to the n-th request or
        a later one. And no answer given before this watch existed can name a revision from after that.
        """
        return answers > self._progress_before or revision > self._created_at

    def take_progress(self, revision: int) -> None:
        """The server says that everything up to `revision` has been sent."""
        if self._partial or self._server_id is None:
            return
        if revision + 1 < self._next_revision:
            return  # from a member behind the one that served us before
        self._next_revision = revision + 1
        if not self._progress:
            return
        if self._buffer and isinstance(self._buffer[-1][0], Progress):
            self._buffer.pop()  # a reader that is behind needs only the newest
        self._buffer.append((Progress(revision), 0))
        self._arrived.set()

    def _deliver(self, events: list[pb.Event]) -> None:
        revision = events[0].kv.mod_revision
        if revision < self._next_revision:
            return  # delivered before
        size = sum(event.ByteSize() for event in events)
        batch = WatchBatch(revision, tuple(_events(events)))
        self._next_revision = revision + 1
        self._buffer.append((batch, size))
        self._events_held += len(events)
        self._bytes_held += size
        self._arrived.set()
        if not self._paused and (self._events_held >= self._buffer_events or self._bytes_held >= BUFFER_BYTES):
            self._paused = True
            self._carrier.pause(self)


def _events(messages: list[pb.Event]) -> list[Event]:
    return [wire.event(message) for message in messages]
