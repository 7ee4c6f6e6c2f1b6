"""Two bounded queues between one trio task and one foreign thread; all hand-over between the two worlds is here.

    thread ── Inbox.put ──▶ [ bounded by count and bytes ] ── await Inbox.take ──▶ trio
    trio ── await Outbox.put ──▶ [ bounded by count ] ── Outbox.get ──▶ thread

A full queue blocks its producer, and nothing is polled: either side wakes the other.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")

# A run that ends at this very moment has closed its wake-up socket already: trio then lets an OSError (EBADF) out.
_RUN_IS_OVER = (trio.RunFinishedError, OSError)


def post(token: trio.lowlevel.TrioToken, function: Callable[..., object], *args: object) -> bool:
    """From any thread: run `function` soon in trio. False when that trio run is over, so nobody is left to tell."""
    try:
        token.run_sync_soon(function, *args)
    except _RUN_IS_OVER:
        return False
    return True


class Inbox(Generic[T]):
    """Filled by one thread, drained by one trio task."""

    def __init__(self, token: trio.lowlevel.TrioToken, max_items: int, max_bytes: int) -> None:
        self._token = token
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._end: Exception | None = None
        self._closed = False
        self._room = threading.Condition()
        self._wake: trio.Event | None = None

    def put(self, item: T, size: int) -> bool:
        """Thread: wait for room, then hand over. False when the reader is gone."""
        with self._room:
            # One item may always enter, or an item above the limit could never pass.
            while self._items and (len(self._items) >= self._max_items or self._bytes + size > self._max_bytes):
                if self._closed:
                    return False
                self._room.wait()
            if self._closed:
                return False
            self._items.append((item, size))
            self._bytes += size
        self._notify_reader()
        return True

    def finish(self, end: Exception) -> None:
        """Thread: nothing follows; the reader gets `end` after the last item."""
        with self._room:
            self._end = end
        self._notify_reader()

    def _notify_reader(self) -> None:
        try:
            self._token.run_sync_soon(self._wake_reader, idempotent=True)
        except _RUN_IS_OVER:
            self.close()

    def _wake_reader(self) -> None:
        if self._wake is not None:
            self._wake.set()

    async def take(self) -> list[T]:
        """trio: everything that is here, at least one item; raises what `finish` was given after the last.

        Raises trio.BusyResourceError for a second reader, trio.ClosedResourceError after `close`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this stream has been closed")
            with self._room:
                if self._items:
                    taken = [item for item, _ in self._items]
                    self._items.clear()
                    self._bytes = 0
                    self._room.notify()
                    break
                if self._end is not None:
                    raise self._end
            if self._wake is not None:
                raise trio.BusyResourceError("another task is already receiving from this stream")
            self._wake = trio.Event()
            try:
                if not self._items and self._end is None:  # a wake-up before the event existed is not lost
                    await self._wake.wait()
                    waited = True
            finally:
                self._wake = None
        if not waited:  # waiting was a checkpoint; another one would only delay what has come
            await trio.lowlevel.cancel_shielded_checkpoint()
        return taken

    def close(self) -> None:
        """Either side: drop what is held and let the thread go."""
        with self._room:
            self._closed = True
            self._items.clear()
            self._bytes = 0
            self._room.notify_all()
        self._notify_if_waiting()

    def _notify_if_waiting(self) -> None:
        if self._wake is not None:
            post(self._token, self._wake_reader)


class Outbox(Generic[T]):
    """Filled by trio tasks, drained by one thread, which takes items until it meets the end."""

    def __init__(self, token: trio.lowlevel.TrioToken, max_items: int) -> None:
        self._token = token
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._max_items = max_items
        self._ended = False
        self._waiting = trio.lowlevel.ParkingLot()
        # The thread wakes trio for free room only where somebody waits for it: a wake-up costs both of them a turn.
        self._lock = threading.Lock()
        self._room_wanted = False

    async def put(self, item: T) -> None:
        """trio: wait for room, then hand over. Raises trio.BrokenResourceError once `end` was called."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._full() and not self._ended:
            await self._waiting.park()
        if self._ended:
            raise trio.BrokenResourceError("this stream has ended: nothing more can be sent on it")
        self._queue.put(item)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def put_nowait(self, item: T) -> None:
        """trio: hand over at once. Raises trio.WouldBlock when full, trio.BrokenResourceError after the end."""
        if self._ended:
            raise trio.BrokenResourceError("this stream has ended: nothing more can be sent on it")
        if self._queue.qsize() >= self._max_items:
            raise trio.WouldBlock
        self._queue.put(item)

    def put_last(self, item: T) -> None:
        """trio: hand over above the bound; for the one item that precedes `end`."""
        self._queue.put(item)

    def end(self) -> None:
        """trio: the thread meets the end after what is queued; waiting senders fail."""
        self._ended = True
        self._queue.put(None)
        self._waiting.unpark_all()

    def end_from_thread(self) -> None:
        """Any thread: the same, for a peer that is gone; what is still queued is of no use to anyone."""
        self._queue.put(None)
        post(self._token, self.end)

    def get(self) -> T | None:
        """Thread: the next item, None at the end."""
        item = self._queue.get()
        with self._lock:
            wanted, self._room_wanted = self._room_wanted, False
        if wanted:
            post(self._token, self._waiting.unpark_all)
        return item

    def _full(self) -> bool:
        """And if so, the thread will say when there is room: what it takes from here on, it sees the wish."""
        with self._lock:
            full = self._queue.qsize() >= self._max_items
            self._room_wanted |= full  # never taken back here: another task may be waiting
            return full
