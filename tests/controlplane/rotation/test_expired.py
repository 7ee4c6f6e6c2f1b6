"""A mesh that nobody looked after until its issuing key was over."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
import trio

from controlplane import server
from controlplane.ca.template import DAY, ISSUING_SECONDS
from tests.controlplane.replica import Mesh, Replica
from tests.controlplane.rotation.test_with_replicas import status


@pytest.mark.fault(13)
async def test_a_replica_that_starts_with_an_expired_issuing_key_heals_the_mesh(own_mesh: Mesh, tmp_path: Path) -> None:
    """Its clock is ahead; through its socket it can be asked, as TLS would be refused by a client of today."""
    settings = own_mesh.config(tmp_path)
    settings = msgspec.structs.replace(settings, etcd=msgspec.structs.replace(settings.etcd, allow_known_bad=True))
    stop = trio.Event()

    def late() -> float:
        return time.time() + ISSUING_SECONDS + DAY

    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[server.Serving]) -> None:
            await server.run(settings, {}, now=late, stop=stop, task_status=task_status)

        with trio.fail_after(20):
            serving: server.Serving = await nursery.start(serve)
        async with Replica(serving, settings, stop).admin() as admin:
            keys = {key.state: key for key in (await status(admin)).keys if key.role == "mesh-issuing"}
        assert keys["retired"].not_after < late() < keys["active"].not_after
        stop.set()
