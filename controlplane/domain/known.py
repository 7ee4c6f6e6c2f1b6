"""What of etcd a decision rests on, and what will be there afterwards. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.domain.change import Change
from schemas.names import ObjectRef
from schemas.objects import AnyObject
from schemas.records import AddressSlot


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as etcd has it; `object` is None where the value can't be understood."""

    value: bytes
    mod_revision: int
    object: AnyObject | None


@dataclass(frozen=True, slots=True)
class Listed:
    """All keys below `prefix` were read at `revision`."""

    prefix: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block of virtual addresses as etcd has it, by IPv4 address."""

    slots: Mapping[str, AddressSlot]
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Known:
    """What was read. An object that is not in `objects` did not exist, nor did a block that is not in `blocks`."""

    objects: Mapping[ObjectRef, Stored]
    listed: tuple[Listed, ...] = ()
    blocks: Mapping[str, StoredBlock] = field(default_factory=dict)
    """By the network of each."""
    peers_changed: int | None = None
    """The revision of the last change of any PeerAuthentication; 0: there was none. None: it was not asked for."""

    def mod_revision(self, ref: ObjectRef) -> int:
        stored = self.objects.get(ref)
        return stored.mod_revision if stored else 0


class After:
    """The state as it will be: what is known, with the changes applied."""

    def __init__(self, known: Known, changes: Sequence[Change]) -> None:
        self._known = known
        self._changed: dict[ObjectRef, AnyObject | None] = {change.ref: change.put for change in changes}

    def get(self, ref: ObjectRef) -> AnyObject | None:
        """None: does not exist, or can't be understood."""
        if ref in self._changed:
            return self._changed[ref]
        stored = self._known.objects.get(ref)
        return stored.object if stored else None

    def is_unreadable(self, ref: ObjectRef) -> bool:
        """It exists, but its stored value can't be understood."""
        return ref not in self._changed and ref in self._known.objects and self._known.objects[ref].object is None

    def __iter__(self) -> Iterator[AnyObject]:
        """All that can be understood, of what was read or is put; sorted by reference."""
        for ref in sorted(self._known.objects.keys() | self._changed.keys()):
            value = self.get(ref)
            if value is not None:
                yield value
