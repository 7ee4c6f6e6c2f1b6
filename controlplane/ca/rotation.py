"""The life of CA keys: which step is next, and who holds it back. Pure: facts in, decisions and effects out.

    prepared ──▶ active ──▶ retired ──▶ gone        A key becomes retired by its successor's becoming active, so that
       └─────────────────────▲                      there is one active key of a role at every moment; one that was
             (given up)                             prepared in vain is retired without having signed anything.

Every step but the first has a gate, which opens on evidence. *Activate*: whoever may meet the new key's leaves says
that it trusts the root above them; who fell silent before it could say so may serve on until its own leaf has ended,
and is waited for as long. *Remove*: nobody presents a leaf of the key, nobody issues with it any more, and
whatever it signed, for hosts that are not connected too, has expired. `force` passes a closed gate, never `check`.

Times are whole seconds since 1970. Roles: a root and the issuing key below it go together; `mesh-jwt` stands alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from controlplane.ca.errors import TwoActiveKeys
from controlplane.ca.states import ROLES
from schemas.errors import Conflict, NotFound
from schemas.records import Rotation, SealedKey

# Clocks of replicas and sidecars may differ: what has expired by ours may live on by another's. Hosts without NTP drift
# by seconds a day; who is further off reports it. Of very short lives at most half: hosts further apart than that could
# not renew from each other in time.
SKEW_SECONDS = 30
# A replica that could not tell etcd of itself for so long issues nothing more: it may not know that its key is retired.
# Long enough that renewals outlast an outage of etcd which somebody is mending.
FENCE_SECONDS = 3600
# A replica says something every minute. One that missed three is taken for dead where only the living matter.
REPLICA_GONE_SECONDS = 180
# The share of its life that an active key has left when it is replaced. An issuing key lives for 90 days: 45 are left,
# more than `meshadm check --fail-if-expiring` usually asks for. A root lives for 10 years: 2 are left, for rare guests.
ISSUING_LEFT, ROOT_LEFT = 1 / 2, 1 / 5
# Forced steps that a record remembers: the audit log has them all.
MAX_FORCED = 20

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


# -- steps


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make a key; `with_root`: and a root above it."""

    role: str
    with_root: bool = False

    def __str__(self) -> str:
        return "prepare a new root and issuing key" if self.with_root else f"prepare a new {self.role} key"


@dataclass(frozen=True, slots=True)
class Activate:
    key: str

    def __str__(self) -> str:
        return f"activate {self.key}"


@dataclass(frozen=True, slots=True)
class Remove:
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"remove {', '.join(self.keys)}"


Step = Prepare | Activate | Remove


@dataclass(frozen=True, slots=True)
class Decision:
    """`step` None: nothing is left to be done. A step with `holds` waits."""

    step: Step | None
    holds: tuple[Hold, ...] = ()


@dataclass(frozen=True, slots=True)
class Effect:
    """What a step writes: records, whole; and ids whose records go."""

    puts: tuple[SealedKey, ...] = ()
    deletes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Due:
    """A rotation that time asks for."""

    replaces: tuple[str, ...]
    why: str
    by_hand: bool = False
    """The mesh does not hold the key that would sign the new one."""


# -- who is who


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


# -- gates


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


# -- what follows next


def next_step(rotation: Rotation, facts: Facts) -> Decision:
    """Of a rotation, from what is there: whoever drove it so far and wherever it was left."""
    old = [facts.keys[one] for one in rotation.replaces if one in facts.keys]
    signing = [key for key in old if key.state == "active"]
    if signing:
        role = "mesh-jwt" if signing[0].role == "mesh-jwt" else "mesh-issuing"
        roots = {key.id for key in old if key.role == "mesh-root"}
        for _, key in sorted(facts.keys.items()):
            above = root_above(facts.keys, key)
            if key.role != role or key.state != "prepared" or (above is not None and above.id in roots):
                continue
            if above is not None and above.state == "retired":
                continue
            if not is_complete(key):
                return Decision(Activate(key.id), (Hold("", f"{key.id} has no certificate yet: `meshadm ca install`"),))
            return Decision(Activate(key.id), activation_holds(facts, key.id))
        return Decision(Prepare(role, with_root=bool(roots)))
    gone = tuple(dict.fromkeys(one for key in old for one in family(facts.keys, key.id)))
    return Decision(Remove(gone), removal_holds(facts, gone)) if gone else Decision(None)


def due_upstream(facts: Facts) -> Due | None:
    """The same where an upstream signer has issuing keys signed: at once for the first; roots are its own matter."""
    key, root = active(facts.keys, "mesh-issuing"), active(facts.keys, "mesh-root")
    if key is None or root is None:
        return None
    left, life = key.not_after - facts.now, key.not_after - facts.starts[key.id]
    if root.sealed:
        return Due((key.id,), "an upstream signer is configured")
    return Due((key.id,), f"{key.id} has {max(0, left) // 86400} days left") if left < life * ISSUING_LEFT else None


def retired_roots(facts: Facts) -> list[tuple[str, ...]]:
    """Each with what is below it, where all of that is retired and nothing holds it back."""
    families = [family(facts.keys, one.id) for _, one in sorted(facts.keys.items()) if one.role == "mesh-root"]
    over = [ids for ids in families if all(facts.keys[one].state == "retired" for one in ids)]
    return [ids for ids in over if not removal_holds(facts, ids)]


def due(facts: Facts) -> Due | None:
    """The rotation that an active key's age asks for; the root's first, since it brings a new issuing key too."""
    for role, share in (("mesh-root", ROOT_LEFT), ("mesh-issuing", ISSUING_LEFT)):
        key = active(facts.keys, role)
        if key is None or not key.chain:
            continue
        left, life = key.not_after - facts.now, key.not_after - facts.starts[key.id]
        if left < life * share:
            signer = active(facts.keys, "mesh-root")
            replaces = tuple(one for one in family(facts.keys, key.id) if facts.keys[one].state == "active")
            why = f"{key.id} has {max(0, left) // 86400} days left"
            return Due(replaces, why, by_hand=signer is None or not signer.sealed)
    return None


# -- effects


def activated(facts: Facts, key_id: str, forced: str = "") -> Effect:
    """The key and its root active, their predecessors retired, in one. `forced`: the note that the record keeps."""
    root_now = active(facts.keys, "mesh-root")
    # Records of the first version don't name their root; once there are two it has to be said.
    puts = {
        one.id: msgspec.structs.replace(one, signed_by=root_now.id)
        for one in facts.keys.values()
        if one.role == "mesh-issuing" and not one.signed_by and root_now is not None
    }
    key = puts.get(key_id) or key_of(facts, key_id)
    up = [key]
    root = root_above(facts.keys, key)
    if root is not None and root.state == "prepared":
        up.append(root)
    for one in up:
        before = active(facts.keys, one.role)
        if before is not None:
            puts[before.id] = _retired(facts, puts.get(before.id, before))
        puts[one.id] = _noted(msgspec.structs.replace(one, state="active", since=facts.now), forced)
    return Effect(tuple(puts.values()))


def _retired(facts: Facts, key: SealedKey) -> SealedKey:
    leaf_seconds = key.leaf_seconds
    if key.role == "mesh-root":
        leaf_seconds = max((one.leaf_seconds for one in below(facts.keys, key.id)), default=0)
    return msgspec.structs.replace(key, state="retired", since=facts.now, leaf_seconds=leaf_seconds)


def given_up(facts: Facts, key_id: str) -> Effect:
    """Prepared keys that will not be used: retired, and nothing of theirs can be alive. Raises Conflict, NotFound."""
    key = key_of(facts, key_id)
    if key.state != "prepared":
        remedy = "`meshadm ca rotate` replaces it" if key.state == "active" else "remove it"
        raise Conflict(f"{key.id} is {key.state}: only a prepared key can be given up; {remedy}")
    ids = [one for one in family(facts.keys, key_id) if facts.keys[one].state == "prepared"]
    root = root_above(facts.keys, key)
    if root is not None and root.state == "prepared" and len(below(facts.keys, root.id)) == 1:
        ids.append(root.id)
    return Effect(
        tuple(msgspec.structs.replace(facts.keys[one], state="retired", since=facts.now, leaf_seconds=0) for one in ids)
    )


def removed(facts: Facts, key_ids: Sequence[str], forced: str = "") -> Effect:
    """The keys gone. A forced removal is remembered by the key that is active in that role."""
    puts: dict[str, SealedKey] = {}
    if forced:
        for key in (key_of(facts, one) for one in key_ids):
            successor = active(facts.keys, key.role)
            if successor is not None:
                puts[successor.id] = _noted(puts.get(successor.id, successor), forced)
    return Effect(tuple(puts.values()), tuple(key_ids))


def _noted(key: SealedKey, forced: str) -> SealedKey:
    if not forced or forced in key.forced:
        return key
    return msgspec.structs.replace(key, forced=(*key.forced, forced)[-MAX_FORCED:])


def after(keys: Mapping[str, SealedKey], effect: Effect) -> dict[str, SealedKey]:
    result = {**keys, **{key.id: key for key in effect.puts}}
    for one in effect.deletes:
        result.pop(one, None)
    return result


def check(before: Mapping[str, SealedKey], effect: Effect) -> None:
    """What no force passes. Raises TwoActiveKeys; Conflict where a role would lose the key that signs, or its root."""
    keys = after(before, effect)
    for role in ROLES:
        actives = [key.id for key in keys.values() if key.role == role and key.state == "active"]
        if len(actives) > 1:
            raise TwoActiveKeys(f"more than one active {role} key: {', '.join(sorted(actives))}")
        if not actives and active(before, role) is not None:
            raise Conflict(f"no {role} key would be left to sign: activate another one")
    for key in keys.values():
        if key.role == "mesh-issuing" and key.state == "active" and root_above(keys, key) is None:
            raise Conflict(f"the root above {key.id}, which is active, would be gone")


@dataclass(frozen=True, slots=True)
class Force:
    """A closed gate that was passed all the same: for the record and for the audit log."""

    step: str
    by: str
    now: int
    holds: tuple[Hold, ...] = field(default=())

    def __str__(self) -> str:
        shown = [str(hold) for hold in self.holds[:5]]
        more = f" and {len(self.holds) - len(shown)} more" if len(self.holds) > len(shown) else ""
        return f"{self.now}: {self.step}, forced by {self.by}, past {'; '.join(shown)}{more}"
