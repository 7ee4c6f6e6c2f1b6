"""[edge] Fetches keys of token issuers into ``data/jwks/``, one replica at a time.

Every replica runs it; what is due follows from what etcd holds. The lock keeps replicas out of each other's way, and
its ownership is checked in the transaction of the effect, together with all that the decision rested upon. What could
not be had, or has no usable key, replaces nothing.
"""

import enum
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from controlplane.fetching import AGAIN_SECONDS, ASKED_SECONDS, AT_ONCE, IDLE_SECONDS
from controlplane.https_get import Network
from controlplane.key_sets.decide import Fetch, Forget, Place, Source, Wait, fairly, next_action, next_try
from controlplane.key_sets.fetch import fetch
from controlplane.key_sets.places import Named, Places, key_set_of, named_by, place_of, status_of
from controlplane.log import event
from controlplane.store.etcd import Store
from controlplane.store.lock import locked
from controlplane.store.ops import Delete, Guard, KeyGuard, LeaseGuard, PrefixGuard, Put, put_over
from schemas.errors import Conflict, Corrupt, MeshError
from schemas.key_sets import ca_digest
from schemas.keys import KeySetRef
from schemas.names import ObjectRef
from schemas.objects import RequestAuthentication
from schemas.records import KeySet, KeySetStatus, Record
from trio_etcd import KeyValue

# Of why an attempt failed; it may quote what a stranger's server said.
_MAX_PROBLEM = 1000

logger = logging.getLogger("mesh.audit")


class KeySetEvent(enum.StrEnum):
    """The audit's events. These names are all there are."""

    TAKEN = "keys of a token issuer taken"
    NOT_FETCHED = "keys of a token issuer not fetched"
    FORGOTTEN = "keys of a token issuer forgotten"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A place as etcd has it at one moment, with what a decision about it rests upon."""

    place: Place
    guards: tuple[Guard, ...]
    key_set: KeyValue | None
    status: KeyValue | None


class KeySetFollower:
    """Feed `places` by `follow`; then `run`. now: seconds since 1970; fraction: random numbers in [0, 1).

    refused: networks in which no issuer is asked.
    """

    def __init__(
        self,
        store: Store,
        replica: str,
        now: Callable[[], float],
        fraction: Callable[[], float],
        refused: Sequence[Network] = (),
    ) -> None:
        self._store = store
        self._replica = replica
        self._now = now
        self._fraction = fraction
        self._refused = tuple(refused)
        self._wake = trio.Event()
        self._limit = trio.Semaphore(AT_ONCE)
        self._tried_here: dict[KeySetRef, int] = {}
        """When this replica last tried, in seconds since 1970."""
        self.places = Places(store.keyspace, lambda: self._wake.set())

    async def run(self) -> None:
        """For ever. Raises nothing: what fails is logged and tried again."""
        while True:
            self._wake = trio.Event()
            wait = await self.advance() if self.places.synced else IDLE_SECONDS
            with trio.move_on_after(wait * (0.75 + 0.5 * self._fraction())):
                await self._wake.wait()

    async def advance(self) -> float:
        """Of what is due as much as is fair. Seconds until the next look."""
        now = int(self._now())
        soonest = now + IDLE_SECONDS
        due: list[Place] = []
        places = self.places.all()
        self._tried_here = {one.ref: at for one in places if (at := self._tried_here.get(one.ref)) is not None}
        for place in places:
            action = next_action(place, now, tried_here=self._tried_here.get(place.ref, 0))
            if not isinstance(action, Wait):
                due.append(place)
            elif action.until is not None:
                soonest = min(soonest, action.until)
        async with trio.open_nursery() as nursery:
            for place in fairly(due, AT_ONCE):
                await self._limit.acquire()
                nursery.start_soon(self._try, place.ref)
        return AGAIN_SECONDS if due else max(1.0, soonest - now)

    async def fetch_now(self, refs: Iterable[KeySetRef]) -> None:
        """Whether they could be had or not, is what there is afterwards. Raises Conflict, Unavailable."""
        for ref in refs:
            await self._take_step(ref, at_once=True, seconds=ASKED_SECONDS)

    async def look(self, ref: KeySetRef) -> Place:
        """As etcd has it now."""
        return (await self._seen(ref)).place

    async def _try(self, ref: KeySetRef) -> None:
        try:
            await self._take_step(ref)
        except Conflict:
            pass  # another replica is at it
        except MeshError as error:
            event(logger, logging.WARNING, "fetching of keys is held up", place=self.places.get(ref).uri, why=error)
        finally:
            self._limit.release()

    async def _take_step(self, ref: KeySetRef, *, at_once: bool = False, seconds: float = 0.0) -> None:
        async with locked(self._store, f"jwks-{ref.digest}", self._replica, seconds=seconds) as lock:
            seen = await self._seen(ref)
            now, tried_here = int(self._now()), self._tried_here.get(ref, 0)
            match next_action(seen.place, now, tried_here=tried_here, at_once=at_once):
                case Fetch(source):
                    self._tried_here[ref] = now
                    await self._fetch(seen, source, lock)
                case Forget():
                    await self._forget(ref, seen, lock)

    # -- steps

    async def _fetch(self, seen: _Seen, source: Source, lock: LeaseGuard) -> None:
        before = seen.place.status or KeySetStatus(uri=source.uri, ca_sha256=ca_digest(source.ca))
        problem, jwks = "", ""
        try:
            jwks = await fetch(source.uri, source.ca, self._refused)
        except MeshError as error:
            problem = str(error)[:_MAX_PROBLEM]
        now, failures = int(self._now()), before.failures + 1 if problem else 0
        status = KeySetStatus(
            uri=source.uri,
            ca_sha256=ca_digest(source.ca),
            tried=now,
            fetched=before.fetched if problem else now,
            failures=failures,
            problem=problem,
            next=next_try(now, source.refresh_seconds, failures, self._fraction()),
            by=self._replica,
        )
        ops = [self._put(self._store.keyspace.key_set_status(source.ref), status, seen.status)]
        new = bool(jwks) and (seen.place.key_set is None or seen.place.key_set.jwks != jwks)
        if new:
            key_set = KeySet(uri=source.uri, ca_sha256=ca_digest(source.ca), fetched=now, jwks=jwks)
            ops.append(self._put(self._store.keyspace.key_set(source.ref), key_set, seen.key_set))
        revision = await self._store.transact([lock, *seen.guards], ops)
        if revision is None:
            raise Conflict(f"what is known of {source.uri} was changed by somebody else; nothing was written")
        if new:
            event(logger, logging.INFO, KeySetEvent.TAKEN, place=source.uri, revision=revision)
        if problem and problem != before.problem:  # told once for as long as it fails for the same reason
            event(logger, logging.WARNING, KeySetEvent.NOT_FETCHED, place=source.uri, why=problem)

    async def _forget(self, ref: KeySetRef, seen: _Seen, lock: LeaseGuard) -> None:
        keys = [kv.key for kv in (seen.key_set, seen.status) if kv is not None]
        revision = await self._store.transact([lock, *seen.guards], [Delete(key) for key in keys])
        if revision is not None:
            event(logger, logging.INFO, KeySetEvent.FORGOTTEN, place=seen.place.uri, revision=revision)

    # -- what etcd says

    async def _seen(self, ref: KeySetRef) -> _Seen:
        keyspace = self._store.keyspace
        data_key, status_key = keyspace.key_set(ref), keyspace.key_set_status(ref)
        key_set, status = await self._store.get(data_key), await self._store.get(status_key)
        guards: list[Guard] = [KeyGuard(key, _revision(kv)) for key, kv in ((data_key, key_set), (status_key, status))]
        named, doubtful = await self._naming(ref, guards)
        place = place_of(ref, named, key_set_of(key_set), status_of(status), doubtful)
        return _Seen(place, tuple(guards), key_set, status)

    async def _naming(self, ref: KeySetRef, guards: list[Guard]) -> tuple[tuple[Named, ...], bool]:
        """An object that names the place, the one that wants it newest first, and whether another one may; and what to
        guard for that to be so."""
        remembered = self.places.naming.by_place.get(ref, {})
        for key, before in sorted(remembered.items(), key=lambda item: item[1].source.refresh_seconds):
            kv = await self._store.get(key)
            found = _naming(ref, before.object, kv, before) if kv is not None else None
            if kv is not None and found is not None:
                guards.append(KeyGuard(key, kv.mod_revision))
                return (found,), False
        prefix = self._store.keyspace.config_of_kind(RequestAuthentication.__name__)
        listing = await self._store.list(prefix)
        doubtful = False
        for kv in listing.kvs:
            of = self._store.keyspace.parse(kv.key)
            if not isinstance(of, ObjectRef):
                continue
            try:
                found = next((one for one in named_by(of, kv.value) if one.source.ref == ref), None)
            except Corrupt:
                doubtful = True
                continue
            if found is not None:
                guards.append(KeyGuard(kv.key, kv.mod_revision))
                return (found,), doubtful
        guards.append(PrefixGuard(prefix, listing.revision))
        return (), doubtful

    def _put(self, key: bytes, record: Record, before: KeyValue | None) -> Put:
        return put_over(key, record, before.value if before is not None else None)


def _naming(ref: KeySetRef, of: ObjectRef, kv: KeyValue, before: Named) -> Named | None:
    """What can't be read counts for what it last said: sidecars go by that too."""
    try:
        return next((one for one in named_by(of, kv.value) if one.source.ref == ref), None)
    except Corrupt:
        return before


def _revision(kv: KeyValue | None) -> int:
    return kv.mod_revision if kv is not None else 0
