"""The client: KV, transactions, leases and watches on one connection, each call with a deadline."""

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress

import trio

from trio_grpc import TLS, background_nursery

from . import wire
from ._proto import etcd_pb2 as pb
from .calls import Calls
from .endpoints import Endpoints
from .errors import Compacted, DeadlineExceeded, EtcdError, PermissionDenied, ResponseTooLarge
from .lease import KeepAlive, KeepAliveMux
from .link import Link
from .transport import Connect, connect_http2, parse_endpoint
from .types import (
    Alarm,
    AlarmState,
    Compare,
    DeleteResult,
    KeyValue,
    LeaseGrant,
    LeaseStatus,
    Listing,
    Member,
    Op,
    PutResult,
    RangeResult,
    Status,
    TxnResult,
    prefix_range,
)
from .watch import Watch
from .watch_mux import WatchMux

TIMEOUT_S = 5.0  # a call's default deadline: an election takes 1 to 2 s with etcd's defaults
PROGRESS_EVERY_S = 60.0  # how old a quiet watch's position may get
PAGE_KEYS = 1000  # keys asked for at once by `list`
BUFFER_EVENTS = 4096  # events held for one watch before it is paused at the server
REVOKE_TIMEOUT_S = 2.0  # at the end of `lease`; if it fails, the lease expires by itself


@asynccontextmanager
async def open_etcd(
    endpoints: str | Sequence[str],
    *,
    tls: TLS | None = None,
    timeout: float = TIMEOUT_S,
    progress_every: float = PROGRESS_EVERY_S,
    rng: random.Random | None = None,
    connect: Connect = connect_http2,
) -> AsyncIterator["Client"]:
    """A client for the body of the `async with`; nothing is sent before the first call.

    `endpoints`: "host:port", "https://host:port" or "unix:/path", one or several members of one cluster. `timeout`:
    seconds for every call that names none. `progress_every`: seconds between progress requests of watches.
    `rng` spreads retries and the choice of the first endpoint. Raises ValueError for a malformed endpoint.
    """
    given = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    rng = rng or random.Random()  # noqa: S311 - jitter, not secrecy
    pool = Endpoints([parse_endpoint(one, tls=tls is not None) for one in given], tls, connect, rng)
    client = Client(Calls(pool, timeout, rng), progress_every)
    try:
        async with background_nursery() as nursery:
            nursery.start_soon(client._watches.run)
            nursery.start_soon(client._keep_alives.run)
            yield client
    finally:
        pool.close()


class Client:
    """Made by `open_etcd`. `timeout` of each call is in seconds; all raise EtcdError, see `errors`.

    Reads are linearizable unless said otherwise and are retried on other endpoints within their timeout. Writes are
    sent once: after an error with `maybe_applied` only a read tells what happened.
    """

    def __init__(self, calls: Calls, progress_every: float) -> None:
        self.calls = calls
        self._watches = WatchMux(calls, progress_every)
        self._keep_alives = KeepAliveMux(calls)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All of them, the one in use first."""
        return self.calls.endpoints.all

    @property
    def watch_link(self) -> Link:
        """The state of the stream that carries all watches."""
        return self._watches.link

    # --- keys ---

    async def get(
        self, key: bytes, *, revision: int = 0, serializable: bool = False, timeout: float | None = None
    ) -> KeyValue | None:
        """One key, now or as it was at `revision`. `serializable`: from the member asked, possibly stale."""
        found = await self.range(key, revision=revision, serializable=serializable, timeout=timeout)
        return found.kvs[0] if found.kvs else None

    async def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> RangeResult:
        """One key or `[key, range_end)`, with the store's revision. For whole prefixes use `list`, which pages."""
        request = pb.RangeRequest(
            key=key,
            range_end=range_end,
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
        )
        response = await self.calls.read(wire.RANGE, request, pb.RangeResponse, timeout)
        return wire.range_result(response, response.header.revision)

    async def list(
        self,
        prefix: bytes,
        *,
        revision: int = 0,
        keys_only: bool = False,
        page: int = PAGE_KEYS,
        timeout: float | None = None,
    ) -> Listing:
        """Everything under `prefix` at one revision, fetched in pages of at most `page` keys.

        With a compaction in the middle it starts over (a given `revision` raises Compacted). Pages shrink when values
        are large.
        """
        deadline = trio.current_time() + self.calls.seconds(timeout)
        while True:
            try:
                return await self._list_once(prefix, revision, keys_only, page, deadline)
            except Compacted:
                if revision or trio.current_time() >= deadline:
                    raise

    async def _list_once(self, prefix: bytes, revision: int, keys_only: bool, page: int, deadline: float) -> Listing:
        key, range_end = prefix_range(prefix)
        kvs: list[KeyValue] = []
        while True:
            left = deadline - trio.current_time()
            if left <= 0:
                raise DeadlineExceeded(f"listing {prefix!r} took too long: {len(kvs)} keys came in time")
            try:
                part = await self.range(
                    key, range_end, limit=page, revision=revision, keys_only=keys_only, timeout=left
                )
            except ResponseTooLarge:
                if page == 1:
                    raise
                page = max(1, page // 4)
                continue
            revision = revision or part.revision
            kvs += part.kvs
            if not part.more:
                return Listing(revision, tuple(kvs))
            key = part.kvs[-1].key + b"\0"

    async def put(
        self, key: bytes, value: bytes, *, lease: int = 0, want_previous: bool = False, timeout: float | None = None
    ) -> PutResult:
        """Write one key, attached to `lease` if given."""
        request = pb.PutRequest(key=key, value=value, lease=lease, prev_kv=want_previous)
        response = await self.calls.write(wire.PUT, request, pb.PutResponse, timeout)
        return wire.put_result(response, response.header.revision)

    async def delete(
        self, key: bytes, range_end: bytes = b"", *, want_previous: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete one key or `[key, range_end)`."""
        request = pb.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=want_previous)
        response = await self.calls.write(wire.DELETE_RANGE, request, pb.DeleteRangeResponse, timeout)
        return wire.delete_result(response, response.header.revision)

    async def delete_prefix(self, prefix: bytes, *, timeout: float | None = None) -> DeleteResult:
        """Delete everything under `prefix`, at one revision."""
        return await self.delete(*prefix_range(prefix), timeout=timeout)

    async def txn(
        self,
        compare: Iterable[Compare],
        success: Iterable[Op],
        failure: Iterable[Op] = (),
        *,
        timeout: float | None = None,
    ) -> TxnResult:
        """All of `success` if every comparison holds, else all of `failure`, at one revision."""
        request = wire.txn_request(compare, success, failure)
        return wire.txn_result(await self.calls.write(wire.TXN, request, pb.TxnResponse, timeout))

    async def compact(self, revision: int, *, physical: bool = False, timeout: float | None = None) -> None:
        """Drop the history before `revision`. `physical`: wait until it is gone from the disk."""
        request = pb.CompactionRequest(revision=revision, physical=physical)
        await self.calls.write(wire.COMPACT, request, pb.CompactionResponse, timeout)

    # --- the cluster ---

    async def status(self, endpoint: str | None = None, *, timeout: float | None = None) -> Status:
        """What the member in use says of itself, or the one at `endpoint` (as in `endpoints`)."""
        if endpoint is None:
            return wire.status(await self.calls.read(wire.STATUS, pb.StatusRequest(), pb.StatusResponse, timeout))
        connection = self.calls.endpoints.to(endpoint)
        seconds = self.calls.seconds(timeout)
        return wire.status(await self.calls.at(connection, wire.STATUS, pb.StatusRequest(), pb.StatusResponse, seconds))

    async def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """The members of the cluster."""
        request = pb.MemberListRequest(linearizable=True)
        response = await self.calls.read(wire.MEMBER_LIST, request, pb.MemberListResponse, timeout)
        return tuple(map(wire.member, response.members))

    async def alarms(self, *, timeout: float | None = None) -> tuple[AlarmState, ...]:
        """The alarms that are raised."""
        request = pb.AlarmRequest(action=pb.AlarmRequest.GET)
        response = await self.calls.read(wire.ALARM, request, pb.AlarmResponse, timeout)
        return tuple(AlarmState(one.memberID, Alarm(pb.AlarmType.Name(one.alarm))) for one in response.alarms)

    # --- leases ---

    async def grant(self, ttl: int, *, lease_id: int = 0, timeout: float | None = None) -> LeaseGrant:
        """A new lease of `ttl` seconds; etcd chooses the id unless given. It expires unless kept alive."""
        request = pb.LeaseGrantRequest(TTL=ttl, ID=lease_id)
        response = await self.calls.write(wire.LEASE_GRANT, request, pb.LeaseGrantResponse, timeout)
        return LeaseGrant(response.ID, response.TTL)

    async def revoke(self, lease_id: int, *, timeout: float | None = None) -> int:
        """End a lease; the revision at which its keys are deleted. Raises LeaseNotFound when it is gone already."""
        request = pb.LeaseRevokeRequest(ID=lease_id)
        response = await self.calls.write(wire.LEASE_REVOKE, request, pb.LeaseRevokeResponse, timeout)
        return response.header.revision

    async def lease_status(
        self, lease_id: int, *, want_keys: bool = False, timeout: float | None = None
    ) -> LeaseStatus:
        """Time left and, when asked for, attached keys; `ttl` is -1 for a lease that does not exist."""
        request = pb.LeaseTimeToLiveRequest(ID=lease_id, keys=want_keys)
        response = await self.calls.read(wire.LEASE_TIME_TO_LIVE, request, pb.LeaseTimeToLiveResponse, timeout)
        return LeaseStatus(response.ID, response.TTL, response.grantedTTL, tuple(response.keys))

    async def leases(self, *, timeout: float | None = None) -> tuple[int, ...]:
        """The ids of all leases that there are, whoever granted them."""
        response = await self.calls.read(wire.LEASE_LEASES, pb.LeaseLeasesRequest(), pb.LeaseLeasesResponse, timeout)
        return tuple(one.ID for one in response.leases)

    @asynccontextmanager
    async def keep_alive(self, lease_id: int, ttl: float) -> AsyncIterator[KeepAlive]:
        """Keep a lease alive for the body, also one that somebody else granted; it is not revoked at the end.

        `ttl`: seconds that it has left at least, such as its granted time just after the grant. Watch `wait_lost`.
        With auth on, etcd 3.5.30 lets only those renew a lease who may write every key attached to it (3.5.16 let
        everyone); a lease without keys can be renewed by any user.
        """
        kept = self._keep_alives.add(lease_id, ttl, trio.current_time() + ttl)
        try:
            yield kept
        finally:
            self._keep_alives.remove(kept)

    @asynccontextmanager
    async def lease(self, ttl: int, *, timeout: float | None = None) -> AsyncIterator[KeepAlive]:
        """A new lease kept alive for the body and revoked after it.

        When it is lost the body is cancelled and LeaseLost raised.
        """
        asked_at = trio.current_time()
        granted = await self.grant(ttl, timeout=timeout)
        kept = self._keep_alives.add(granted.id, granted.ttl, asked_at + granted.ttl)
        try:
            async with background_nursery() as nursery:

                async def guard() -> None:
                    await kept.wait_lost()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(guard)
                yield kept
        finally:
            self._keep_alives.remove(kept)
            if kept.lost is None:
                # If this fails it expires by itself.
                with trio.CancelScope(shield=True), suppress(EtcdError):
                    await self.revoke(kept.id, timeout=REVOKE_TIMEOUT_S)
        if kept.lost is not None:
            raise kept.lost

    # --- watches ---

    @asynccontextmanager
    async def watch(
        self,
        key: bytes,
        *,
        prefix: bool = False,
        range_end: bytes = b"",
        start_revision: int = 0,
        want_previous: bool = False,
        progress: bool = False,
        buffer_events: int = BUFFER_EVENTS,
        timeout: float | None = None,
    ) -> AsyncIterator[Watch]:
        """Watch a key, a `prefix`, or `[key, range_end)`, from `start_revision` (0: from now) until the body ends.

        Returns when the server has accepted it: every change after that is seen, through any number of cuts.
        `progress`: the iterator also yields Progress. Raises PermissionDenied when refused, DeadlineExceeded when no
        server accepted it within `timeout`; Compacted comes from the iteration.
        """
        if prefix:
            key, range_end = prefix_range(key)
        watch = Watch(
            self._watches,
            key,
            range_end,
            start_revision=start_revision,
            previous=want_previous,
            progress=progress,
            buffer_events=buffer_events,
        )
        self._watches.add(watch)
        try:
            with trio.move_on_after(self.calls.seconds(timeout)) as patience:
                await watch.wait_created()
            if patience.cancelled_caught:
                cause = self.watch_link.state.error
                text = f"no server accepted the watch of {key!r} in time"
                raise DeadlineExceeded(f"{text}: {cause}" if cause else text)
            yield watch
        finally:
            self._watches.remove(watch)

    # --- credentials ---

    async def replace_tls(self, tls: TLS, *, timeout: float | None = None) -> None:
        """Go on with other credentials: connect with them, ask one question, then move everything over.

        Watches resume at their next revision and leases miss no beat; calls in flight end on the old connection. If
        the new credentials don't work the error is raised and the old ones stay in use.
        """
        endpoints = self.calls.endpoints
        with endpoints.trial(tls) as candidate:
            trial = Calls(candidate, self.calls.seconds(timeout), self.calls.rng)
            with suppress(PermissionDenied):  # whoever is told that knows us: only root may ask newer versions
                await trial.read(wire.STATUS, pb.StatusRequest(), pb.StatusResponse)
            endpoints.adopt(candidate)
        self._watches.move()
        self._keep_alives.move()
