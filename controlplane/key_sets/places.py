"""[edge] The places that RequestAuthentications name, and what is known of each, as `follow` tells."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from authz.jwks import InvalidKeys, public_keys
from authz.key_sources import fetched_from
from authz.stored import check_understood
from controlplane.key_sets.decide import Place, Source
from controlplane.store.boards import Held
from schemas import codec
from schemas.errors import Corrupt
from schemas.keys import KeySetRef, Keyspace
from schemas.names import ObjectRef
from schemas.objects import RequestAuthentication
from schemas.records import KeySet, KeySetStatus
from trio_etcd import KeyValue, Listing, WatchBatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Named:
    """A place, as an object names it; `object`: of which key."""

    object: ObjectRef
    source: Source


@dataclass(frozen=True, slots=True)
class Keys:
    key_set: KeySet
    usable: bool


class Naming:
    """Which objects name which places. One that can't be read counts for what it last said: sidecars go by that too."""

    def __init__(self, keyspace: Keyspace, notify: Callable[[], None]) -> None:
        self._keyspace = keyspace
        self._notify = notify
        self._of: dict[bytes, tuple[Named, ...]] = {}
        self.unreadable: dict[bytes, str] = {}
        """Why, by key."""
        self.by_place: dict[KeySetRef, dict[bytes, Named]] = {}
        self.synced = trio.Event()

    def listed(self, listing: Listing) -> None:
        values = {kv.key: kv for kv in listing.kvs}
        for key in [*self._of, *self.unreadable]:
            if key not in values:
                self._gone(key)
        for kv in values.values():
            self._put(kv)
        self.synced.set()
        self._notify()

    def changed(self, batch: WatchBatch) -> None:
        for event in batch.events:
            if event.deleted:
                self._gone(event.kv.key)
            else:
                self._put(event.kv)
        if batch.events:
            self._notify()

    def _put(self, kv: KeyValue) -> None:
        ref = self._keyspace.parse(kv.key)
        if not isinstance(ref, ObjectRef):
            return
        try:
            named = tuple(named_by(ref, kv.value))
        except Corrupt as error:
            self.unreadable[kv.key] = str(error)
            return
        self._gone(kv.key)
        if named:
            self._of[kv.key] = named
        for one in named:
            self.by_place.setdefault(one.source.ref, {})[kv.key] = one

    def _gone(self, key: bytes) -> None:
        self.unreadable.pop(key, None)
        for one in self._of.pop(key, ()):
            objects = self.by_place.get(one.source.ref, {})
            objects.pop(key, None)
            if not objects:
                self.by_place.pop(one.source.ref, None)


class Read(Held, Generic[T]):
    """A prefix whose values are read once, when they change, and not at each look at all of them."""

    def __init__(self, notify: Callable[[], None], read: Callable[[KeyValue], T]) -> None:
        super().__init__(notify)
        self._read = read
        self.known: dict[bytes, T] = {}

    def listed(self, listing: Listing) -> None:
        before, known = self.values, self.known
        super().listed(listing)
        self.known = {
            key: known[key] if key in known and before.get(key) == kv else self._read(kv)
            for key, kv in self.values.items()
        }

    def changed(self, batch: WatchBatch) -> None:
        super().changed(batch)
        for key in {event.kv.key for event in batch.events}:
            kv = self.values.get(key)
            if kv is None:
                self.known.pop(key, None)
            else:
                self.known[key] = self._read(kv)


class Places:
    """`notify` is called after each change."""

    def __init__(self, keyspace: Keyspace, notify: Callable[[], None]) -> None:
        self._keyspace = keyspace
        self.naming = Naming(keyspace, notify)
        self.key_sets = Read(notify, key_set_of)
        self.statuses = Read(notify, status_of)

    @property
    def synced(self) -> bool:
        return all(one.synced.is_set() for one in (self.naming, self.key_sets, self.statuses))

    def all(self) -> list[Place]:
        """In the order of their URLs. What nobody names any more, and is still in etcd, too."""
        known = {ref for key in self.key_sets.values if isinstance(ref := self._keyspace.parse(key), KeySetRef)}
        prefix = self._keyspace.key_set_statuses()
        tried = {KeySetRef(key.removeprefix(prefix).decode("ascii", "replace")) for key in self.statuses.values}
        found = [self.get(ref) for ref in self.naming.by_place.keys() | known | tried]
        return sorted(found, key=lambda one: (one.uri, one.ref))

    def get(self, ref: KeySetRef) -> Place:
        named = self.naming.by_place.get(ref, {})
        return place_of(
            ref,
            tuple(named[key] for key in sorted(named)),
            self.key_sets.known.get(self._keyspace.key_set(ref)),
            self.statuses.known.get(self._keyspace.key_set_status(ref)),
            bool(self.naming.unreadable),
        )


def place_of(
    ref: KeySetRef, named: tuple[Named, ...], keys: Keys | None, status: KeySetStatus | None, doubtful: bool
) -> Place:
    """doubtful: an object somewhere can't be read."""
    return Place(
        ref,
        tuple(sorted({one.object for one in named})),
        min((one.source for one in named), key=lambda one: one.refresh_seconds, default=None),
        keys.key_set if keys is not None else None,
        keys is not None and keys.usable,
        status,
        doubtful,
    )


def named_by(ref: ObjectRef, value: bytes) -> Iterator[Named]:
    """Raises Corrupt."""
    read = codec.decode(value, RequestAuthentication, str(ref))
    check_understood(read, value, str(ref))
    for rule in read.spec.jwt_rules:
        where = fetched_from(rule)
        if where is not None:
            yield Named(ref, Source(where, rule.jwks_uri or "", rule.jwks_ca, rule.refresh_seconds))


def key_set_of(kv: KeyValue | None) -> Keys | None:
    key_set = _read(kv, KeySet)
    if key_set is None:
        return None
    try:
        return Keys(key_set, bool(public_keys(key_set.jwks)))
    except InvalidKeys:
        return Keys(key_set, False)


def status_of(kv: KeyValue | None) -> KeySetStatus | None:
    return _read(kv, KeySetStatus)


def _read(kv: KeyValue | None, type_: type[T]) -> T | None:
    """What can't be read is as if it were not there: it is written anew."""
    if kv is None:
        return None
    try:
        return codec.decode(kv.value, type_, kv.key.decode(errors="replace"))
    except Corrupt:
        return None
