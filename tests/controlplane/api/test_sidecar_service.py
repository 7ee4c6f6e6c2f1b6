from __future__ import annotations

import pytest
import trio

import trio_etcd
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.keys import EndpointRef, StatusRef
from schemas.names import ServiceRef
from schemas.records import Endpoint, Nack, SidecarStatus
from tests.controlplane.api.test_revocation import revoke, until_denied
from tests.controlplane.replica import Joined, Mesh, Replica
from trio_grpc import RpcError, StatusCode


def keys(mesh: Mesh, namespace: str, instance: str = "a", service: str = "orders") -> tuple[bytes, bytes]:
    """Of the endpoint and of the status."""
    return (
        mesh.keyspace.endpoint(EndpointRef(ServiceRef(namespace, service), instance)),
        mesh.keyspace.status(StatusRef(namespace, f"{service}.{instance}")),
    )


async def test_register_puts_both_under_one_lease_at_one_revision(replica: Replica, mesh: Mesh, namespace: str) -> None:
    joined = await replica.join("orders", namespace)
    async with joined.calls() as sidecar, mesh.client() as etcd:
        reply = await joined.register(sidecar, "a", ttl=30)
        endpoint, status = [await etcd.get(key) for key in keys(mesh, namespace)]
        assert endpoint is not None
        assert status is not None
        assert endpoint.lease == status.lease == reply.lease_id
        assert endpoint.mod_revision == status.mod_revision == reply.revision
        assert codec.decode(endpoint.value, Endpoint, "e") == Endpoint(address="10.0.0.1", ports={"http": 8080})
        assert codec.decode(status.value, SidecarStatus, "s").instance == "a"
        assert reply.ttl_seconds == 30
        await etcd.revoke(reply.lease_id)  # as when the host is gone
        assert [await etcd.get(key) for key in keys(mesh, namespace)] == [None, None]


async def test_a_sidecar_speaks_for_itself_only(replica: Replica, mesh: Mesh, namespace: str) -> None:
    joined = await replica.join("orders", namespace)
    other = Joined(replica, "payments", namespace, joined.reply, joined.key)
    async with joined.calls() as sidecar:
        for attempt in (
            other.register(sidecar, "a"),
            joined.register(sidecar, "a/../../x"),
            joined.register(sidecar, "a", address="224.0.0.1"),
            joined.register(sidecar, "a", address="orders.example"),
            joined.register(sidecar, "a", ttl=1),
            other.report(sidecar, "a", 5),
            joined.report(sidecar, "a", 0),
        ):
            with pytest.raises(RpcError) as caught:
                await attempt
            assert caught.value.code is StatusCode.INVALID_ARGUMENT, caught.value
    async with mesh.client() as etcd:
        assert not (await etcd.list(f"/mesh/v1/data/endpoints/{namespace}/".encode())).kvs


async def test_registering_again(replica: Replica, second_replica: Replica, mesh: Mesh, namespace: str) -> None:
    joined = await replica.join("orders", namespace)
    async with joined.calls() as one, joined.calls(second_replica) as two, mesh.client() as etcd:
        first = await joined.register(one, "a", ttl=60)
        same = await joined.register(two, "a", lease=first.lease_id, ttl=30)
        assert (same.lease_id, same.ttl_seconds) == (first.lease_id, 60)
        restarted = await joined.register(two, "a")
        assert restarted.lease_id != first.lease_id
        endpoint = await etcd.get(keys(mesh, namespace)[0])
        assert endpoint is not None
        assert endpoint.lease == restarted.lease_id
        with pytest.raises(RpcError, match=r"live at 10\.0\.0\.1") as caught:
            await joined.register(one, "a", address="10.0.0.2")
        assert caught.value.code is StatusCode.ABORTED
        await etcd.revoke(restarted.lease_id)
        moved = await joined.register(one, "a", address="10.0.0.2", lease=restarted.lease_id)
        assert moved.lease_id != restarted.lease_id
        hidden = await joined.register(one, "a", address=None, lease=moved.lease_id)
        assert hidden.lease_id == moved.lease_id
        assert await etcd.get(keys(mesh, namespace)[0]) is None


async def test_deregister(replica: Replica, mesh: Mesh, namespace: str) -> None:
    joined = await replica.join("orders", namespace)
    async with joined.calls() as sidecar, mesh.client() as etcd:
        lease = (await joined.register(sidecar, "a")).lease_id
        for wrong in (0, lease + 1):
            with pytest.raises(RpcError, match="another lease"):
                await sidecar.call(
                    "Sidecars/Deregister", pb.DeregisterRequest(instance="a", lease_id=wrong), pb.DeregisterReply
                )
        request = pb.DeregisterRequest(instance="a", lease_id=lease)
        reply = await sidecar.call("Sidecars/Deregister", request, pb.DeregisterReply)
        assert [await etcd.get(key) is None for key in keys(mesh, namespace)] == [True, False]
        again = await sidecar.call("Sidecars/Deregister", request, pb.DeregisterReply)
        assert (reply.revision > 0, again.revision) == (True, 0)


async def test_reports_are_written_on_change_and_in_batches(replica: Replica, mesh: Mesh, namespace: str) -> None:
    joined = await replica.join("orders", namespace)
    names = [f"i{number}" for number in range(20)]
    async with joined.calls() as sidecar, mesh.client() as etcd:
        leases = {name: (await joined.register(sidecar, name)).lease_id for name in names}
        before = (await etcd.list(mesh.keyspace.statuses())).revision

        async def report_all(acked: int) -> None:
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(report, name, acked)

        async def report(name: str, acked: int) -> None:
            await joined.report(sidecar, name, leases[name], acked_revision=acked)

        await report_all(7)
        prefix = f"/mesh/v1/control/status/{namespace}/".encode()
        stored = (await etcd.list(prefix)).kvs
        assert [codec.decode(kv.value, SidecarStatus, "s").acked_revision for kv in stored] == [7] * 20
        assert {kv.lease for kv in stored} == set(leases.values())
        written = {kv.mod_revision for kv in stored}
        assert len(written) < 10
        assert min(written) > before
        await report_all(7)
        assert {kv.mod_revision for kv in (await etcd.list(prefix)).kvs} == written


async def test_a_report_without_its_lease_harms_nobody_else(replica: Replica, mesh: Mesh, namespace: str) -> None:
    joined = await replica.join("orders", namespace)
    outcomes: dict[str, str] = {}
    async with joined.calls() as sidecar, mesh.client() as etcd:
        leases = {name: (await joined.register(sidecar, name)).lease_id for name in "abc"}
        await etcd.revoke(leases["b"])
        leases["d"] = 12345

        async def report(name: str) -> None:
            try:
                await joined.report(sidecar, name, leases[name], acked_revision=9)
                outcomes[name] = "written"
            except RpcError as error:
                outcomes[name] = error.code.name

        async with trio.open_nursery() as nursery:
            for name in leases:
                nursery.start_soon(report, name)
        assert outcomes == {"a": "written", "b": "NOT_FOUND", "c": "written", "d": "NOT_FOUND"}
        stored = (await etcd.list(f"/mesh/v1/control/status/{namespace}/".encode())).kvs
        assert [kv.key.decode().rpartition(".")[2] for kv in stored] == ["a", "c"]


# -- waiting: the status of all sidecars counts, so each of these tests has a mesh without others


@pytest.fixture
async def alone(mesh: Mesh) -> None:
    async with mesh.client() as etcd:
        await etcd.delete_prefix(mesh.keyspace.statuses())


async def test_list(replica: Replica, mesh: Mesh, namespace: str, alone: None) -> None:
    joined = await replica.join("orders", namespace)
    async with joined.calls() as sidecar, replica.admin() as admin:
        await joined.register(sidecar, "a")
        reply = await admin.call("Sidecars/List", pb.ListSidecarsRequest(), pb.ListSidecarsReply)
        [status] = [codec.decode(value, SidecarStatus, "s") for value in reply.statuses]
        assert (status.namespace, status.service, status.instance) == (namespace, "orders", "a")
        assert reply.config_revision > 0


async def test_wait_until_all_have_acked(
    replica: Replica, second_replica: Replica, namespace: str, alone: None
) -> None:
    joined = await replica.join("orders", namespace)
    async with joined.calls() as sidecar, second_replica.admin() as admin:
        a = (await joined.register(sidecar, "a")).lease_id
        b = (await joined.register(sidecar, "b")).lease_id
        async with admin.stream("Sidecars/Wait", pb.WaitRequest(revision=9), pb.WaitProgress) as following:
            first = await following()
            assert (first.total, first.acked, first.done) == (2, 0, False)
            assert list(first.pending) == [f"{namespace}/orders.a", f"{namespace}/orders.b"]
            await joined.report(sidecar, "a", a, acked_revision=9)
            second = await following()
            assert (second.acked, list(second.pending)) == (1, [f"{namespace}/orders.b"])
            await joined.register(sidecar, "c")
            assert (await following()).total == 3
            await joined.report(sidecar, "b", b, acked_revision=8)
            await joined.report(sidecar, "b", b, acked_revision=10)
            assert (await following()).acked == 2
            async with joined.calls(second_replica) as other:
                again = await joined.register(other, "c", address=None)
                await joined.report(other, "c", again.lease_id, acked_revision=9)
            last = await following()
            assert (last.total, last.acked, last.done, list(last.pending)) == (3, 3, True, [])
            with pytest.raises(trio.EndOfChannel):
                await following()


async def test_who_goes_away_is_not_waited_for(replica: Replica, mesh: Mesh, namespace: str, alone: None) -> None:
    joined = await replica.join("orders", namespace)
    async with joined.calls() as sidecar, replica.admin() as admin, mesh.client() as etcd:
        lease = (await joined.register(sidecar, "a")).lease_id
        async with admin.stream("Sidecars/Wait", pb.WaitRequest(revision=9), pb.WaitProgress) as following:
            assert not (await following()).done
            await etcd.revoke(lease)
            last = await following()
            assert (last.total, last.done) == (0, True)


@pytest.mark.parametrize("before", [True, False], ids=["before the wait", "during the wait"])
async def test_who_is_revoked_holds_nobody_back_though_its_lease_lives(
    replica: Replica, second_replica: Replica, namespace: str, alone: None, before: bool
) -> None:
    thief, other = await replica.join("orders", namespace), await replica.join("web", namespace)
    nack = Nack(type_url="type.googleapis.com/x.v3.Cluster", resource="c1", message="no", revision=9)
    async with thief.calls() as sidecar, other.calls() as web, second_replica.admin() as admin:
        held = (await thief.register(sidecar, "a")).lease_id
        lease = (await other.register(web, "w")).lease_id
        await thief.report(sidecar, "a", held, applied_revision=8, acked_revision=8, nacks=(nack,) if before else ())
        if before:
            await revoke(replica, namespace, "orders")
            await until_denied(thief, second_replica, StatusCode.PERMISSION_DENIED)
        async with admin.stream("Sidecars/Wait", pb.WaitRequest(revision=9), pb.WaitProgress) as following:
            message = await following()
            if not before:
                assert (message.total, list(message.revoked)) == (2, [])
                await revoke(replica, namespace, "orders")
                message = await following()
            assert list(message.pending) == [f"{namespace}/web.w"]
            assert (message.total, list(message.revoked)) == (1, [f"{namespace}/orders.a"])
            await other.report(web, "w", lease, acked_revision=9)
            last = await following()
            assert (last.acked, last.done, list(last.refusals)) == (1, True, [])


async def test_a_refusal_ends_the_wait_and_is_named(replica: Replica, namespace: str, alone: None) -> None:
    joined = await replica.join("orders", namespace)
    nack = Nack(type_url="type.googleapis.com/x.v3.Cluster", resource="c1", message="no such field", revision=9)
    async with joined.calls() as sidecar, replica.admin() as admin:
        lease = (await joined.register(sidecar, "a")).lease_id
        await joined.register(sidecar, "b")
        async with admin.stream("Sidecars/Wait", pb.WaitRequest(revision=9), pb.WaitProgress) as following:
            await following()
            await joined.report(sidecar, "a", lease, applied_revision=9, acked_revision=8, nacks=(nack,))
            last = await following()
            assert last.done
            assert [(one.sidecar, one.resource, one.message) for one in last.refusals] == [
                (f"{namespace}/orders.a", "Cluster c1", "no such field")
            ]


async def test_a_status_that_can_not_be_understood_is_waited_for(
    replica: Replica, mesh: Mesh, namespace: str, alone: None
) -> None:
    async with replica.admin() as admin, mesh.client() as etcd:
        await etcd.put(mesh.keyspace.status(StatusRef(namespace, "orders.a")), b"\xc1")
        async with admin.stream("Sidecars/Wait", pb.WaitRequest(revision=9), pb.WaitProgress) as following:
            assert list((await following()).pending) == [f"{namespace}/orders.a"]
        with pytest.raises(RpcError) as caught:
            await admin.call("Sidecars/Wait", pb.WaitRequest(), pb.WaitProgress)
        assert caught.value.code is StatusCode.INVALID_ARGUMENT


async def test_tooling_reads_status_and_data_only(mesh: Mesh) -> None:
    async with mesh.client("tooling") as etcd:
        await etcd.list(mesh.keyspace.statuses())
        with pytest.raises(trio_etcd.PermissionDenied):
            await etcd.list(mesh.keyspace.ca())
