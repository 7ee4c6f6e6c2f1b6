"""What a restore of etcd must not bring back: rights of operators and of host authorities. Pure.

Each record has a serial, and of two the one with the higher serial is the newer. An older one in etcd than was known
comes from a backup. It then counts for no more than both allow: what was taken away stays away, and what was given
after the backup was made is not given again, since the restore may have been meant to undo it. What is left is written
with the serial that was known, so two records of one serial may differ; they too count for what both allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from schemas.records import HostAuthority, Operator

T = TypeVar("T")

_RANKS = {"viewer": 0, "editor": 1, "admin": 2}


def next_serial(now: float, *before: int) -> int:
    """At least the millisecond: above what was known to somebody whom we can't ask. `now`: seconds since 1970."""
    return max(int(now * 1000), *(one + 1 for one in before), 1)


def operator_left(stored: Operator | None, known: Operator | None) -> Operator | None:
    """Who may what, of what etcd has and the newest that was known."""
    if known is None:
        return stored
    if stored is None:
        return known if known.revoked is not None else None
    if stored.serial > known.serial or stored == known:
        return stored
    if known.revoked is not None:
        return known
    left = stored if _RANKS[stored.role] <= _RANKS[known.role] else known
    namespaces = left.namespaces
    if stored.role == known.role == "editor":
        namespaces = tuple(one for one in stored.namespaces if one in known.namespaces)
    role = left.role if namespaces or left.role != "editor" else "viewer"
    return msgspec.structs.replace(
        stored, role=role, namespaces=namespaces, since=max(stored.since, known.since), serial=known.serial
    )


@dataclass(frozen=True, slots=True)
class KnownAuthority:
    """The newest that was known of a host authority; `record` None: it was taken away."""

    serial: int
    record: HostAuthority | None


def authority_left(stored: HostAuthority, known: KnownAuthority | None) -> HostAuthority | None:
    """Whom it may vouch for, of what etcd has and the newest that was known; None: nobody."""
    if known is None or stored.serial > known.serial:
        return stored
    if known.record is None:
        return None
    if stored == known.record:
        return stored
    authorities = _both(stored.x509_authorities, known.record.x509_authorities)
    rules = _both(stored.rules, known.record.rules)
    if not authorities or not rules:
        return None
    return msgspec.structs.replace(stored, x509_authorities=authorities, rules=rules, serial=known.serial)


def _both(one: Sequence[T], other: Sequence[T]) -> tuple[T, ...]:
    return tuple(each for each in one if each in other)
