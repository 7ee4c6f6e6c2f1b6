"""What is to be done about one place that keys are fetched from. Pure: the time, seconds since 1970, is passed in."""

from dataclasses import dataclass

from authz.jwks import InvalidKeys, public_keys
from schemas.keys import KeySetRef
from schemas.names import ObjectRef
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
    status: KeySetStatus | None
    doubtful: bool = False
    """A RequestAuthentication somewhere can't be read: it may name this place."""

    @property
    def uri(self) -> str:
        known = next((one for one in (self.source, self.key_set, self.status) if one is not None), None)
        return known.uri if known is not None else ""

    @property
    def usable(self) -> bool:
        """Whether sidecars have keys from it."""
        try:
            return self.key_set is not None and bool(public_keys(self.key_set.jwks))
        except InvalidKeys:
            return False


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


def next_action(place: Place, now: int, *, at_once: bool = False) -> Action:
    """at_once: fetch even if it is not due yet."""
    status = place.status
    if place.source is None:
        if place.doubtful or (place.key_set is None and status is None):
            return Wait(None)
        # Not at once: an object that is deleted and comes back finds its keys.
        return Wait(status.next) if status is not None and status.next > now else Forget()
    if at_once or status is None or (not status.failures and not place.usable):
        return Fetch(place.source)
    due = status.next if status.failures else min(status.next, status.tried + place.source.refresh_seconds)
    return Fetch(place.source) if due <= now else Wait(due)


def next_try(now: int, refresh_seconds: int, failures: int, fraction: float) -> int:
    """When to fetch again; fraction, random in [0, 1), spreads what began together."""
    if not failures:
        return now + int(refresh_seconds * (0.8 + 0.2 * fraction))
    longest = min(refresh_seconds, LONGEST_RETRY_SECONDS)
    return now + int(min(longest, RETRY_SECONDS * 2 ** min(failures - 1, 10)) * (0.75 + 0.25 * fraction))
