"""The CA's life under random play: sidecars and replicas that come, lag, renew and vanish; operators that interfere."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.ca import rotation
from controlplane.ca.facts import (
    FENCE_SECONDS,
    REPLICA_GONE_SECONDS,
    SKEW_SECONDS,
    Facts,
    Replica,
    Sidecar,
    Silent,
    active,
    family,
    root_above,
)
from controlplane.ca.gates import activation_holds, is_forgettable, removal_holds, silent_until
from controlplane.ca.rotation import Activate, Effect, Prepare, Remove
from schemas.errors import Conflict, MeshError
from schemas.records import Rotation, SealedKey

START = 1_800_000_000
LEAF = 3600
DAY = 24 * 3600
WORDS = ("prepare", "root", "activate", "retire", "remove")


def ca_key(key_id: str, state: str, now: int, **more: object) -> SealedKey:
    role = key_id.rpartition("-")[0]
    fields: dict[str, object] = {
        "id": key_id, "role": role, "state": state, "chain": (b"der",), "kek_id": "kek", "nonce": b"n", "sealed": b"s",
        "not_after": now + 3650 * DAY, "since": now, "leaf_seconds": LEAF, **more,
    }  # fmt: skip
    return SealedKey(**fields)  # type: ignore[arg-type]  # fields by name


@dataclass
class Host:
    """A sidecar: its leaf is (issuing key, end); whether replicas hear of it, else until when they remember it."""

    trust: int
    issuer: str
    expires: int
    connected: bool = True
    remembered: int = START + LEAF + SKEW_SECONDS


@dataclass
class Issuer:
    """A replica: what it issues with, what etcd last heard of it, and when."""

    issuer: str
    said: str
    since: int
    seen: int
    trust: int


@dataclass
class Pending:
    """What a replica has decided and not yet written: it may die here, or be late."""

    version: int
    effect: Effect
    forced: bool
    rotation_after: Rotation | None
    bundle: int


@dataclass
class World:
    keys: dict[str, SealedKey] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    replicas: dict[str, Issuer] = field(default_factory=dict)
    now: int = START
    version: int = 1
    bundle: int = 1
    made: int = 0
    rotation: Rotation | None = None
    lives: int = LEAF
    """Seconds that leaves of keys live that are made from now on."""

    def active(self) -> str:
        key = active(self.keys, "mesh-issuing")
        assert key is not None
        return key.id

    def _facts(self) -> Facts:
        return Facts(
            keys=dict(self.keys),
            issuers={one: one for one, key in self.keys.items() if key.role == "mesh-issuing" and key.chain},
            starts=dict.fromkeys(self.keys, START),
            now=self.now,
            sidecars=tuple(
                Sidecar(name, host.trust, host.issuer) for name, host in self.hosts.items() if host.connected
            ),
            replicas=tuple(
                Replica(name, one.seen, one.trust, one.said, one.since) for name, one in self.replicas.items()
            ),
            silent=tuple(
                Silent(name, host.trust, host.remembered) for name, host in self.hosts.items() if not host.connected
            ),
        )

    def facts(self) -> Facts:
        """As they are looked at: what can hold nothing back is forgotten."""
        facts = self._facts()
        known = tuple(one for one in facts.silent if not is_forgettable(one, facts))
        return dataclasses.replace(facts, silent=known)

    def falls_silent(self, host: Host) -> None:
        host.connected = False
        host.remembered = silent_until(self.now, self.keys[self.active()].leaf_seconds)

    def renewed(self, host: Host, issuer: str) -> None:
        host.issuer, host.expires = issuer, self.now + self.keys[issuer].leaf_seconds

    def new_id(self, role: str) -> str:
        self.made += 1
        return f"{role}-{self.made}"

    def prepared(self, step: Prepare) -> Effect:
        if step.with_root:
            root = ca_key(self.new_id("mesh-root"), "prepared", self.now, trust_sequence=self.bundle + 1)
            return Effect((root, self._issuing_key(root.id)))
        root_now = active(self.keys, "mesh-root")
        assert root_now is not None
        return Effect((self._issuing_key(root_now.id),))

    def _issuing_key(self, root: str) -> SealedKey:
        return ca_key(self.new_id("mesh-issuing"), "prepared", self.now, signed_by=root, leaf_seconds=self.lives)

    def live_chains_to(self, key_id: str) -> list[str]:
        """Hosts, connected or not, with a leaf that is valid and chains to the key."""
        return [
            name
            for name, host in self.hosts.items()
            if host.expires > self.now and host.issuer in self.keys and key_id in (host.issuer, self._root(host.issuer))
        ]

    def _root(self, issuing: str) -> str:
        root = root_above(self.keys, self.keys[issuing])
        return root.id if root else ""


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.pending: list[Pending] = []

    @initialize(replicas=st.integers(1, 3), hosts=st.integers(0, 4), begun=st.booleans(), old=st.booleans())
    def genesis(self, replicas: int, hosts: int, begun: bool, old: bool) -> None:
        """`old`: as the first version of the mesh wrote it."""
        world = self.world
        root, issuing = world.new_id("mesh-root"), world.new_id("mesh-issuing")
        world.keys = {
            root: ca_key(root, "active", START),
            issuing: ca_key(issuing, "active", START, signed_by="" if old else root),
        }
        for number in range(replicas):
            world.replicas[f"r{number}"] = Issuer(issuing, issuing, 0, START, 1)
        for number in range(hosts):
            world.hosts[f"h{number}"] = Host(1, issuing, START + LEAF, connected=number != 2)
        if begun:
            self.a_rotation_is_started(False, False)

    # -- time and hosts

    @rule(seconds=st.sampled_from((1, 40, 300, 1900, 3700, 9000)))
    def time_passes(self, seconds: int) -> None:
        self.world.now += seconds

    @rule(seconds=st.sampled_from((600, LEAF, 4 * LEAF)))
    def leaves_are_to_live(self, seconds: int) -> None:
        self.world.lives = seconds

    @rule(data=st.data())
    def a_host_renews(self, data: st.DataObject) -> None:
        world = self.world
        if not world.hosts:
            return
        host = world.hosts[data.draw(st.sampled_from(sorted(world.hosts)))]
        replica = world.replicas[data.draw(st.sampled_from(sorted(world.replicas)))]
        if world.now - replica.seen > FENCE_SECONDS or replica.issuer not in world.keys:
            return
        in_touch = world.now - replica.seen < REPLICA_GONE_SECONDS
        if host.expires <= world.now and not in_touch:
            return  # it has to be attested anew, and that takes etcd
        world.renewed(host, replica.issuer)
        host.trust = max(host.trust, replica.trust)
        if in_touch and not host.connected:
            world.falls_silent(host)  # it was heard of meanwhile

    @rule(data=st.data(), behind=st.integers(0, 1))
    def a_host_takes_up_the_bundle(self, data: st.DataObject, behind: int) -> None:
        if self.world.hosts:
            host = self.world.hosts[data.draw(st.sampled_from(sorted(self.world.hosts)))]
            host.trust = max(host.trust, self.world.bundle - behind)

    @rule(data=st.data(), connected=st.booleans())
    def a_host_is_cut_off_or_back(self, data: st.DataObject, connected: bool) -> None:
        if self.world.hosts:
            host = self.world.hosts[data.draw(st.sampled_from(sorted(self.world.hosts)))]
            if host.connected and not connected:
                self.world.falls_silent(host)
            host.connected = connected

    # -- replicas

    @rule(data=st.data())
    def a_replica_takes_over_the_ca(self, data: st.DataObject) -> None:
        replica = self.world.replicas[data.draw(st.sampled_from(sorted(self.world.replicas)))]
        replica.issuer, replica.trust = self.world.active(), self.world.bundle

    @rule(data=st.data())
    def a_replica_tells_etcd(self, data: st.DataObject) -> None:
        replica = self.world.replicas[data.draw(st.sampled_from(sorted(self.world.replicas)))]
        if replica.said != replica.issuer:
            replica.said, replica.since = replica.issuer, self.world.now
        replica.seen = self.world.now

    @precondition(lambda self: self.world.rotation is None)
    @rule(forced=st.booleans(), only_issuing=st.booleans())
    def a_rotation_is_started(self, forced: bool, only_issuing: bool) -> None:
        world = self.world
        replaces = [key.id for key in world.keys.values() if key.state == "active"]
        if only_issuing:
            replaces = [world.active()]
        world.rotation = Rotation(id="1", what="", replaces=tuple(replaces), started=world.now, by="test", force=forced)
        world.version += 1

    @rule(data=st.data(), renewing=st.booleans())
    def nearly_everybody_catches_up(self, data: st.DataObject, renewing: bool) -> None:
        """All but one, who may be a host or a replica."""
        world = self.world
        late = data.draw(st.sampled_from([*sorted(world.hosts), *sorted(world.replicas), ""]))
        for name, replica in world.replicas.items():
            if name != late:
                if replica.said != world.active():
                    replica.said, replica.since = world.active(), world.now
                replica.issuer, replica.trust, replica.seen = world.active(), world.bundle, world.now
        for name, host in world.hosts.items():
            if name != late and host.connected:
                host.trust = world.bundle
                if renewing:
                    world.renewed(host, world.active())

    @precondition(lambda self: self.world.rotation is not None)
    @rule()
    def a_replica_takes_the_next_step(self) -> None:
        self._decide(self.world)
        if self.pending:
            self._write(self.pending.pop())

    @precondition(lambda self: self.world.rotation is not None)
    @rule(seconds=st.sampled_from((0, 40, 1900, 3700)))
    def everybody_follows_and_a_replica_takes_the_next_step(self, seconds: int) -> None:
        world = self.world
        for replica in world.replicas.values():
            if replica.said != world.active():
                replica.said, replica.since = world.active(), world.now
            replica.issuer, replica.trust, replica.seen = world.active(), world.bundle, world.now
        for host in world.hosts.values():
            if host.connected:
                host.trust = world.bundle
                world.renewed(host, world.active())
        world.now += seconds
        self.a_replica_takes_the_next_step()

    @precondition(lambda self: self.world.rotation is not None)
    @rule()
    def a_replica_decides(self) -> None:
        self._decide(self.world)

    def _decide(self, world: World) -> None:
        assert world.rotation is not None
        facts, force = world.facts(), world.rotation.force
        try:
            decision = rotation.next_step(world.rotation, facts)
        except Conflict:
            return
        if decision.holds and not force:
            return
        match decision.step:
            case None:
                self._decided(Effect(), False, None)
            case Prepare() as step:
                self._decided(world.prepared(step), False, world.rotation)
            case Activate(key):
                self._decided(rotation.activated(facts, key), bool(decision.holds), world.rotation)
            case Remove(keys):
                self._decided(rotation.removed(facts, keys), bool(decision.holds), world.rotation)

    def _decided(self, effect: Effect, forced: bool, after: Rotation | None) -> None:
        if not forced:
            for root in (one for one in effect.puts if one.role == "mesh-root" and one.state == "active"):
                refuse = [
                    name
                    for name, host in self.world.hosts.items()
                    if host.expires > self.world.now and host.trust < root.trust_sequence
                ]
                assert not refuse, f"{refuse} would refuse what chains to {root.id}"
        bundle = self.world.bundle + (any(key.role == "mesh-root" for key in effect.puts) or bool(effect.deletes))
        self.pending.append(Pending(self.world.version, effect, forced, after, bundle))

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), dies=st.booleans())
    def a_decision_is_written_or_its_replica_dies(self, data: st.DataObject, dies: bool) -> None:
        one = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        if not dies:
            self._write(one)

    def _write(self, one: Pending) -> None:
        """As the guarded transaction: nothing where anything was written since."""
        world = self.world
        if one.version != world.version:
            return
        try:
            rotation.check(world.keys, one.effect)
        except MeshError:
            return
        if not one.forced:
            for key_id in one.effect.deletes:
                assert not world.live_chains_to(key_id), f"{key_id} went while a live leaf chains to it"
        world.keys = rotation.after(world.keys, one.effect)
        world.bundle, world.rotation = one.bundle, one.rotation_after
        world.version += 1

    # -- operators

    @rule(
        data=st.data(), force=st.booleans(), what=st.sampled_from(("prepare", "root", "activate", "retire", "remove"))
    )
    def an_operator_interferes(self, data: st.DataObject, force: bool, what: str) -> None:
        world = self.world
        key = data.draw(st.sampled_from(sorted(world.keys)))
        facts = world.facts()
        try:
            if what in ("prepare", "root"):
                effect, forced = world.prepared(Prepare("mesh-issuing", what == "root")), False
            elif what == "activate":
                forced = bool(activation_holds(facts, key))
                effect = rotation.activated(facts, key)
            elif what == "retire":
                effect, forced = rotation.given_up(facts, key), False
            else:
                ids = family(facts.keys, key)
                forced = bool(removal_holds(facts, ids))
                effect = rotation.removed(facts, ids)
        except Conflict:
            return
        if not forced or force:
            self._decided(effect, forced, world.rotation)

    # -- what must hold, after every step

    @invariant()
    def one_of_each_is_active(self) -> None:
        if self.world.keys:
            for role in ("mesh-root", "mesh-issuing"):
                found = [key.id for key in self.world.keys.values() if key.role == role and key.state == "active"]
                assert len(found) == 1, found

    @invariant()
    def the_active_issuing_key_has_its_root(self) -> None:
        if self.world.keys:
            above = root_above(self.world.keys, self.world.keys[self.world.active()])
            assert above is not None
            assert above.state == "active"


TestLife = pytest.mark.fault(15)(Life.TestCase)
TestLife.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


def rotated(world: World, *, steps: int = 20) -> list[str]:
    """Drives the world's rotation with everybody willing; the steps that it took."""
    took: list[str] = []
    for _ in range(steps):
        assert world.rotation is not None
        for host in world.hosts.values():
            host.trust, host.issuer, host.expires = world.bundle, world.active(), world.now + LEAF
        for replica in world.replicas.values():
            if replica.said != world.active():
                replica.said, replica.since = world.active(), world.now
            replica.seen, replica.trust = world.now, world.bundle
        decision = rotation.next_step(world.rotation, world.facts())
        if decision.step is None:
            return took
        if decision.holds:
            world.now += 600
            continue
        took.append(type(decision.step).__name__)
        effect = (
            world.prepared(decision.step)
            if isinstance(decision.step, Prepare)
            else rotation.activated(world.facts(), decision.step.key)
            if isinstance(decision.step, Activate)
            else rotation.removed(world.facts(), decision.step.keys)
        )
        rotation.check(world.keys, effect)
        world.keys = rotation.after(world.keys, effect)
        world.bundle += 1
    raise AssertionError(f"no end: {took}")


def made_world(hosts: int = 3) -> World:
    life = Life()
    life.genesis(2, hosts, False, True)
    return life.world


def test_a_rotation_ends_where_everybody_is_willing() -> None:
    world = made_world()
    before = set(world.keys)
    world.rotation = Rotation(id="1", what="", replaces=tuple(world.keys), started=START, by="test")
    assert rotated(world) == ["Prepare", "Activate", "Remove"]
    assert not before & set(world.keys)
    assert len(world.keys) == 2


def test_one_issuing_key_is_replaced_below_the_same_root() -> None:
    world = made_world()
    world.rotation = Rotation(id="1", what="", replaces=(world.active(),), started=START, by="test")
    assert rotated(world) == ["Prepare", "Activate", "Remove"]
    assert "mesh-root-1" in world.keys


def with_prepared_root() -> World:
    world = made_world()
    world.keys = rotation.after(world.keys, world.prepared(Prepare("mesh-issuing", with_root=True)))
    world.bundle = 2
    for replica in world.replicas.values():
        replica.trust = 2
    return world


def test_who_has_not_acked_holds_activation_back_by_name() -> None:
    world = with_prepared_root()
    world.hosts["h0"].trust = world.hosts["h2"].trust = 2
    holds = activation_holds(world.facts(), "mesh-issuing-4")
    assert [hold.who for hold in holds] == ["h1"]


def test_who_fell_silent_before_it_acked_is_waited_for_until_its_certificate_has_ended() -> None:
    """Its Envoy serves on with the old roots, and would refuse what its peers present."""
    world = with_prepared_root()
    for host in world.hosts.values():
        host.trust = 2
    world.hosts["h1"].trust = 1
    world.falls_silent(world.hosts["h1"])
    (hold,) = activation_holds(world.facts(), "mesh-issuing-4")
    assert (hold.who, hold.until) == ("h1", START + LEAF + SKEW_SECONDS)
    assert str(hold).startswith("h1: fell silent trusting by bundle 1, needed is 2")
    world.now = START + LEAF + SKEW_SECONDS
    assert activation_holds(world.facts(), "mesh-issuing-4") == ()


def test_who_fell_silent_with_a_leaf_of_a_key_whose_leaves_lived_longer_is_waited_for_as_long() -> None:
    """Lives were shortened, and it had not renewed yet."""
    world = made_world()
    old, long = world.active(), 24 * LEAF
    world.keys[old] = msgspec.structs.replace(world.keys[old], leaf_seconds=long)
    world.keys = rotation.after(world.keys, world.prepared(Prepare("mesh-issuing")))
    world.keys = rotation.after(world.keys, rotation.activated(world.facts(), "mesh-issuing-3"))
    world.keys = rotation.after(world.keys, world.prepared(Prepare("mesh-issuing", with_root=True)))
    world.bundle = 2
    for host in world.hosts.values():
        host.trust = 2
    for replica in world.replicas.values():
        replica.trust, replica.said, replica.since = 2, "mesh-issuing-3", START
    world.now += 60
    world.hosts["h1"].trust = 1
    world.falls_silent(world.hosts["h1"])
    world.now = START + long + SKEW_SECONDS - 1
    (hold,) = activation_holds(world.facts(), "mesh-issuing-5")
    assert (hold.who, hold.until) == ("h1", START + long + SKEW_SECONDS)
    world.now += 1
    assert activation_holds(world.facts(), "mesh-issuing-5") == ()


def test_who_fell_silent_holds_no_key_back_below_a_root_that_is_in_use() -> None:
    """Such as one that died before it said anything."""
    world = made_world()
    root = world.keys["mesh-root-1"]
    world.keys["mesh-root-1"] = msgspec.structs.replace(root, trust_sequence=1)
    world.keys = rotation.after(world.keys, world.prepared(Prepare("mesh-issuing")))
    world.hosts["h1"].trust = 0
    world.falls_silent(world.hosts["h1"])
    assert activation_holds(world.facts(), "mesh-issuing-3") == ()


def test_a_lost_replica_may_have_renewed_whom_nobody_hears() -> None:
    world = with_prepared_root()
    for host in world.hosts.values():
        host.trust = 2
    world.hosts["h1"].trust = world.replicas["r1"].trust = 1
    world.falls_silent(world.hosts["h1"])
    world.now = START + REPLICA_GONE_SECONDS
    (hold,) = activation_holds(world.facts(), "mesh-issuing-4")
    assert (hold.who, hold.until) == ("h1", START + FENCE_SECONDS + LEAF + SKEW_SECONDS)


def test_a_replica_that_lives_has_to_trust_the_new_root_too() -> None:
    world = with_prepared_root()
    world.hosts.clear()
    world.replicas["r1"].trust = 1
    assert [hold.who for hold in activation_holds(world.facts(), "mesh-issuing-4")] == ["replica r1"]
    world.now += REPLICA_GONE_SECONDS
    assert activation_holds(world.facts(), "mesh-issuing-4") == ()


@pytest.mark.spiffe(24)
def test_a_root_that_others_follow_is_published_ahead_of_its_use() -> None:
    world = with_prepared_root()
    world.hosts.clear()
    facts = dataclasses.replace(world.facts(), publish_ahead=900)
    (hold,) = activation_holds(facts, "mesh-issuing-4")
    assert hold.until == START + 900
    later = dataclasses.replace(facts, now=START + 900)
    assert [one for one in activation_holds(later, "mesh-issuing-4") if not one.who] == []


def test_a_dead_replica_that_issued_with_a_key_holds_its_removal_until_the_fence_and_its_leaves_are_over() -> None:
    world = with_prepared_root()
    world.hosts.clear()
    world.keys = rotation.after(world.keys, rotation.activated(world.facts(), "mesh-issuing-4"))
    world.replicas["r0"].said = "mesh-issuing-4"
    world.now += LEAF + SKEW_SECONDS
    ids = ("mesh-root-1", "mesh-issuing-2")
    assert {hold.who for hold in removal_holds(world.facts(), ids)} == {"replica r1"}
    world.now = START + FENCE_SECONDS + LEAF + SKEW_SECONDS
    assert removal_holds(world.facts(), ids) == ()


def test_hosts_that_are_not_connected_are_waited_for_as_long_as_their_leaves_may_live() -> None:
    world = with_prepared_root()
    for host in world.hosts.values():
        host.trust, host.connected = 2, False
    world.keys = rotation.after(world.keys, rotation.activated(world.facts(), "mesh-issuing-4"))
    for replica in world.replicas.values():
        replica.said = "mesh-issuing-4"
    (hold,) = removal_holds(world.facts(), ("mesh-issuing-2",))
    assert hold.until == START + LEAF + SKEW_SECONDS


def test_force_never_leaves_a_role_without_a_key() -> None:
    world = made_world()
    with pytest.raises(Conflict, match="only a retired key"):
        removal_holds(world.facts(), ("mesh-issuing-2",))
    with pytest.raises(Conflict, match="no mesh-issuing key would be left"):
        rotation.check(world.keys, Effect((), ("mesh-issuing-2",)))
    double = msgspec.structs.replace(world.keys["mesh-issuing-2"], id="mesh-issuing-9")
    with pytest.raises(MeshError, match="more than one active"):
        rotation.check(world.keys, Effect((double,)))


def test_a_key_is_due_long_before_its_end() -> None:
    world = made_world()
    world.keys["mesh-issuing-2"] = msgspec.structs.replace(world.keys["mesh-issuing-2"], not_after=START + 90 * DAY)
    world.now = START + 44 * DAY
    assert rotation.due(world.facts()) is None
    world.now = START + 46 * DAY
    due = rotation.due(world.facts())
    assert due is not None
    assert due.replaces == ("mesh-issuing-2",)
    assert not due.by_hand
    world.now = START + 9 * 365 * DAY
    due = rotation.due(world.facts())
    assert due is not None
    assert due.replaces == ("mesh-root-1", "mesh-issuing-2")
