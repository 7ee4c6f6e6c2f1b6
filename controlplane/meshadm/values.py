"""What the replicas answer, decoded. Pure."""

from dataclasses import dataclass

from schemas.objects import AnyObject
from schemas.records import SidecarStatus


@dataclass(frozen=True, slots=True)
class Stored:
    """An object and the revision it was last changed at."""

    object: AnyObject
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list found. `unreadable`: objects that this meshadm can't understand, one line each."""

    objects: tuple[Stored, ...]
    revision: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sidecars:
    """All sidecars that are alive, and the newest revision of the configuration."""

    statuses: tuple[SidecarStatus, ...]
    config_revision: int
    unreadable: tuple[str, ...]
    alarms: tuple[str, ...] = ()
    """What the replica finds wrong with the whole mesh, in words."""
