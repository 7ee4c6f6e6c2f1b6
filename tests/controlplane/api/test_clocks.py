"""A replica whose clock is an hour off, among others: nobody trusts before its time what it issues."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from schemas.names import ServiceRef
from tests.controlplane.api.test_sidecars_join import Host, general_join_file, spiffe_id, token_join_file
from tests.controlplane.replica import Mesh, Replica, running_replica
from tests.support.net import eventually

HOUR = 3600


@pytest.mark.fault(12)
async def test_a_replica_whose_clock_is_ahead_is_passed_over(
    mesh: Mesh, replica: Replica, tmp_path: Path, namespace: str
) -> None:
    async with running_replica(mesh, tmp_path / "ahead", now=lambda: time.time() + HOUR) as ahead:
        file = await token_join_file(replica, namespace, "orders")
        early = (await general_join_file(ahead)).join_endpoints
        alone = Host(tmp_path / "alone", msgspec.structs.replace(file, join_endpoints=early))
        async with alone.keeping() as keeper:
            await eventually("it says why it has no identity", lambda: keeper.problem)
            assert keeper.current is None
            assert keeper.problem is not None
            assert "certificate is not yet valid" in keeper.problem
        both = msgspec.structs.replace(file, join_endpoints=(*early, *file.join_endpoints))
        host = Host(tmp_path / "both", both, wanted=ServiceRef(namespace, "orders"))
        assert await host.join_once() == spiffe_id(namespace, "orders")
