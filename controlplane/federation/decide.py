"""What is to be done about one federated trust domain. Pure: the time, seconds since 1970, is passed in."""

import hashlib
from dataclasses import dataclass

from schemas.objects import federation
from schemas.records import FederationStatus, TrustBundle

# After a failure, and not longer than the bundle's own hint: an endpoint that restarts is back within it.
RETRY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Domain:
    """What etcd says of a trust domain that is not ours."""

    trust_domain: str
    objects: tuple[tuple[federation.TrustBundle, int], ...]
    """Those that name it, each with its mod revision."""
    bundle: TrustBundle | None
    status: FederationStatus | None
    unreadable: str = ""
    """A TrustBundle object somewhere that can't be read: it may be of this trust domain."""

    @property
    def object(self) -> federation.TrustBundle | None:
        """The one to go by; of two, neither."""
        return self.objects[0][0] if len(self.objects) == 1 else None

    @property
    def object_revision(self) -> int:
        return self.objects[0][1] if len(self.objects) == 1 else 0

    @property
    def problem(self) -> str:
        """Why it is not followed as it should be; empty: it is."""
        if len(self.objects) > 1:
            names = " and ".join(one.metadata.name for one, _ in self.objects)
            return f"TrustBundle objects {names} are both of it: neither is followed; delete one"
        if not self.objects and self.unreadable:
            return f"no TrustBundle object names it, but {self.unreadable}: nothing is taken away until that is mended"
        return self.status.problem if self.status is not None else ""


@dataclass(frozen=True, slots=True)
class Seed:
    """Start (over) from the bundle that the operator gave."""


@dataclass(frozen=True, slots=True)
class Fetch:
    pass


@dataclass(frozen=True, slots=True)
class Forget:
    """Nobody names it any more: its bundle goes."""


@dataclass(frozen=True, slots=True)
class Wait:
    until: int | None
    """None: until something changes."""


Action = Seed | Fetch | Forget | Wait


def next_action(domain: Domain, now: int, *, at_once: bool = False) -> Action:
    """at_once: fetch even if it is not due yet."""
    if not domain.objects:
        known = domain.bundle is not None or domain.status is not None
        return Forget() if known and not domain.unreadable else Wait(None)
    if domain.object is None:
        return Wait(None)
    spec, status = domain.object.spec, domain.status
    if spec.bundle is not None and (status is None or status.seed != seed_of(spec.bundle)):
        return Seed()
    if spec.bundle_endpoint is None:
        return Wait(None)
    if at_once or status is None or status.object_revision != domain.object_revision or status.next <= now:
        return Fetch()
    return Wait(status.next)


def seed_of(bundle: str) -> bytes:
    return hashlib.sha256(bundle.encode()).digest()


def next_try(now: int, bundle: TrustBundle | None, *, failed: bool) -> int:
    """When to fetch again."""
    hint = bundle.refresh_hint_seconds if bundle is not None else RETRY_SECONDS
    return now + (min(hint, RETRY_SECONDS) if failed else hint)
