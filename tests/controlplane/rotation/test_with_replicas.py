"""The CA's life through the API of real replicas and a real etcd: two of them, one mesh that belongs to the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.records import TrustBundle
from spiffe.key_ids import authority_key_id
from spiffe.x509 import parse_chain
from tests.controlplane.replica import Caller, Mesh, Replica, new_id, running_replica
from tests.support.net import eventually
from trio_grpc import RpcError, StatusCode

RPCS = [
    "Status",
    "Follow",
    "Rotate",
    "StopRotation",
    "Prepare",
    "Activate",
    "Retire",
    "Remove",
    "Request",
    "Install",
    "Reseal",
]


async def status(admin: Caller) -> pb.AuthorityStatus:
    return await admin.call("Authority/Status", pb.AuthorityStatusRequest(), pb.AuthorityStatus)


async def step(admin: Caller, rpc: str, **fields: object) -> pb.CaStepReply:
    request = pb.CaStepRequest(request_id=new_id(), **fields)  # type: ignore[arg-type]  # fields by name
    return await admin.call(f"Authority/{rpc}", request, pb.CaStepReply)


async def rotate(admin: Caller, role: str = "root", *, force: bool = False) -> pb.CaStepReply:
    request = pb.RotateRequest(request_id=new_id(), role=role, force=force)
    return await admin.call("Authority/Rotate", request, pb.CaStepReply)


def states(found: pb.AuthorityStatus) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for key in found.keys:
        result.setdefault(key.role, []).append(key.state)
    return {role: sorted(values) for role, values in result.items() if role in ("mesh-root", "mesh-issuing")}


@asynccontextmanager
async def admin_of(replica: Replica) -> AsyncIterator[Caller]:
    async with replica.admin() as admin:
        yield admin


async def test_steps_by_hand(own_replica: Replica) -> None:
    async with own_replica.admin() as admin:
        before = await status(admin)
        assert states(before) == {"mesh-root": ["active"], "mesh-issuing": ["active"]}
        made = await step(admin, "Prepare", role="root")
        root, issuing = made.keys
        with pytest.raises(RpcError) as twice:
            await step(admin, "Prepare", role="root")
        assert twice.value.code is StatusCode.ABORTED
        joined = await own_replica.join("orders", "shop")
        bundle = codec.decode(joined.reply.trust_bundle, TrustBundle, "bundle")
        assert len(bundle.x509_authorities) == 2
        async with joined.calls() as sidecar:
            registered = await joined.register(sidecar, "one")
            with pytest.raises(RpcError) as closed:
                await step(admin, "Activate", key=issuing)
            assert closed.value.code is StatusCode.ABORTED
            assert "shop/orders.one" in closed.value.details
            await joined.report(sidecar, "one", registered.lease_id, trust_sequence=bundle.sequence)
        await step(admin, "Activate", key=issuing)
        assert states(await status(admin)) == {
            "mesh-root": ["active", "retired"],
            "mesh-issuing": ["active", "retired"],
        }

        async def issued_with_it() -> bool:
            reply = (await own_replica.join("web", "shop")).reply
            leaf, above = parse_chain(reply.chain)
            hint = codec.decode(reply.trust_bundle, TrustBundle, "bundle").issuing_key_id
            return issuing in above.subject.rfc4514_string() and hint == authority_key_id(leaf)

        await eventually("leaves of the new key", issued_with_it)
        (old_root,) = (key.id for key in before.keys if key.role == "mesh-root")
        with pytest.raises(RpcError) as early:
            await step(admin, "Remove", key=old_root)
        assert "may still be valid" in early.value.details
        forced = await step(admin, "Remove", key=old_root, force=True)
        assert forced.passed
        after = await status(admin)
        assert states(after) == {"mesh-root": ["active"], "mesh-issuing": ["active"]}
        notes = [note for key in after.keys for note in key.forced]
        assert any("root-local" in note and "may still be valid" in note for note in notes)
        assert root in {key.id for key in after.keys}


@pytest.mark.fault(15)
async def test_two_rotations_at_once_one_wins_and_the_other_is_told(
    own_mesh: Mesh, own_replica: Replica, tmp_path: Path
) -> None:
    outcomes: list[str] = []
    async with running_replica(own_mesh, tmp_path / "b") as second:

        async def ask(replica: Replica) -> None:
            async with replica.admin() as admin:
                try:
                    await rotate(admin)
                except RpcError as error:
                    outcomes.append(f"{error.code.name}: {error.details}")
                else:
                    outcomes.append("won")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, own_replica)
            nursery.start_soon(ask, second)
        assert outcomes.count("won") == 1
        (told,) = (one for one in outcomes if one != "won")
        assert told.startswith("ABORTED: a rotation of root and issuing key, started by root-local, is under way")


async def test_replicas_take_the_steps_of_a_forced_rotation_to_its_end(own_replica: Replica) -> None:
    async with own_replica.admin() as admin:
        before = {key.id for key in (await status(admin)).keys if key.role in ("mesh-root", "mesh-issuing")}
        await rotate(admin, force=True)
        async with admin.stream("Authority/Follow", pb.FollowRotationRequest(), pb.RotationProgress) as following:
            while not (await following()).done:
                pass
        after = await status(admin)
        assert states(after) == {"mesh-root": ["active"], "mesh-issuing": ["active"]}
        assert not before & {key.id for key in after.keys}
        assert any(key.forced for key in after.keys)


async def test_a_replica_that_stops_in_the_middle_is_followed_by_another(own_mesh: Mesh, tmp_path: Path) -> None:
    async with running_replica(own_mesh, tmp_path / "a") as first, first.admin() as admin:
        await rotate(admin, "issuing")

        async def is_activated() -> bool:
            return states(await status(admin))["mesh-issuing"] == ["active", "retired"]

        await eventually("the new issuing key to be active", is_activated)
    async with running_replica(own_mesh, tmp_path / "b") as second, second.admin() as admin:
        found = await status(admin)
        assert found.rotation.next.startswith("remove mesh-issuing")
        assert [hold.until > 0 for hold in found.rotation.holds] == [True]
        await step(admin, "StopRotation")
        assert not (await status(admin)).HasField("rotation")


async def test_only_admins_steer(own_replica: Replica) -> None:
    joined = await own_replica.join("orders", "shop")
    async with joined.calls() as sidecar:
        for rpc in (
            "Status",
            "Follow",
            "Rotate",
            "Prepare",
            "Activate",
            "Retire",
            "Remove",
            "Request",
            "Install",
            "Reseal",
        ):
            with pytest.raises(RpcError) as refused:
                await step(sidecar, rpc)
            assert refused.value.code is StatusCode.PERMISSION_DENIED, rpc
