"""[edge] etcd as the replica uses it: few operations, our own errors, a deadline on each call."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio

import trio_etcd
from controlplane.store.losses import Pulse
from controlplane.store.newest import Newest
from controlplane.store.ops import MAX_TXN_OPS, Delete, Guard, KeyGuard, LeaseGuard, Op, PrefixGuard, Put
from schemas import errors
from schemas.errors import MeshError, Problem
from schemas.keys import Keyspace
from trio_etcd import Client, Compare, Get, KeyValue, Listing, RangeResult, Relation, Target, Watch

CALL_SECONDS = 5.0  # an etcd that works answers in milliseconds; an election takes about 1 s
# One attempt of a write: leaves room within a request's time to find out what became of it.
ATTEMPT_SECONDS = 2.0
PAUSE_SECONDS = 0.1  # between two attempts; etcd elects a leader in about 1 s


class LeaseGone(MeshError):
    """The lease that a write names has ended. Nothing was written."""


class MustListAgain(MeshError):
    """A watch can't go on where it was: compacted, or the store is another one."""


class Store:
    """All that is read and written. `keyspace` says where. Raises our errors only."""

    def __init__(self, client: Client, keyspace: Keyspace) -> None:
        self._client = client
        self.keyspace = keyspace
        self.newest = Newest()
        self._following: set[trio.CancelScope] = set()

    @contextmanager
    def until_restored(self) -> Iterator[trio.CancelScope]:
        """Cancels its body when what etcd holds is of another time, and everything has to be listed again."""
        with trio.CancelScope() as scope:
            self._following.add(scope)
            try:
                yield scope
            finally:
                self._following.discard(scope)

    def list_again(self) -> None:
        """etcd was restored: end all that goes by what it held before."""
        for scope in tuple(self._following):
            scope.cancel()

    async def get(self, key: bytes) -> KeyValue | None:
        with _translated():
            return await self._client.get(key, timeout=CALL_SECONDS)

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, KeyValue]:
        """Those that exist. One revision for each 128 keys."""
        wanted = sorted(set(keys))
        found: dict[bytes, KeyValue] = {}
        for start in range(0, len(wanted), MAX_TXN_OPS):
            for one in await self._read([Get(key) for key in wanted[start : start + MAX_TXN_OPS]]):
                found.update((kv.key, kv) for kv in one.kvs)
        return found

    async def _read(self, gets: Sequence[Get]) -> list[RangeResult]:
        """Several keys at one revision. The client repeats no transaction by itself; one that only reads may be."""
        deadline = trio.current_time() + CALL_SECONDS
        while True:
            try:
                with _translated(), self.newest.seen_by() as answered:
                    left = max(0.05, deadline - trio.current_time())
                    result = await self._client.txn([], gets, timeout=min(left, ATTEMPT_SECONDS))
                    answered(result.revision)
                return [one for one in result.results if isinstance(one, RangeResult)]
            except errors.Unavailable as error:
                if trio.current_time() + PAUSE_SECONDS >= deadline:
                    raise errors.Unavailable(f"can't read: {error.__cause__ or error}") from error
                await trio.sleep(PAUSE_SECONDS)

    async def get_at(self, keys: Iterable[bytes], revision: int) -> dict[bytes, KeyValue]:
        """Those that existed at a past revision. Raises MustListAgain where that has been compacted."""
        found: dict[bytes, KeyValue] = {}
        for key in keys:
            with _translated():
                kv = await self._client.get(key, revision=revision, timeout=CALL_SECONDS)
            if kv is not None:
                found[key] = kv
        return found

    async def list_at(self, prefix: bytes, revision: int) -> Listing:
        """All below `prefix` as it was at a revision, 0: as it is now. Raises NotFound where etcd has that no more."""
        if not revision:
            return await self.list(prefix)
        try:
            with _translated():
                return await self._client.list(prefix, revision=revision, timeout=CALL_SECONDS)
        except MustListAgain as error:
            raise gone(revision, error) from error

    async def list(self, prefix: bytes) -> Listing:
        """All below `prefix`, at one revision."""
        with _translated(), self.newest.seen_by() as answered:
            listing = await self._client.list(prefix, timeout=CALL_SECONDS)
            answered(listing.revision)
        return listing

    async def list_keys(self, prefix: bytes) -> tuple[bytes, ...]:
        """The keys below `prefix`, without values."""
        with _translated():
            listing = await self._client.list(prefix, keys_only=True, timeout=CALL_SECONDS)
        return tuple(kv.key for kv in listing.kvs)

    async def transact(
        self, guards: Sequence[Guard], ops: Sequence[Op], *, seconds: float = ATTEMPT_SECONDS
    ) -> int | None:
        """The revision of the write; None: a guard did not hold, and nothing was written.

        Raises LeaseGone; LimitExceeded; Unavailable, which says whether the write may have happened.
        """
        with _translated(), self.newest.seen_by() as answered:
            result = await self._client.txn(
                [_compare(guard) for guard in guards], [_operation(op) for op in ops], timeout=seconds
            )
            answered(result.revision)
        return result.revision if result.succeeded else None

    async def grant_lease(self, ttl: int, *, lease_id: int = 0) -> int:
        """A new lease of `ttl` seconds; etcd chooses its id unless given."""
        with _translated():
            return (await self._client.grant(ttl, lease_id=lease_id, timeout=CALL_SECONDS)).id

    async def revoke_lease(self, lease: int) -> int:
        """With all its keys; the revision of that. Raises NotFound where it has ended."""
        try:
            with _translated():
                return await self._client.revoke(lease, timeout=CALL_SECONDS)
        except LeaseGone as error:
            raise errors.NotFound(f"lease {lease:x} has ended") from error

    async def count_leases(self) -> int | None:
        """All that there are; None: more than fit into an answer."""
        with _translated():
            try:
                return len(await self._client.leases(timeout=CALL_SECONDS))
            except trio_etcd.ResponseTooLarge:
                return None

    async def lease_life(self, lease: int) -> Pulse:
        """Whole seconds until it ends unless it is renewed, so 0 in the last one, and what it was granted."""
        with _translated():
            status = await self._client.lease_status(lease, timeout=CALL_SECONDS)
        return Pulse(status.ttl, status.granted_ttl)

    async def lease_ttl(self, lease: int) -> int:
        """What the lease was granted, in seconds; 0 where it has ended."""
        with _translated():
            status = await self._client.lease_status(lease, timeout=CALL_SECONDS)
        return status.granted_ttl if status.ttl > 0 else 0

    @asynccontextmanager
    async def watch(self, prefix: bytes, start_revision: int) -> AsyncIterator[Watch]:
        """Every revision from `start_revision` that touches `prefix`; 0: from now on. Raises MustListAgain."""
        with _translated():
            async with self._client.watch(prefix, prefix=True, start_revision=start_revision) as watch:
                yield watch


def gone(revision: int, error: MustListAgain) -> errors.NotFound:
    """Of a past revision that somebody asked for."""
    return errors.NotFound(f"revision {revision} can't be read: {error}; etcd keeps an hour or so of the past")


def _compare(guard: Guard) -> Compare:
    match guard:
        case KeyGuard():
            return Compare.unchanged(guard.key, guard.mod_revision)
        case LeaseGuard():
            return Compare(guard.key, Target.LEASE, guard.lease)
        case PrefixGuard():
            key, end = trio_etcd.prefix_range(guard.prefix)
            return Compare(key, Target.MOD, guard.revision + 1, Relation.LESS, end)


def _operation(op: Op) -> trio_etcd.Op:
    match op:
        case Put():
            return trio_etcd.Put(op.key, op.value, op.lease)
        case Delete():
            return trio_etcd.Delete(op.key)


class _translated:  # noqa: N801  (used as a function)
    """etcd's errors as ours."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, trio_etcd.EtcdError):
            raise translate(error) from error


def translate(error: trio_etcd.EtcdError) -> MeshError:
    """Whose fault it is, in the words of the caller of a replica."""
    match error:
        case trio_etcd.Compacted() | trio_etcd.StoreReplaced() | trio_etcd.FutureRevision():
            return MustListAgain(str(error))
        case trio_etcd.LeaseNotFound():
            return LeaseGone(str(error))
        case trio_etcd.RequestTooLarge() | trio_etcd.TooManyOperations():
            remedy = "apply it in parts; or raise etcd's limit, and tell the maintainers that ours was wrong"
            return errors.LimitExceeded(Problem("change set", error.message, remedy=remedy))
        case trio_etcd.NoSpace():
            return errors.Unavailable("etcd's quota is used up (NOSPACE): compact, defragment, then disarm the alarm")
        case trio_etcd.PermissionDenied() | trio_etcd.Unauthenticated() | trio_etcd.CredentialsRefused():
            # The replica's own fault, not its caller's.
            return errors.Unavailable(f"etcd refuses this replica: {error}", outcome_unknown=error.maybe_applied)
        case _:
            return errors.Unavailable(f"etcd: {error.message}", outcome_unknown=error.maybe_applied)
