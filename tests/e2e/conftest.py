"""One mesh for the whole session, and smaller ones for tests that break something for good."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import trio

from deploy.etcd import EtcdBinary
from tests.e2e.mesh import E2eMesh
from tests.support.etcd_server import new_data_directory

INSTANCES = ("web-1", "api-1", "api-2", "reports-1")

_running: list[E2eMesh] = []


@pytest.fixture(scope="session")
def shared_mesh(etcd_binary: EtcdBinary) -> Iterator[E2eMesh]:
    directory = new_data_directory()
    mesh = E2eMesh.in_directory(directory)
    mesh.has_names = True
    _running.append(mesh)
    try:
        trio.run(mesh.start, *INSTANCES)
        yield mesh
    finally:
        trio.run(mesh.stop)
        _running.remove(mesh)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def mesh(shared_mesh: E2eMesh) -> E2eMesh:
    """The mesh of the session at rest. Leave it as you found it."""
    await shared_mesh.everyone_current()
    return shared_mesh
