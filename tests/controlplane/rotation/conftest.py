"""A mesh of the test's own: what is done to its CA concerns no other test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.etcd import EtcdBinary
from tests.controlplane.replica import Mesh, Replica, running_replica


@pytest.fixture
async def own_mesh(etcd_binary: EtcdBinary, tmp_path: Path) -> AsyncIterator[Mesh]:
    mesh = await Mesh.make(etcd_binary, tmp_path / "mesh")
    yield mesh
    mesh.close()


@pytest.fixture
async def own_replica(own_mesh: Mesh, tmp_path: Path) -> AsyncIterator[Replica]:
    async with running_replica(own_mesh, tmp_path / "a") as replica:
        yield replica
