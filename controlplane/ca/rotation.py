"""The life of CA keys: which step is next, and who holds it back. Pure: facts in, decisions and effects out.

    prepared ──▶ active ──▶ retired ──▶ gone        A key becomes retired by its successor's becoming active, so that
       └─────────────────────▲                      there is one active key of a role at every moment; one that was
             (given up)                             prepared in vain is retired without having signed anything.

Every step but the first has a gate, which opens on evidence (`controlplane.ca.gates`). `force` passes a closed gate,
never `check`.

Times are whole seconds since 1970. Roles: a root and the issuing key below it go together; `mesh-jwt` stands alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from controlplane.ca.errors import TwoActiveKeys
from controlplane.ca.facts import Facts, active, below, family, is_complete, key_of, root_above
from controlplane.ca.gates import Hold, activation_holds, removal_holds
from controlplane.ca.states import ROLES
from schemas.errors import Conflict
from schemas.records import Rotation, SealedKey

# The share of its life that an active key has left when it is replaced. An issuing key lives for 90 days: 45 are left,
# more than `meshadm check --fail-if-expiring` usually asks for. A root lives for 10 years: 2 are left, for rare guests.
ISSUING_LEFT, ROOT_LEFT = 1 / 2, 1 / 5
# Forced steps that a record remembers: the audit log has them all.
MAX_FORCED = 20


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
