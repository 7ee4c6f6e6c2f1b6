"""What is to be done about one place that keys are fetched from. Pure: the time, seconds since 1970, is passed in."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemas.keys import KeySetRef
from schemas.names import ObjectRef
from schemas.objects.request_authentication import MAX_REFRESH_SECONDS
from schemas.records import KeySet, KeySetStatus

# An issuer that restarts is back within the first; one that is down for long is not asked oftener than the second.
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 10, 300


@dataclass(frozen=True, slots=True)
class Source:
    """How to fetch. `ca`: PEM; None: the CAs of the replica's host."""

    ref: KeySetRef
    uri: str
    ca: str | None
    refresh_seconds: int


@dataclass(frozen=True, slots=True)
class Place:
    """What etcd says of it."""

    ref: KeySetRef
    objects: tuple[ObjectRef, ...]
    """Those that name it."""
    source: Source | None
    """Of the one that wants it newest; None: nobody names it."""
    key_set: KeySet | None
    usable: bool
    """Whether sidecars have keys from it."""
    status: KeySetStatus | None
    doubtful: bool = False
    """A RequestAuthentication somewhere can't be read: it may name this place."""

    @property
    def uri(self) -> str:
        known = next((one for one in (self.source, self.key_set, self.status) if one is not None), None)
        return known.uri if known is not None else ""


@dataclass(frozen=True, slots=True)
class Fetch:
    source: Source


@dataclass(frozen=True, slots=True)
class Forget:
    """Nobody has named it for as long as its keys count as new: they go."""


@dataclass(frozen=True, slots=True)
class Wait:
    until: int | None
    """None: until something changes."""


Action = Fetch | Forget | Wait


def next_action(place: Place, now: int, *, tried_here: int = 0, at_once: bool = False) -> Action:
    """tried_here: when this replica last tried; 0: never. at_once: fetch even if it is not due yet."""
    status = place.status
    if place.source is None:
        if place.doubtful or (place.key_set is None and status is None):
            return Wait(None)
        # Not at once: an object that is deleted and comes back finds its keys.
        new = status is not None and now < status.next <= now + MAX_REFRESH_SECONDS
        return Wait(status.next) if status is not None and new else Forget()
    if at_once or status is None:
        return Fetch(place.source)
    due = _due(place, status, place.source.refresh_seconds, now, tried_here)
    return Fetch(place.source) if due <= now else Wait(due)


def _due(place: Place, status: KeySetStatus, refresh_seconds: int, now: int, tried_here: int) -> int:
    if status.tried > now + refresh_seconds:
        # A clock was ahead, this replica's or another's: what it wrote says nothing. Nor does the other believe what
        # is written here, so each of them goes by what it did itself, or they would fetch in turn without a pause.
        return tried_here + refresh_seconds if tried_here <= now else now
    if status.failures:
        return status.next
    if not place.usable:  # somebody took them away; or replicas of two versions don't agree about them
        return status.tried + RETRY_SECONDS
    return min(status.next, status.tried + refresh_seconds)


def fairly(due: Iterable[Place], at_once: int) -> list[Place]:
    """What to do in one look, of which the next one waits for the end; `at_once` are done at a time.

    First those that answered last time, of the others a few, and of both what each namespace has waited for longest:
    who names thousands that never answer holds up nobody else.
    """
    answering: list[Place] = []
    others: list[Place] = []
    for one in due:
        (others if one.status is None or one.status.failures else answering).append(one)
    return _in_turn(answering)[: 4 * at_once] + _in_turn(others)[:at_once]


def _in_turn(places: Sequence[Place]) -> list[Place]:
    """The first of each namespace, then the second of each, and so on."""
    before: Counter[str] = Counter()
    turns: list[tuple[int, int, Place]] = []
    for one in sorted(places, key=lambda one: one.status.next if one.status is not None else 0):
        namespaces = {ref.namespace for ref in one.objects} or {""}
        turns.append((min(before[name] for name in namespaces), len(turns), one))
        before.update(namespaces)
    return [one for _, _, one in sorted(turns, key=lambda turn: turn[:2])]


def next_try(now: int, refresh_seconds: int, failures: int, fraction: float) -> int:
    """When to fetch again; fraction, random in [0, 1), spreads what began together."""
    if not failures:
        return now + int(refresh_seconds * (0.8 + 0.2 * fraction))
    longest = min(refresh_seconds, LONGEST_RETRY_SECONDS)
    return now + int(min(longest, RETRY_SECONDS * 2 ** min(failures - 1, 10)) * (0.75 + 0.25 * fraction))
