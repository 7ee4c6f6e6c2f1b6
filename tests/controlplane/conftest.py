"""One real mesh for all tests of the control plane: each test works in a namespace of its own."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from deploy.etcd import EtcdBinary
from tests.controlplane.replica import Mesh, Replica, running_replica


@pytest.fixture(scope="session")
def mesh(etcd_binary: EtcdBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Never stop its etcd."""
    made = trio.run(Mesh.make, etcd_binary, tmp_path_factory.mktemp("mesh"))
    yield made
    made.close()


@pytest.fixture
async def replica(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Replica]:
    async with running_replica(mesh, tmp_path) as running:
        yield running


@pytest.fixture
async def second_replica(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Replica]:
    async with running_replica(mesh, tmp_path / "second") as running:
        yield running


@pytest.fixture
def namespace() -> str:
    return f"ns-{secrets.token_hex(6)}"
