"""One mesh whose identities end after seconds, for the tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import trio

from deploy.etcd import EtcdBinary
from tests.e2e_identity.mesh import IdentityMesh
from tests.support.etcd_server import new_data_directory


@pytest.fixture(scope="session")
def short_lived_mesh(etcd_binary: EtcdBinary) -> Iterator[IdentityMesh]:
    directory = new_data_directory()
    mesh = IdentityMesh.in_directory(directory)
    try:
        trio.run(mesh.start, "web-1", "api-1")
        yield mesh
    finally:
        trio.run(mesh.stop)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def mesh(short_lived_mesh: IdentityMesh) -> IdentityMesh:
    """At rest. Leave it as you found it."""
    await short_lived_mesh.everyone_current()
    return short_lived_mesh
