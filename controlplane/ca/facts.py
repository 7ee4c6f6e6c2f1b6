"""What is known when the life of CA keys is decided upon: the keys, and what sidecars and replicas last said. Pure.

Times are whole seconds since 1970. Roles: a root and the issuing key below it go together; `mesh-jwt` stands alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import NotFound
from schemas.records import SealedKey

# Clocks of replicas and sidecars may differ: what has expired by ours may live on by another's. Hosts without NTP drift
# by seconds a day; who is further off reports it. Of very short lives at most half: hosts further apart than that could
# not renew from each other in time.
SKEW_SECONDS = 30
# A replica that could not tell etcd of itself for so long issues nothing more: it may not know that its key is retired.
# Long enough that renewals outlast an outage of etcd which somebody is mending.
FENCE_SECONDS = 3600
# A replica says something every minute. One that missed three is taken for dead where only the living matter.
REPLICA_GONE_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Silent:
    """A sidecar that was heard of and is no more.

    until: what the key that was active then had signed for it has ended (`silent_until`); None: nobody can read what
    was written down of it, nor so the trust_sequence.
    """

    name: str
    trust_sequence: int
    until: int | None


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What one that is connected says: which bundle it trusts by, and whose leaf it presents (hex; empty: unknown)."""

    name: str
    trust_sequence: int
    issuer: str


@dataclass(frozen=True, slots=True)
class Replica:
    """What one last said. `issuer_since`: since when it issues with that key; 0: it never did with another."""

    name: str
    seen: int
    trust_sequence: int
    issuer: str
    issuer_since: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that decisions rest upon. `publish_ahead`: seconds that a root is published before its first use."""

    keys: Mapping[str, SealedKey]
    issuers: Mapping[str, str]
    """Of each issuing key with a certificate: id to authority key identifier."""
    starts: Mapping[str, int]
    """Of each key with a certificate: when its validity begins."""
    now: int
    sidecars: tuple[Sidecar, ...] = ()
    replicas: tuple[Replica, ...] = ()
    publish_ahead: int = 0
    silent: tuple[Silent, ...] = ()


def key_of(facts: Facts, key_id: str) -> SealedKey:
    """Raises NotFound."""
    try:
        return facts.keys[key_id]
    except KeyError:
        raise NotFound(f"there is no CA key {key_id}; `meshadm ca status` lists them") from None


def active(keys: Mapping[str, SealedKey], role: str) -> SealedKey | None:
    return next((key for _, key in sorted(keys.items()) if key.role == role and key.state == "active"), None)


def is_complete(key: SealedKey) -> bool:
    """Not waiting for its certificate from an external CA."""
    return bool(key.chain) or key.role == "mesh-jwt"


def root_above(keys: Mapping[str, SealedKey], key: SealedKey) -> SealedKey | None:
    """The root that signed an issuing key. Records of the first version don't say; there was one root then."""
    if key.role != "mesh-issuing":
        return None
    return keys.get(key.signed_by) if key.signed_by else active(keys, "mesh-root")


def below(keys: Mapping[str, SealedKey], root_id: str) -> list[SealedKey]:
    """The issuing keys that a root signed."""
    return [key for _, key in sorted(keys.items()) if (above := root_above(keys, key)) and above.id == root_id]


def family(keys: Mapping[str, SealedKey], key_id: str) -> tuple[str, ...]:
    """The key; with a root, what it signed."""
    return tuple(dict.fromkeys([key_id, *(key.id for key in below(keys, key_id))]))
