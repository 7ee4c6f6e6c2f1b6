"""What holds a step in the life of CA keys back. Each gate opens on evidence, or with time. Pure.

*Activate*: whoever may meet the new key's leaves says that it trusts the root above them; who fell silent before it
could say so may serve on until its own leaf has ended, and is waited for as long. *Remove*: nobody presents a leaf of
the key, nobody issues with it any more, and whatever it signed, for hosts that are not connected too, has expired.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from controlplane.ca.facts import (
    FENCE_SECONDS,
    REPLICA_GONE_SECONDS,
    SKEW_SECONDS,
    Facts,
    Silent,
    active,
    below,
    is_complete,
    key_of,
    root_above,
)
from schemas.errors import Conflict
from schemas.records import SealedKey

SIGNERS = ("mesh-issuing", "mesh-jwt")


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a gate is closed. `who`: a sidecar or replica, empty for what is nobody's. `until`: when time opens it."""

    who: str
    why: str
    until: int | None = None

    def __str__(self) -> str:
        until = f", until {datetime.fromtimestamp(self.until, UTC):%Y-%m-%d %H:%M:%S} UTC" if self.until else ""
        return (f"{self.who}: {self.why}" if self.who else self.why) + until


def activation_holds(facts: Facts, key_id: str) -> tuple[Hold, ...]:
    """Raises NotFound; Conflict for a key that no evidence could ever let be activated."""
    key = key_of(facts, key_id)
    if key.state != "prepared" or key.role not in SIGNERS:
        what = "a root becomes active with the issuing key below it" if key.role == "mesh-root" else "expected prepared"
        raise Conflict(f"{key.id} is {key.state} and can't be activated: {what}")
    if not is_complete(key):
        raise Conflict(f"{key.id} has no certificate yet: hand its request to your CA, then `meshadm ca install`")
    anchor = key if key.role == "mesh-jwt" else root_above(facts.keys, key)
    if anchor is None or anchor.state == "retired":
        raise Conflict(f"the root above {key.id} is retired or gone: prepare another key")
    holds = [
        Hold(one.name, f"trusts by bundle {one.trust_sequence}, needed is {anchor.trust_sequence}")
        for one in facts.sidecars
        if one.trust_sequence < anchor.trust_sequence
    ]
    holds += [
        Hold(f"replica {one.name}", f"trusts by bundle {one.trust_sequence}, needed is {anchor.trust_sequence}")
        for one in facts.replicas
        if one.trust_sequence < anchor.trust_sequence and facts.now - one.seen < REPLICA_GONE_SECONDS
    ]
    if anchor.state == "prepared":  # one that is active has been waited for
        holds += _silence_holds(facts, anchor.trust_sequence)
    published = anchor.since + facts.publish_ahead
    if anchor.state == "prepared" and facts.now < published:
        why = "other trust domains follow our bundle and must have seen the new key before it is used"
        holds.append(Hold("", why, published))
    return tuple(holds)


def _silence_holds(facts: Facts, needed: int) -> Iterable[Hold]:
    """Who is cut off goes on with the roots that it knew, and would refuse its peers' new leaves."""
    signing = active(facts.keys, "mesh-issuing")
    leaf_seconds = signing.leaf_seconds if signing is not None else 0
    # A replica that is cut off together with sidecars renews their leaves, by the old bundle, until its fence closes.
    renewed = max(
        (silent_until(one.seen + FENCE_SECONDS, leaf_seconds) for one in facts.replicas if one.trust_sequence < needed),
        default=0,
    )
    ended = _retired_leaves_end(facts)
    for one in facts.silent:
        if one.until is None:
            yield Hold(
                one.name,
                "fell silent, and its record under control/silent/ can't be read: nobody knows what it trusts by; "
                "a replica of the version that wrote it does, else delete the record or pass it by force",
            )
            continue
        until = max(one.until, min(renewed, one.until + FENCE_SECONDS), ended)
        if one.trust_sequence < needed and facts.now < until:
            yield Hold(
                one.name,
                f"fell silent trusting by bundle {one.trust_sequence}, needed is {needed}; "
                "its Envoy may serve on while its certificate is valid",
                until,
            )


def silent_until(since: int, leaf_seconds: int) -> int:
    """When the leaf of a sidecar that nobody has heard of `since` has ended, by anybody's clock."""
    return since + leaf_seconds + _skew_of(leaf_seconds)


def _retired_leaves_end(facts: Facts) -> int:
    """By when whatever was signed with retired issuing keys has ended; 0: there are none. A sidecar that fell silent
    may have such a leaf, and those may live for longer than the active key's."""
    return max(
        (
            silent_until(_signed_until(facts, key), key.leaf_seconds)
            for key in facts.keys.values()
            if key.role == "mesh-issuing" and key.state == "retired" and key.leaf_seconds  # else it never signed
        ),
        default=0,
    )


def _signed_until(facts: Facts, key: SealedKey) -> int:
    """When a replica signed with a retired issuing key for the last time, or would at the latest: once its fence has
    closed it issues nothing."""
    until = key.since
    for one in facts.replicas:
        if _chains_to(facts, one.issuer, key):
            until = max(until, one.seen + FENCE_SECONDS)
        elif one.issuer_since > key.since:
            until = max(until, one.issuer_since)
    return until


def is_forgettable(one: Silent, facts: Facts) -> bool:
    """It can hold no step back any more."""
    return one.until is not None and facts.now >= max(one.until + FENCE_SECONDS, _retired_leaves_end(facts))


def removal_holds(facts: Facts, key_ids: Sequence[str]) -> tuple[Hold, ...]:
    """Raises NotFound; Conflict for a key that is not retired, and for a root that leaves its issuing keys behind."""
    holds: dict[tuple[str, str], Hold] = {}
    for key in (key_of(facts, one) for one in key_ids):
        if key.state != "retired":
            raise Conflict(f"{key.id} is {key.state}: only a retired key can be removed")
        if left := [one.id for one in below(facts.keys, key.id) if one.id not in key_ids]:
            raise Conflict(f"{key.id} signed {', '.join(left)}: remove that first, or both together")
        for hold in _removal_holds(facts, key):
            holds.setdefault((hold.who, hold.why), hold)
    return tuple(holds.values())


def _removal_holds(facts: Facts, key: SealedKey) -> Iterable[Hold]:
    ends = key.since + key.leaf_seconds
    if key.role != "mesh-jwt":
        for replica in facts.replicas:
            if _chains_to(facts, replica.issuer, key):
                # Its last word: either it will say otherwise, or it issues nothing once the fence has closed.
                until = replica.seen + FENCE_SECONDS + key.leaf_seconds + _skew(key)
                if facts.now < until:
                    yield Hold(f"replica {replica.name}", f"issues with {key.id}, as it last said", until)
            elif replica.issuer_since > key.since:
                ends = max(ends, replica.issuer_since + key.leaf_seconds)
        for sidecar in facts.sidecars:
            if _chains_to(facts, sidecar.issuer, key):
                yield Hold(sidecar.name, f"presents a certificate that chains to {key.id}")
    if facts.now < ends + _skew(key):
        what = "tokens" if key.role == "mesh-jwt" else "certificates of hosts that are not connected"
        yield Hold("", f"{what} signed with {key.id} may still be valid", ends + _skew(key))


def _skew(key: SealedKey) -> int:
    return _skew_of(key.leaf_seconds)


def _skew_of(leaf_seconds: int) -> int:
    return min(SKEW_SECONDS, leaf_seconds // 2)


def _chains_to(facts: Facts, issuer: str, key: SealedKey) -> bool:
    """An issuer that nobody knows (any more) may be below any root."""
    if not issuer:
        return False  # not said; the time that is waited for covers it
    if key.role == "mesh-issuing":
        return facts.issuers.get(key.id) == issuer
    known = {aki: one for one, aki in facts.issuers.items()}
    return issuer not in known or known[issuer] in (one.id for one in below(facts.keys, key.id))
