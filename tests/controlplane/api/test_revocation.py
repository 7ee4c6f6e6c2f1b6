"""A revoked identity at the replicas: no call, no renewal, no join; and a floor that an old backup can't undo."""

from __future__ import annotations

from pathlib import Path

import grpc
import msgspec
import pytest
import trio

from controlplane.revocations import Revocations
from controlplane.store.etcd import Store
from controlplane.store.follow import follow
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput
from schemas.names import ServiceRef
from schemas.records import Revocation
from tests.controlplane.access import log_in
from tests.controlplane.replica import Joined, Mesh, Replica, new_csr, new_id
from trio_grpc import RpcError

BOUND_SECONDS = 10.0  # of what a watch brings; it takes milliseconds


async def revoke(replica: Replica, namespace: str, service: str, reason: str = "stolen") -> pb.RevocationReply:
    request = pb.RevokeIdentityRequest(request_id=new_id(), namespace=namespace, service=service, reason=reason)
    async with replica.admin() as admin:
        return await admin.call("Revocations/Revoke", request, pb.RevocationReply)


async def restore(replica: Replica, namespace: str, service: str) -> pb.RevocationReply:
    request = pb.RestoreIdentityRequest(request_id=new_id(), namespace=namespace, service=service)
    async with replica.admin() as admin:
        return await admin.call("Revocations/Restore", request, pb.RevocationReply)


async def renewal(joined: Joined, replica: Replica | None = None) -> grpc.StatusCode | None:
    (_, csr), (_, etcd_csr) = new_csr(), new_csr()
    async with joined.calls(replica) as caller:
        try:
            await caller.call("Identity/Renew", pb.RenewRequest(csr=csr, etcd_csr=etcd_csr), pb.IdentityReply)
        except RpcError as error:
            return error.code
    return None


async def until_denied(joined: Joined, replica: Replica, wanted: grpc.StatusCode | None) -> None:
    with trio.fail_after(BOUND_SECONDS):
        while await renewal(joined, replica) is not wanted:  # noqa: ASYNC110  (no event tells of it)
            await trio.sleep(0.01)


async def test_no_renewal_no_call_no_join_at_any_replica_until_it_is_restored(
    replica: Replica, second_replica: Replica, namespace: str
) -> None:
    joined, other = await replica.join("orders", namespace), await replica.join("web", namespace)
    assert await renewal(joined) is None
    first = await revoke(replica, namespace, "orders")
    for one in (replica, second_replica):
        await until_denied(joined, one, grpc.StatusCode.PERMISSION_DENIED)
    async with joined.calls() as caller:
        for rpc, request in (
            ("Identity/IssueX509", pb.IssueX509Request(csr=new_csr()[1])),
            ("Identity/IssueJwt", pb.IssueJwtRequest(audience=["x"])),
            ("Sidecars/Report", pb.ReportRequest(instance="o1")),
        ):
            with pytest.raises(RpcError) as refused:
                await caller.call(rpc, request, pb.ReportReply)
            assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED, rpc
        with pytest.raises(RpcError) as refused:
            await joined.register(caller, "o1")
        assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(RpcError) as refused:
        await replica.join("orders", namespace)
    assert "is revoked" in str(refused.value)
    assert await renewal(other) is None

    again = await restore(second_replica, namespace, "orders")
    assert serial(again) > serial(first)
    for one in (replica, second_replica):
        await until_denied(joined, one, None)


async def test_what_is_so_already_is_a_conflict_and_asking_again_is_not(replica: Replica, namespace: str) -> None:
    request = pb.RevokeIdentityRequest(request_id=new_id(), namespace=namespace, service="orders", reason="lost")
    async with replica.admin() as admin:
        first = await admin.call("Revocations/Revoke", request, pb.RevocationReply)
        assert await admin.call("Revocations/Revoke", request, pb.RevocationReply) == first
        listed = await admin.call("Revocations/List", pb.ListRevocationsRequest(), pb.ListRevocationsReply)
    records = [codec.decode(one, Revocation, "listed") for one in listed.revocations]
    (record,) = [one for one in records if one.namespace == namespace]
    assert (record.service, record.revoked, record.by, record.reason) == ("orders", True, "root-local", "lost")
    for refused in (revoke(replica, namespace, "orders"), restore(replica, namespace, "web")):
        with pytest.raises(RpcError) as error:
            await refused
        assert error.value.code is grpc.StatusCode.ABORTED


async def test_an_editor_revokes_in_its_own_namespaces_only(replica: Replica, namespace: str) -> None:
    anna = await log_in(replica, f"anna-{namespace}", "editor", [namespace])
    async with anna.calls() as caller:
        for where in (namespace, f"{namespace}-x"):
            request = pb.RevokeIdentityRequest(request_id=new_id(), namespace=where, service="orders")
            if where == namespace:
                await caller.call("Revocations/Revoke", request, pb.RevocationReply)
            else:
                with pytest.raises(RpcError) as error:
                    await caller.call("Revocations/Revoke", request, pb.RevocationReply)
                assert error.value.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.fault(5)
async def test_the_floor_writes_back_what_etcd_lost(mesh: Mesh, tmp_path: Path, namespace: str) -> None:
    """A key that is gone, or older, is how an older backup looks; and so it is at the next start too."""
    service = ServiceRef(namespace, "orders")
    key = mesh.keyspace.revocation(service)
    old, new = (
        codec.encode(
            Revocation(namespace=namespace, service="orders", serial=serial, revoked=revoked, at=serial, by="anna")
        )
        for serial, revoked in ((1, False), (2, True))
    )
    async with mesh.client() as client:
        store = Store(client, mesh.keyspace)

        async def comes_back() -> None:
            with trio.fail_after(BOUND_SECONDS):
                while (kv := await client.get(key)) is None or kv.value != new:  # noqa: ASYNC110  (no event tells of it)
                    await trio.sleep(0.01)

        for values in ((new, old, None), (old,), (None,)):
            async with trio.open_nursery() as nursery:
                kept = Revocations(store, tmp_path)
                if values[0] is not new:
                    assert kept.record(service) == codec.decode(new, Revocation, "floor")
                nursery.start_soon(follow, store, mesh.keyspace.revocations(), kept)
                nursery.start_soon(kept.run)
                await kept.synced.wait()
                for value in values:
                    if value is None:
                        await client.delete(key)
                    else:
                        await client.put(key, value)
                    await comes_back()
                with trio.fail_after(BOUND_SECONDS):
                    while not _floor_holds(tmp_path, new):  # noqa: ASYNC110  (no event tells of it)
                        await trio.sleep(0.01)
                nursery.cancel_scope.cancel()


def _floor_holds(directory: Path, value: bytes) -> bool:
    path = directory / "revocations.msgpack"
    return path.exists() and value in msgspec.msgpack.decode(path.read_bytes())


async def test_a_floor_that_cant_be_read_is_no_start(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "revocations.msgpack").write_bytes(b"\xc1")
    async with mesh.client() as client:
        with pytest.raises(InvalidInput, match="can't be read"):
            Revocations(Store(client, mesh.keyspace), tmp_path)


async def test_a_record_that_cant_be_read_denies_until_it_is_mended(
    mesh: Mesh, replica: Replica, namespace: str
) -> None:
    joined = await replica.join("orders", namespace)
    async with mesh.client() as client:
        await client.put(mesh.keyspace.revocation(ServiceRef(namespace, "orders")), b"\xc1")
    await until_denied(joined, replica, grpc.StatusCode.PERMISSION_DENIED)
    await restore(replica, namespace, "orders")
    await until_denied(joined, replica, None)


def serial(reply: pb.RevocationReply) -> int:
    return codec.decode(reply.revocation, Revocation, "reply").serial
