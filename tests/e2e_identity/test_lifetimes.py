"""SVIDs that are renewed under load, and SVIDs that nobody can renew."""

from __future__ import annotations

import pytest

from tests.e2e.load import open_loop
from tests.e2e_identity.mesh import IdentityMesh
from tests.support.net import eventually

pytestmark = pytest.mark.xdist_group("short-lived mesh")

INSTANCES = ("web-1", "api-1")


async def expiries(mesh: IdentityMesh) -> dict[str, int]:
    return {name: status.svid_expires for name, status in (await mesh.statuses()).items()}


async def test_renewals_under_load_fail_no_request(mesh: IdentityMesh) -> None:
    """Two of each sidecar: the second with a certificate that was renewed itself."""
    async with open_loop(mesh) as load:
        for _ in range(2):
            before = await expiries(mesh)

            async def renewed(before: dict[str, int] = before) -> bool:
                now = await expiries(mesh)
                return all(now[name] > before[name] for name in INSTANCES)

            await eventually("both sidecars have renewed", renewed)
            await load.more(10)
    assert load.failures == {}
