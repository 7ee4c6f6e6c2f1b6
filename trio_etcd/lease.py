"""Leases kept alive on one stream, with the moment known after which each may no longer be alive."""

from collections import deque

import trio

from trio_grpc import RpcError, StatusCode

from . import wire
from ._proto import etcd_pb2 as pb
from .backoff import Backoff
from .calls import Calls
from .endpoints import Connection
from .errors import EtcdError, LeaseLost, PermissionDenied, Unauthenticated, from_rpc
from .link import Link
from .transport import TransportStream

BEATS_PER_TTL = 3  # two may be lost before the lease is in danger, as etcd's own client has it
RECONNECT_FIRST_S = 0.05
RECONNECT_MOST_S = 1.0  # shorter than for watches: a lease has a clock running


class KeepAlive:
    """One lease that is kept alive, granted by whomever. Made by `Client.keep_alive` or `Client.lease`."""

    def __init__(self, mux: "KeepAliveMux", lease_id: int, ttl: float, alive_until: float) -> None:
        self.id = lease_id
        self._mux = mux
        self._ttl = ttl
        self._alive_until = alive_until
        self._next_beat = alive_until - ttl + ttl / BEATS_PER_TTL
        self._sent_at: float | None = None
        self._lost: LeaseLost | None = None
        self._over = trio.Event()

    @property
    def alive_until(self) -> float:
        """trio clock time until which etcd certainly holds it: counted from the *sending* of the last answered beat."""
        return self._alive_until

    @property
    def lost(self) -> LeaseLost | None:
        """Why it is lost; None while it is not."""
        return self._lost

    @property
    def link(self) -> Link:
        """The state of the stream that carries the beats."""
        return self._mux.link

    async def wait_lost(self) -> LeaseLost:
        """Return when the lease has ended, or may have because it could not be renewed in time."""
        await self._over.wait()
        assert self._lost is not None  # noqa: S101 - set together
        return self._lost

    # --- for the multiplexer ---

    @property
    def waiting(self) -> bool:
        """Whether a beat is unanswered."""
        return self._sent_at is not None

    def wakes_at(self, may_beat: bool) -> float:
        """When something is to be done about it: a beat if it may, a missing answer, or its end."""
        due = self.answer_due if self.waiting or not may_beat else self._next_beat
        return min(due, self._alive_until)

    @property
    def answer_due(self) -> float:
        """When a beat without answer means that the stream is no good."""
        return float("inf") if self._sent_at is None else self._sent_at + self._ttl / BEATS_PER_TTL

    def beat_due(self, now: float) -> bool:
        """Whether to send now; never a second beat before the first is answered."""
        return self._sent_at is None and now >= self._next_beat

    def sent(self, now: float) -> None:
        """A beat is on its way."""
        self._sent_at = now

    def answered(self, ttl: int) -> None:
        """etcd has renewed it, or says with 0 that it is gone."""
        if ttl <= 0:
            self.lose("etcd no longer has it: it expired or was revoked")
        elif self._sent_at is not None:
            self._ttl = ttl
            self._alive_until = self._sent_at + ttl
            self._next_beat = self._sent_at + ttl / BEATS_PER_TTL
            self._sent_at = None

    def stream_ended(self) -> None:
        """No answer will come: beat again as soon as there is a stream."""
        self._sent_at = None
        self._next_beat = 0.0

    def lose(self, why: str) -> None:
        """It is over."""
        if self._lost is None:
            self._lost = LeaseLost(f"lease {self.id:x} is lost: {why}")
            self._over.set()


class KeepAliveMux:
    """Runs in the client's nursery."""

    def __init__(self, calls: Calls) -> None:
        self.link = Link()
        self._calls = calls
        self._leases: dict[int, list[KeepAlive]] = {}
        self._changed = trio.Event()
        self._session: trio.CancelScope | None = None
        self._outgoing: deque[KeepAlive] = deque()
        self._wake_writer = trio.Event()
        self._patience = trio.CancelScope()
        # etcd answers one forbidden renewal by ending the stream of all: then beats go one by one, to find out which.
        self._one_by_one = False

    def add(self, lease_id: int, ttl: float, alive_until: float) -> KeepAlive:
        """Keep it alive from now on."""
        kept = KeepAlive(self, lease_id, ttl, alive_until)
        self._leases.setdefault(lease_id, []).append(kept)
        self._notify()
        return kept

    def remove(self, kept: KeepAlive) -> None:
        """Stop; the stream ends with the last one."""
        same = self._leases.get(kept.id, [])
        if kept in same:
            same.remove(kept)
        if not same:
            self._leases.pop(kept.id, None)
        if not self._leases and self._session is not None:
            self._session.cancel()

    def move(self) -> None:
        """Open a new stream on the current connection."""
        if self._session is not None:
            self._session.cancel()

    def _all(self) -> list[KeepAlive]:
        return [kept for same in self._leases.values() for kept in same]

    async def run(self) -> None:
        """For ever: streams while there are leases, and losses noticed with or without one."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._time)
            backoff = Backoff(RECONNECT_FIRST_S, RECONNECT_MOST_S, self._calls.rng)
            while True:
                while not self._leases:
                    await self._changed.wait()
                with self._calls.endpoints.current().used() as connection:
                    failure, waiting = await self._run_session(connection)
                if failure is None:
                    self.link.lost(connection.endpoint, None)
                    await trio.lowlevel.checkpoint()
                    continue
                if self.link.state.connected:
                    backoff.reset()
                self.link.lost(connection.endpoint, failure)
                if isinstance(failure, PermissionDenied | Unauthenticated):
                    self._blame(waiting, failure)
                else:
                    self._calls.endpoints.failed(connection)
                await trio.sleep(backoff.pause())

    def _blame(self, waiting: list[KeepAlive], failure: EtcdError) -> None:
        """A renewal was forbidden: newer versions want write permission on every key that is attached to a lease."""
        if len({kept.id for kept in waiting}) == 1:
            for kept in waiting:
                kept.lose(f"etcd refuses to renew it for this user, who must be able to write its keys: {failure}")
        else:
            self._one_by_one = True

    async def _run_session(self, connection: Connection) -> tuple[EtcdError | None, list[KeepAlive]]:
        """One stream; what ended it (None: this side did), and whose beats were unanswered then."""
        failure: RpcError | None = None
        waiting: list[KeepAlive] = []
        with trio.CancelScope() as self._session:
            try:
                with connection.transport.stream(wire.LEASE_KEEP_ALIVE, metadata=wire.HAS_LEADER) as stream:
                    self._outgoing.clear()
                    self._notify()  # the timer sends what is due
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._write, stream)
                        failure = await self._read(stream, connection)
                        nursery.cancel_scope.cancel()
            finally:
                self._session = None
                waiting = [kept for kept in self._all() if kept.waiting]
                for kept in self._all():
                    kept.stream_ended()
        if failure is None:
            return None, waiting
        return from_rpc(failure, what="lease keep-alive", endpoint=connection.endpoint, write=False), waiting

    async def _read(self, stream: TransportStream, connection: Connection) -> RpcError:
        while True:
            try:
                with trio.CancelScope() as patience:
                    self._patience = patience
                    messages = await stream.receive()
                if patience.cancelled_caught:
                    return RpcError(StatusCode.UNAVAILABLE, "a lease renewal was not answered in time")
            except RpcError as failure:
                return failure
            except trio.EndOfChannel:
                return RpcError(StatusCode.UNAVAILABLE, "the server ended the stream")
            self.link.heard(connection.endpoint)
            for message in messages:
                response = pb.LeaseKeepAliveResponse.FromString(message)
                for kept in self._leases.get(response.ID, []):
                    kept.answered(response.TTL)
            self._notify()

    async def _write(self, stream: TransportStream) -> None:
        while True:
            while self._outgoing:
                kept = self._outgoing.popleft()
                try:
                    await stream.send(pb.LeaseKeepAliveRequest(ID=kept.id).SerializeToString())
                except trio.BrokenResourceError:
                    return  # the reader is told why
            self._wake_writer = trio.Event()
            await self._wake_writer.wait()

    async def _time(self) -> None:
        """Beats, missing answers and ends, each at its time."""
        while True:
            now = trio.current_time()
            for kept in self._all():
                if kept.lost is None:
                    self._attend(kept, now)
            # Without a stream only an end can be due; a new stream, lease or answer wakes this task.
            wakes = [kept.wakes_at(self._may_beat()) for kept in self._all() if kept.lost is None]
            with trio.move_on_at(min(wakes, default=float("inf"))):
                await self._changed.wait()

    def _may_beat(self) -> bool:
        if self._session is None:
            return False
        return not (self._one_by_one and any(kept.waiting for kept in self._all() if kept.lost is None))

    def _attend(self, kept: KeepAlive, now: float) -> None:
        if now >= kept.alive_until:
            error = self.link.state.error
            kept.lose(f"it could not be renewed in time{f' ({error})' if error else ''}")
        elif self._session is not None and now >= kept.answer_due:
            self._patience.cancel()
        elif self._may_beat() and kept.beat_due(now):
            kept.sent(now)
            self._outgoing.append(kept)
            self._wake_writer.set()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
