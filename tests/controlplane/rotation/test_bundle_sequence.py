"""The trust bundle over the CA's life: who has seen a sequence knows what it stands for."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio.testing

from controlplane.rotation.write import Actor
from schemas.records import TrustBundle
from tests.controlplane.rotation.world import World, made_world

ROLES = ("mesh-root", "mesh-issuing", "mesh-jwt")


@pytest.mark.spiffe(12)
@pytest.mark.spiffe(24)
async def test_the_sequence_grows_with_each_change_of_the_keys_and_only_with_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with made_world() as world:
        seen = [(await world.look()).bundle]
        for role in ROLES:
            rotator, steps = world.rotator(world.store())
            await steps.start(role, Actor("test", "here"), why="test")
            for _ in range(60):
                await _note(world, seen)
                if (await world.look()).rotation is None:
                    break
                await world.everybody_follows()
                if await rotator.advance():
                    world.now += 600
            else:
                raise AssertionError(f"the rotation of {role} has no end")
        assert len({one.x509_authorities for one in seen}) >= 3  # old, both, new
        assert len({one.jwt_authorities for one in seen}) >= 3
        for before, after in pairwise(seen):
            if _keys(before) == _keys(after):
                assert after.sequence >= before.sequence
            else:
                assert after.sequence > before.sequence, "two contents with one sequence"
                # What is new has been published before what is old goes: no step does both.
                gone, new = _keys(before) - _keys(after), _keys(after) - _keys(before)
                assert not (gone and new)


async def _note(world: World, seen: list[TrustBundle]) -> None:
    bundle = (await world.look()).bundle
    if bundle != seen[-1]:
        seen.append(bundle)


def _keys(bundle: TrustBundle) -> set[object]:
    return {*bundle.x509_authorities, *bundle.jwt_authorities}
