"""What the watch stage gives. Pure values; every event is true of one revision of etcd."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Put:
    key: bytes
    value: bytes
    revision: int
    """The key's mod revision."""


@dataclass(frozen=True, slots=True)
class Delete:
    key: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All that is under `prefix` at `revision`. What was known under it and is not here is gone."""

    prefix: bytes
    revision: int
    items: tuple[Put, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that `revision` changed under one watched prefix; no events: nothing up to it did."""

    prefix: bytes
    revision: int
    events: tuple[Put | Delete, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """`prefix` is not watched any more: forget what is known under it."""

    prefix: bytes


Event = Listing | Changes | Dropped
