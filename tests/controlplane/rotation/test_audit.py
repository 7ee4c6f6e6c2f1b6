"""Every RPC that steers the CA, accepted, leaves its event, and the step itself another: who, from where, revision."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from controlplane.api.authorize import ALLOWED
from controlplane.ca.keystore import read_kek
from controlplane.rotation.events import CaEvent
from schemas.api import mesh_pb2 as pb
from tests.controlplane.api.test_audit import OF_THE_CA, Events
from tests.controlplane.api.test_audit import events as events
from tests.controlplane.replica import Caller, Mesh, new_id, running_replica
from tests.controlplane.rotation.test_external import install
from tests.controlplane.rotation.test_with_replicas import rotate, step
from tests.controlplane.rotation.upstream_ca import UpstreamCa

# What each RPC does to the CA, by the name of its own event.
STEPS = {
    "Authority/Prepare": CaEvent.PREPARED,
    "Authority/Retire": CaEvent.RETIRED,
    "Authority/Request": CaEvent.REQUESTED,
    "Authority/Install": CaEvent.INSTALLED,
    "Authority/Activate": CaEvent.ACTIVATED,
    "Authority/Remove": CaEvent.REMOVED,
    "Authority/Rotate": CaEvent.ROTATION_STARTED,
    "Authority/StopRotation": CaEvent.ROTATION_STOPPED,
    "Authority/Reseal": CaEvent.RESEALED,
}


async def steer(admin: Caller, kek_id: str) -> None:
    """All of it, once."""
    given_up = (await step(admin, "Prepare", role="issuing")).keys[0]
    await step(admin, "Retire", key=given_up)
    asked = await admin.call("Authority/Request", pb.CaStepRequest(request_id=new_id()), pb.CaRequestReply)
    await install(admin, UpstreamCa().sign(asked.csr))
    before = await admin.call("Authority/Status", pb.AuthorityStatusRequest(), pb.AuthorityStatus)
    await step(admin, "Activate", key=asked.key, force=True)
    (old,) = (key.id for key in before.keys if key.role == "mesh-issuing" and key.state == "active")
    await step(admin, "Remove", key=old, force=True)
    await rotate(admin, "jwt")
    await step(admin, "StopRotation")
    reseal = pb.ResealRequest(request_id=new_id(), kek_id=kek_id)
    await admin.call("Authority/Reseal", reseal, pb.CaStepReply)


async def test_every_step_that_an_operator_takes_is_told_twice(own_mesh: Mesh, tmp_path: Path, events: Events) -> None:
    assert STEPS.keys() == OF_THE_CA
    assert {f"/mesh.v1.{rpc}" for rpc in STEPS} <= ALLOWED.keys()
    fresh = own_mesh.directory / "kek.new"
    fresh.write_bytes(os.urandom(32))
    fresh.chmod(0o600)
    settings = own_mesh.config

    def with_next(directory: Path) -> object:
        return msgspec.structs.replace(settings(directory), next_kek=str(fresh))

    own_mesh.config = with_next  # type: ignore[method-assign, assignment]  # of this test's mesh only
    async with running_replica(own_mesh, tmp_path / "a") as replica, replica.admin() as admin:
        await steer(admin, read_kek(fresh, {}).id)
    told_of = [(one.getMessage(), one.fields) for one in events.records if one.name == "mesh.audit"]  # type: ignore[attr-defined]  # set by event()
    # The rotation that was begun and stopped may have taken a step by itself, which it tells as its own.
    own_events = {what: fields for what, fields in told_of if "by rotation" not in str(fields.get("caller"))}
    for rpc, what in STEPS.items():
        accepted = events.of(rpc, "accepted")[-1]
        told = own_events[what]
        for said in (accepted, told):
            assert (said["caller"], said["peer"]) == ("root-local", "unix"), rpc
            assert int(str(said["revision"])) > 1, rpc
        assert accepted["request"], rpc
    assert own_events[CaEvent.REMOVED]["forced_past"]
    assert "PRIVATE KEY" not in events.text
