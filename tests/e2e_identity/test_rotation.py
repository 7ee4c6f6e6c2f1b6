"""A full rotation of root and issuing key under load, with the command that operators use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from tests.e2e.load import open_loop
from tests.e2e_identity.mesh import IdentityMesh
from tests.support.net import eventually

pytestmark = pytest.mark.xdist_group("short-lived mesh")

# A key is removed when leaves of it can't be alive: their life, and half of it for clocks; everything else is seconds.
ROTATION_S = 90.0


async def keys_by_state(mesh: IdentityMesh, replica: str | None = None) -> dict[str, list[str]]:
    _, said = await mesh.local.meshadm("ca", "status", "-o", "json", replica=replica)
    found: dict[str, list[str]] = {}
    for key in json.loads(said)["keys"]:
        if key["role"] in ("mesh-root", "mesh-issuing"):
            found.setdefault(key["state"], []).append(key["id"])
    return found


@pytest.mark.fault(14)
@pytest.mark.fault(15)
@pytest.mark.spiffe(8)
async def test_rotation_under_load(mesh: IdentityMesh, tmp_path: Path) -> None:
    before = await keys_by_state(mesh)
    assert set(before) == {"active"}
    old = await mesh.forged(tmp_path, "old")
    accepted = await old.ask()
    assert accepted.status == "HTTP/1.1 200 OK"
    async with open_loop(mesh) as load, trio.open_nursery() as nursery:
        outcome: list[tuple[int, str]] = []

        async def rotate() -> None:
            outcome.append(await mesh.local.meshadm("ca", "rotate", "--timeout", f"{ROTATION_S:.0f}s", check=False))
            ended.set()

        ended = trio.Event()
        nursery.start_soon(rotate)

        async def activated() -> bool:
            return len((await keys_by_state(mesh)).get("retired", [])) == 2

        await eventually("the new keys to be active", activated, 60)  # seconds, on an idle machine a few
        # Fault 15: the others go on with what a killed replica has begun, and wait for what it may have signed. What
        # is seen meanwhile is asked for before it starts again, which may take longer than the rest of the rotation.
        await mesh.local.processes.kill("replica-a")
        between = await old.ask(accepted.session)
        assert between.status == "HTTP/1.1 200 OK", "retired is still trusted"
        assert not between.resumed
        code, said = await mesh.local.meshadm("ca", "rotate", replica="b", check=False)
        assert (code, "is under way" in said) == (4, True)
        await mesh.local.start_replica("a")
        with trio.fail_after(ROTATION_S):
            await ended.wait()
        assert outcome[0][0] == 0, outcome[0][1]
        after = await keys_by_state(mesh)
        assert set(after) == {"active"}
        assert not set(before["active"]) & set(after["active"])

        async def refused() -> bool:
            try:
                await old.ask()
            except OSError:
                return True
            return False

        await eventually("what chains to the old root is refused", refused, 10)
        with pytest.raises(OSError, match=r"."):  # nor does a session from before help
            await old.ask(accepted.session)
        new = await mesh.forged(tmp_path, "new")
        assert (await new.ask()).status == "HTTP/1.1 200 OK"
        await load.more(20)
    assert load.failures == {}
    assert min(load.answered.values()) > 200
