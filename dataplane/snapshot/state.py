"""The mesh as this sidecar knows it. One writer (`MeshState.apply`), many readers; no IO, no clock.

Bad input becomes a `Problem`: a value that can't be read leaves the last good one of that key in force. Where there is
none, the object is absent, except that an unreadable AuthorizationPolicy, RequestAuthentication or PeerAuthentication
closes what it might have closed (`unreadable_policies`): nothing bad in etcd ever opens a door.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dataplane.snapshot.index import MeshIndex
from dataplane.snapshot.reading import Value, read
from dataplane.snapshot.revoked import Revoked
from dataplane.watch.events import Changes, Delete, Dropped, Event, Listing, Put
from schemas.errors import Corrupt, Problem
from schemas.keys import (
    DataRef,
    Keyspace,
    LogLevelRef,
    RevocationRef,
    StatusRef,
)
from schemas.names import ObjectRef
from schemas.objects import (
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
)
from schemas.records import Revocation

_CLOSING = frozenset({AuthorizationPolicy.__name__, RequestAuthentication.__name__, PeerAuthentication.__name__})
"""Kinds of which one that nobody can read closes its namespace: it may refuse anything, or, the last, plaintext."""


@dataclass(frozen=True, slots=True)
class Change:
    """One reference that now holds something else. Both None: only whether it is readable changed."""

    ref: DataRef
    before: Value | None
    after: Value | None


@dataclass(frozen=True, slots=True)
class Stored:
    """The bytes of the last good value of a key, as they stood in etcd."""

    value: bytes
    revision: int


@dataclass(slots=True)
class MeshState(MeshIndex):
    keyspace: Keyspace
    revision: int = 0
    """The newest revision up to which the configuration is known to be complete."""
    listed: set[bytes] = field(default_factory=set)
    """Prefixes that have been listed and are watched: under them, absence means absence."""
    stored: dict[bytes, Stored] = field(default_factory=dict)
    quarantine: dict[bytes, Problem] = field(default_factory=dict)
    unreadable_policies: set[ObjectRef] = field(default_factory=set)
    revoked: Revoked = field(default_factory=Revoked)
    """Apart from `values`: what is here outlives its key."""

    def revision_of(self, ref: ObjectRef) -> int:
        """etcd's mod revision of the value that is in force; 0 where there is none."""
        stored = self.stored.get(self.keyspace.object(ref))
        return stored.revision if stored is not None else 0

    def problems(self) -> list[Problem]:
        return [self.quarantine[key] for key in sorted(self.quarantine)]

    # -- the writer

    def apply(self, event: Event) -> list[Change]:
        """Takes one event in whole; what changed by it, nothing where nothing did."""
        match event:
            case Changes(prefix, revision, events):
                changes = [change for one in events for change in self._apply_one(one)]
                self._advance(prefix, revision)
            case Listing(prefix, revision, items):
                listed = {item.key for item in items}
                gone = [key for key in self._known_under(prefix) if key not in listed]
                changes = [change for key in gone for change in self._apply_one(Delete(key, revision))]
                changes += [change for item in items for change in self._apply_one(item)]
                self.listed.add(prefix)
                self._advance(prefix, revision, listing=True)
            case Dropped(prefix):
                self.listed.discard(prefix)
                # A wider prefix that is watched as well still vouches for its part.
                keys = [key for key in self._known_under(prefix) if not any(map(key.startswith, self.listed))]
                changes = [change for key in keys for change in self._apply_one(Delete(key, 0))]
        return changes

    def _known_under(self, prefix: bytes) -> list[bytes]:
        return sorted({key for key in (*self.stored, *self.quarantine) if key.startswith(prefix)})

    def _advance(self, prefix: bytes, revision: int, *, listing: bool = False) -> None:
        if prefix == self.keyspace.config():
            # A listing may go back: etcd was restored, and what it says now is what is true.
            self.revision = revision if listing else max(self.revision, revision)

    def _apply_one(self, event: Put | Delete) -> Iterator[Change]:
        ref = self.keyspace.parse(event.key)
        if ref is None or isinstance(ref, StatusRef | LogLevelRef):
            if isinstance(event, Put) and event.key.startswith(self.keyspace.data()):
                problem = Problem(event.key.decode(errors="replace"), "not a key of the mesh", remedy="delete the key")
                self.quarantine[event.key] = problem
            else:
                self.quarantine.pop(event.key, None)
            return
        if isinstance(ref, RevocationRef):
            yield from self._revocation(ref, event)
            return
        before = self.values.get(ref)
        was_unreadable = ref in self.unreadable_policies
        if isinstance(event, Delete):
            self.stored.pop(event.key, None)
            self.quarantine.pop(event.key, None)
            self.unreadable_policies.discard(ref)
            after = None
        else:
            stored = self.stored.get(event.key)
            if stored is not None and stored.value == event.value:
                self.stored[event.key] = Stored(event.value, event.revision)
                self.quarantine.pop(event.key, None)
                if isinstance(ref, ObjectRef) and stored.revision != event.revision:
                    yield Change(ref, before, before)  # what is compiled from it tells by which revision it goes
                return
            try:
                after = read(ref, event.value)
            except Corrupt as error:
                self.quarantine[event.key] = error.problem
                if before is None and isinstance(ref, ObjectRef) and ref.kind in _CLOSING:
                    self.unreadable_policies.add(ref)
                    if not was_unreadable:
                        yield Change(ref, None, None)
                return
            self.stored[event.key] = Stored(event.value, event.revision)
            self.quarantine.pop(event.key, None)
            self.unreadable_policies.discard(ref)
        self.put(ref, after)
        if before != after or was_unreadable or isinstance(ref, ObjectRef):
            yield Change(ref, before, after)

    def _revocation(self, ref: RevocationRef, event: Put | Delete) -> Iterator[Change]:
        was, before = ref.service in self.revoked, self.revoked.records.get(ref.service)
        self.quarantine.pop(event.key, None)
        if isinstance(event, Put):
            try:
                record = read(ref, event.value)
            except Corrupt as error:
                self.quarantine[event.key] = error.problem
                if before is None:
                    self.revoked.unreadable.add(ref.service)
            else:
                assert isinstance(record, Revocation)  # noqa: S101  (what `read` gives for such a key)
                self.revoked.see(record)
        else:
            self.revoked.unreadable.discard(ref.service)
        after = self.revoked.records.get(ref.service)
        if was != (ref.service in self.revoked) or before != after:
            yield Change(ref, before, after)


def from_stored(
    keyspace: Keyspace,
    revision: int,
    stored: Mapping[bytes, Stored],
    unreadable_policies: Iterable[ObjectRef] = (),
    revocations: Iterable[Revocation] = (),
) -> MeshState:
    """A state from what another one had `stored`: what was last known good, read back from disk.

    The other one's `unreadable_policies` belong to it: without them a restart would open what they closed.
    """
    state = MeshState(keyspace)
    state.apply(Changes(keyspace.data(), revision, tuple(Put(k, s.value, s.revision) for k, s in stored.items())))
    for ref in unreadable_policies:
        if ref not in state.values:
            state.unreadable_policies.add(ref)
            # In quarantine as well, so that a listing without it takes it away.
            state.quarantine[keyspace.object(ref)] = Problem(str(ref), "could not be read when it was last seen")
    state.revoked.see_all(revocations)
    state.revision = revision
    return state
