"""etcd put back to an older state under a running mesh: real sidecars list again, and keep denying who was revoked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from controlplane.meshadm.client import new_request_id
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict
from schemas.objects.authorization import Operation
from schemas.records import Epoch, Revocation
from tests.e2e.app import HTTP
from tests.e2e.mesh import KEYS, WEB_ID, E2eMesh, caller
from tests.states.build import policy, rule
from tests.support.net import eventually

SECONDS = 30.0  # of what takes about one; a bound for a busy machine
GHOST = policy("ghost", "DENY", rule(caller(WEB_ID), to=[Operation(paths=("/ghost",), ports=(HTTP,))]), on=["api"])


async def epoch(mesh: E2eMesh) -> str:
    async with mesh.etcd() as client:
        kv = await client.get(KEYS.epoch())
    assert kv is not None
    return codec.decode(kv.value, Epoch, "epoch").id


async def change_identity(mesh: E2eMesh, *, revoked: bool) -> Revocation:
    """Of web."""
    request_type = pb.RevokeIdentityRequest if revoked else pb.RestoreIdentityRequest
    request = request_type(request_id=new_request_id(), namespace="shop", service="web")
    async with mesh.client() as client:
        path = f"/mesh.v1.Revocations/{'Revoke' if revoked else 'Restore'}"
        reply = await client.call(path, request, pb.RevocationReply, write=True)
    return codec.decode(reply.revocation, Revocation, "reply")


async def let_in(mesh: E2eMesh) -> bool:
    """Replicas put back what they remember meanwhile: who comes between is told to look again."""
    try:
        await change_identity(mesh, revoked=False)
    except Conflict:
        return False
    return True


@pytest.mark.fault(5)
async def test_an_older_etcd_brings_nobody_back_and_leaves_no_ghost(mesh: E2eMesh, tmp_path: Path) -> None:
    data, copy, before = mesh.local.directory / "etcd-data", tmp_path / "etcd-data", await epoch(mesh)
    await mesh.processes.stop("etcd")
    shutil.copytree(data, copy)
    await mesh.local.start_etcd()
    await mesh.everyone_current()
    await mesh.apply(GHOST)
    assert await mesh.status("/ghost") == 403
    assert await mesh.status() == 200
    await change_identity(mesh, revoked=True)

    async def answers(path: str, status: int) -> bool:
        return await mesh.status(path) == status

    await eventually("web is denied", lambda: answers("/", 403), SECONDS)
    try:
        await mesh.processes.stop("etcd")
        shutil.rmtree(data)
        shutil.copytree(copy, data)
        await mesh.local.start_etcd()

        async def is_noticed() -> bool:
            # Nobody ever lets web in meanwhile.
            assert await mesh.status() == 403
            return await epoch(mesh) != before

        await eventually("a new epoch", is_noticed, SECONDS)
        assert await mesh.status() == 403
    finally:
        await eventually("the operator has let web in", lambda: let_in(mesh), SECONDS)
    await eventually("web is let in again", lambda: answers("/", 200), SECONDS)
    # The policy was not in the backup: nobody goes on with it.
    await eventually("the policy from after the backup is gone", lambda: answers("/ghost", 200), SECONDS)
    await mesh.everyone_current()
