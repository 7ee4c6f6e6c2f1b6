"""A fake replica on a Unix socket, and the command line that calls it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.controlplane.meshadm.fake_replica import Cli, FakeReplica, serving, socket_in


@pytest.fixture
def fake() -> FakeReplica:
    return FakeReplica()


@pytest.fixture
async def cli(fake: FakeReplica, tmp_path: Path) -> AsyncIterator[Cli]:
    async with serving(fake, socket_in(tmp_path)) as endpoint:
        yield Cli([endpoint])
