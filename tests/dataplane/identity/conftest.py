"""A host, and the replica that it knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.dataplane.identity.fake_replica import FakeReplica, Mesh
from tests.dataplane.identity.host import Clock, Host


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    clock = Clock()
    async with FakeReplica(Mesh(), clock).serving() as replica:
        yield Host(tmp_path, replica, clock)
