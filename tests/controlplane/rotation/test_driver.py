"""Who takes the steps of a rotation, whatever happens to the replica that began it."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from controlplane.ca.facts import FENCE_SECONDS, SKEW_SECONDS
from controlplane.ca.keystore import open_authority
from controlplane.ca.rotation import Prepare, activated, next_step
from controlplane.ca.seal import KeyRing, LocalKey
from controlplane.rotation.external import reseal
from controlplane.rotation.steps import GateClosed
from controlplane.rotation.write import Actor
from controlplane.store.lock import LOCK_SECONDS
from schemas import codec
from schemas.errors import Conflict, MeshError, NotFound
from schemas.keys import EndpointRef, StatusRef
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import Mesh
from schemas.records import Endpoint, SidecarStatus, SilentSidecar
from tests.controlplane.rotation.world import KEYS, Died, World, made_world
from tests.spiffe.certificates import NOW
from tests.states.build import revocation

ME = Actor("test", "here")
DAY = 24 * 3600
# Lock, effect and release for each of: start, prepare, activate, remove, end.
TRANSACTIONS = 15


async def rotate_root(world: World) -> None:
    await world.steps(world.store()).start("mesh-root", ME, why="test")


@pytest.mark.fault(15)
@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("at", range(1, TRANSACTIONS + 2))
async def test_a_replica_killed_at_any_step_is_followed_by_another(
    autojump_clock: trio.testing.MockClock, at: int, applied: bool
) -> None:
    async with made_world() as world:
        before = {one for one in await world.keys() if "mesh-root" in one or "mesh-issuing" in one}
        mortal = world.mortal(at, applied=applied)
        died = False
        try:
            await world.steps(mortal).start("mesh-root", ME, why="test")
            rotator, _ = world.rotator(mortal)
            await world.drive(rotator)
        except Died:
            died = True
        assert died == (at <= TRANSACTIONS)
        await world.check()
        await trio.sleep(LOCK_SECONDS + 1)  # of the clock that jumps: the lock that the dead one may have held
        if (await world.look()).rotation is None and before & set(await world.keys()):
            await rotate_root(world)  # it died before the rotation was known to anybody
        follower, _ = world.rotator(world.store())
        await world.drive(follower)
        await world.check()
        assert not before & set(await world.keys())


@pytest.mark.fault(15)
@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])  # lock, effect, release
async def test_a_replica_killed_while_it_seals_the_keys_anew_leaves_all_or_none(
    autojump_clock: trio.testing.MockClock, at: int, applied: bool
) -> None:
    async with made_world() as world:
        fresh = LocalKey(world.rng.randbytes(32), world.rng.randbytes)
        ring = KeyRing(world.kek, fresh)
        with pytest.raises(Died):
            await reseal(world.steps(world.mortal(at, applied=applied), ring), fresh.id, ME)
        done = (at, applied) > (2, False)
        under = fresh if done else world.kek
        assert {key.kek_id for key in (await world.keys()).values()} == {under.id}
        await open_authority(list((await world.keys()).values()), under)
        await trio.sleep(LOCK_SECONDS + 1)
        follower = world.steps(world.store(), ring)
        if done:
            with pytest.raises(Conflict, match=r"sealed under .* already"):
                await reseal(follower, fresh.id, ME)
        else:
            await reseal(follower, fresh.id, ME)
        await open_authority(list((await world.keys()).values()), fresh)


async def test_two_replicas_at_once_do_every_step_once(autojump_clock: trio.testing.MockClock) -> None:
    async with made_world() as world:
        await rotate_root(world)
        rotators = [world.rotator(world.store())[0] for _ in range(3)]

        async def advance(number: int) -> None:
            try:
                await rotators[number].advance()
            except MeshError as error:
                assert isinstance(error, Conflict | NotFound)  # noqa: PT017  (of several tasks at once)

        for _ in range(60):
            await world.everybody_follows()
            if (await world.look()).rotation is None:
                break
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(advance, number)
            await world.check()
            world.now += 300
        keys = await world.keys()
        assert sorted(key.role for key in keys.values()) == ["etcd-client", "mesh-issuing", "mesh-jwt", "mesh-root"]


@pytest.mark.fault(15)
async def test_a_replica_that_lost_the_lock_writes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with made_world() as world:
        steps, others = world.steps(world.store()), world.steps(world.store())
        prepared = (await steps.prepare(Prepare("mesh-issuing"), ME)).keys[0]
        before = await world.keys()
        for taken in (False, True):
            async with steps.lock() as lock:
                seen = await steps.look()
                effect = activated(seen.facts, prepared)
                await world.client.revoke(lock.lease)  # which its end would do
                if taken:
                    async with others.lock():
                        written = await steps.writer.commit(seen, effect, lock, by=ME)
                else:
                    written = await steps.writer.commit(seen, effect, lock, by=ME)
            assert written is None
            assert await world.keys() == before
        assert prepared in (await steps.activate(prepared, ME)).keys, "nothing but the lock was missing"


async def test_nobody_advances_past_a_sidecar_that_has_not_acked(autojump_clock: trio.testing.MockClock) -> None:
    async with made_world() as world:
        await world.everybody_follows()
        await rotate_root(world)
        rotator, steps = world.rotator(world.store())
        await rotator.advance()
        for _ in range(3):
            await rotator.advance()
            world.now += 10_000
        (prepared,) = (
            one.id for one in (await world.keys()).values() if one.role == "mesh-issuing" and one.state == "prepared"
        )
        with pytest.raises(GateClosed) as closed:
            await steps.activate(prepared, ME)
        assert [hold.who for hold in closed.value.holds] == ["shop/web.one"]
        done = await steps.activate(prepared, ME, force=True)
        assert [hold.who for hold in done.passed] == ["shop/web.one"]
        assert "forced by test" in (await world.keys())[prepared].forced[0]


async def test_who_fell_silent_holds_activation_back_by_name_until_its_certificate_has_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with made_world() as world:
        await world.everybody_follows()
        until = world.now + 3630
        for sidecar, trust in (("api.lost", 1), ("api.knew", 2), ("web.one", 1)):  # the last one speaks again
            record = codec.encode(SilentSidecar(until=until, trust_sequence=trust, address="10.0.0.1"))
            await world.client.put(KEYS.silent_sidecar(StatusRef("shop", sidecar)), record)
        await world.client.put(*discovered_at("10.0.0.1"))
        await rotate_root(world)
        rotator, _ = world.rotator(world.store())
        await rotator.advance()
        await world.everybody_follows()
        assert await rotator.advance() > 0, "it waits"
        current = (await world.look()).rotation
        assert current is not None
        decision = next_step(current, (await world.look()).facts)
        assert [(hold.who, hold.until) for hold in decision.holds] == [("shop/api.lost", until)]
        world.now = until
        await world.everybody_follows()
        assert await rotator.advance() == 0, "it goes on"
        assert all(key.state != "prepared" for key in (await world.keys()).values())
        assert len((await world.client.list(KEYS.silent())).kvs) == 3
        await world.everybody_follows()
        world.now += FENCE_SECONDS
        await rotator.advance()
        assert len((await world.client.list(KEYS.silent())).kvs) == 3, "leaves of the retired key may still live"
        world.now += SKEW_SECONDS
        await rotator.advance()
        assert (await world.client.list(KEYS.silent())).kvs == ()


@pytest.mark.parametrize(
    ("then", "now", "held"),
    [
        ("10.0.0.1", "10.0.0.1", False),
        ("10.0.0.1", "10.0.0.2", True),
        ("10.0.0.1", None, True),
        ("", "10.0.0.1", True),
        ("", None, True),
    ],
)
async def test_a_namesake_elsewhere_does_not_speak_for_who_fell_silent(
    autojump_clock: trio.testing.MockClock, then: str, now: str | None, held: bool
) -> None:
    """A host that was replaced under the same name: the Envoy of the first may serve on where nobody hears it."""
    async with made_world() as world:
        await world.everybody_follows()
        record = SilentSidecar(until=world.now + 3630, trust_sequence=1, address=then)
        await world.client.put(KEYS.silent_sidecar(StatusRef("shop", "web.one")), codec.encode(record))
        if now is not None:
            await world.client.put(*discovered_at(now))
        facts = (await world.look()).facts
        assert [one.name for one in facts.silent] == (["shop/web.one"] if held else [])
        assert [one.name for one in facts.sidecars] == ["shop/web.one"]


def discovered_at(address: str) -> tuple[bytes, bytes]:
    """The one sidecar that speaks."""
    key = KEYS.endpoint(EndpointRef(ServiceRef("shop", "web"), "one"))
    return key, codec.encode(Endpoint(address=address, ports={}))


async def test_force_passes_who_fell_silent_and_it_stops_counting_where_it_is_revoked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with made_world() as world:
        await world.everybody_follows()
        record = codec.encode(SilentSidecar(until=world.now + 3630, trust_sequence=1))
        await world.client.put(KEYS.silent_sidecar(StatusRef("shop", "api.lost")), record)
        await world.client.put(KEYS.silent_sidecar(StatusRef("shop", "api.unreadable")), b"\xc1")
        steps = world.steps(world.store())
        prepared = (await steps.prepare(Prepare("mesh-issuing", with_root=True), ME)).keys[1]
        await world.everybody_follows()
        with pytest.raises(GateClosed, match=r"shop/api\.lost: .* until 20\d\d-") as closed:
            await steps.activate(prepared, ME)
        assert [(hold.who, hold.until is None) for hold in closed.value.holds] == [
            ("shop/api.lost", False),
            ("shop/api.unreadable", True),
        ]
        await world.client.put(*revocation("api", 1))
        assert (await steps.look()).facts.silent == ()
        await world.client.put(*revocation("api", 2, revoked=False))
        done = await steps.activate(prepared, ME, force=True)
        assert [hold.who for hold in done.passed] == ["shop/api.lost", "shop/api.unreadable"]
        assert "shop/api.lost" in (await world.keys())[prepared].forced[0]


async def test_who_is_revoked_holds_no_step_back_and_does_again_when_restored(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nobody hears what it says, and its lease lives as long as it likes."""
    async with made_world() as world:
        await world.everybody_follows()
        (thief,) = (await world.client.list(b"/mesh/v1/control/status/")).kvs
        await rotate_root(world)
        rotator, steps = world.rotator(world.store())
        await rotator.advance()
        (prepared,) = (
            one.id for one in (await world.keys()).values() if one.role == "mesh-issuing" and one.state == "prepared"
        )
        await world.everybody_follows()
        await world.client.put(thief.key, thief.value)  # the old bundle
        await world.client.put(*revocation("web", 1))
        await world.client.put(*revocation("unreadable", 1)[:1], b"\xc1")
        assert (await steps.look()).facts.sidecars == ()
        look = steps.look

        async def look_then_it_is_restored() -> object:
            seen = await look()
            await world.client.put(*revocation("web", 2, revoked=False))
            return seen

        steps.look = look_then_it_is_restored  # type: ignore[method-assign, assignment]  # a race, made certain
        with pytest.raises(GateClosed) as closed:
            await steps.activate(prepared, ME)
        assert [hold.who for hold in closed.value.holds] == ["shop/web.one"]
        steps.look = look  # type: ignore[method-assign]
        await world.client.put(*revocation("web", 3))
        assert (await steps.activate(prepared, ME)).passed == ()


async def test_evidence_that_moves_is_looked_at_again(autojump_clock: trio.testing.MockClock) -> None:
    """A sidecar that comes back with an old bundle between the look and the write closes the gate."""
    async with made_world() as world:
        await world.everybody_follows()
        steps = world.steps(world.store())
        await steps.prepare(Prepare("mesh-issuing", with_root=True), ME)
        await world.everybody_follows()
        look = steps.look
        late = (await world.client.list(b"/mesh/v1/control/status/")).kvs[0]

        async def look_then_somebody_speaks() -> object:
            seen = await look()
            status = codec.decode(late.value, SidecarStatus, "status")

            stale = msgspec.structs.replace(status, instance="two", trust_sequence=1)
            await world.client.put(late.key[:-3] + b"two", codec.encode(stale))
            return seen

        steps.look = look_then_somebody_speaks  # type: ignore[method-assign, assignment]  # a race, made certain
        (prepared,) = (
            one.id for one in (await world.keys()).values() if one.role == "mesh-issuing" and one.state == "prepared"
        )
        with pytest.raises(GateClosed) as closed:
            await steps.activate(prepared, ME)
        assert [hold.who for hold in closed.value.holds] == ["shop/web.two"]


@pytest.mark.fault(13)
async def test_a_rotation_begins_by_itself_long_before_the_issuing_key_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with made_world() as world:
        rotator, _ = world.rotator(world.store())
        await world.everybody_follows()
        world.now = NOW + 44 * DAY
        assert await rotator.advance() > 0
        assert (await world.look()).rotation is None
        world.now = NOW + 46 * DAY
        await rotator.advance()
        begun = (await world.look()).rotation
        assert begun is not None
        assert begun.what == "issuing key"
        assert "44 days left" in begun.by
        await world.drive(rotator)
        ends = [key.not_after for key in (await world.keys()).values() if key.role == "mesh-issuing"]
        assert ends >= [NOW + 135 * DAY]


async def test_jwt_keys_live_the_same_life(autojump_clock: trio.testing.MockClock) -> None:
    async with made_world() as world:
        (old,) = (await world.look()).bundle.jwt_authorities
        await world.steps(world.store()).start("mesh-jwt", ME, why="")
        rotator, _ = world.rotator(world.store())
        await world.everybody_follows()
        await rotator.advance()
        both = (await world.look()).bundle.jwt_authorities
        assert len(both) == 2
        assert old in both
        await world.drive(rotator)
        (new,) = (await world.look()).bundle.jwt_authorities
        assert new.kid != old.kid


async def test_a_key_may_sign_longer_leaves_only_once_that_is_on_record(autojump_clock: trio.testing.MockClock) -> None:
    async with made_world() as world:
        key = KEYS.object(ObjectRef("Mesh", SYSTEM_NAMESPACE, "mesh"))
        stored = await world.client.get(key)
        assert stored is not None
        mesh = codec.decode(stored.value, Mesh, "mesh")
        longer = msgspec.structs.replace(mesh, spec=msgspec.structs.replace(mesh.spec, svid_ttl_seconds=7200))
        await world.client.put(key, codec.encode(longer))
        rotator, _ = world.rotator(world.store())
        await rotator.advance()
        assert {one.leaf_seconds for one in (await world.keys()).values() if one.role == "mesh-issuing"} == {7200}
