from __future__ import annotations

from functools import partial

import msgpack
import msgspec
import pytest
import trio

from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.keys import StatusRef
from schemas.objects import AnyObject, Service
from schemas.records import SidecarStatus
from tests.controlplane.domain.objects import objects, service
from tests.controlplane.replica import Mesh, Replica, new_id
from trio_grpc import RpcError, StatusCode


def put(value: AnyObject, source: str = "", expected_revision: int = 0) -> pb.Change:
    return pb.Change(put=codec.encode(value), source=source, expected_revision=expected_revision)


def key_of(value: AnyObject) -> pb.ObjectKey:
    return pb.ObjectKey(kind=value.kind, namespace=value.metadata.namespace, name=value.metadata.name)


def problems_in(error: RpcError) -> list[pb.ProblemItem]:
    [value] = [value for key, value in error.trailing if key == "mesh-problems-bin"]
    assert isinstance(value, bytes)
    return list(pb.ProblemList.FromString(value).problems)


async def revision_of(mesh: Mesh) -> int:
    """Of the configuration: replicas write elsewhere by themselves, to say that they live."""
    async with mesh.client() as etcd:
        listing = await etcd.list(mesh.keyspace.config())
        return max(kv.mod_revision for kv in listing.kvs)


async def test_apply_get_list_delete(replica: Replica, namespace: str) -> None:
    orders = service("orders", namespace=namespace)
    async with replica.admin() as admin:
        applied = await admin.apply(put(orders))
        assert [outcome.action for outcome in applied.outcomes] == [pb.Outcome.CREATED]
        got = await admin.call("Config/Get", pb.GetRequest(key=key_of(orders)), pb.StoredObject)
        stored = codec.decode_object(got.value, "Service", "orders")
        assert isinstance(stored, Service)
        assert stored.spec.virtual_address is not None
        without = msgspec.structs.replace(stored.spec, virtual_address=None)
        assert (msgspec.structs.replace(stored, spec=without), got.revision) == (orders, applied.revision)
        listed = await admin.call("Config/List", pb.ListRequest(kind="Service", namespace=namespace), pb.ListReply)
        assert list(listed.objects) == [got]
        everything = await admin.call("Config/List", pb.ListRequest(), pb.ListReply)
        assert {one.key.kind for one in everything.objects} >= {"Mesh", "Service"}
        of_namespace = await admin.call("Config/List", pb.ListRequest(namespace=namespace), pb.ListReply)
        assert list(of_namespace.objects) == [got]
        assert (await admin.apply(put(orders))).revision == 0
        deleted = await admin.apply(pb.Change(delete=key_of(orders)))
        assert [outcome.action for outcome in deleted.outcomes] == [pb.Outcome.DELETED]
        for call in (
            partial(admin.call, "Config/Get", pb.GetRequest(key=key_of(orders)), pb.StoredObject),
            partial(admin.apply, pb.Change(delete=key_of(orders))),
        ):
            with pytest.raises(RpcError) as caught:
                await call()
            assert caught.value.code is StatusCode.NOT_FOUND


async def test_one_change_set_is_one_revision(replica: Replica, mesh: Mesh, namespace: str) -> None:
    several = [service(f"s{number}", namespace=namespace) for number in range(10)]
    async with replica.admin() as admin, mesh.client() as etcd:
        applied = await admin.apply(*map(put, several))
        listing = await etcd.list(mesh.keyspace.config_of_kind("Service", namespace))
        assert [kv.mod_revision for kv in listing.kvs] == [applied.revision] * 10


async def test_a_sidecar_without_its_service_holds_no_port_back(replica: Replica, mesh: Mesh, namespace: str) -> None:
    """It takes no plaintext, so it never reports any."""
    text = f"kind: PeerAuthentication\nmetadata: {{name: all, namespace: {namespace}}}\nspec: {{mtls: {{mode: %s}}}}"
    [lax], [strict] = objects(text % "PERMISSIVE"), objects(text % "STRICT")
    orders = service("orders", namespace=namespace)
    async with replica.admin() as admin, mesh.client() as etcd:
        revision = (await admin.apply(put(lax), put(orders))).revision
        status = SidecarStatus(
            service="orders",
            namespace=namespace,
            instance="o1",
            applied_revision=revision,
            acked_revision=revision,
            svid_expires=0,
        )
        key = mesh.keyspace.status(StatusRef(namespace, "orders.o1"))
        await etcd.put(key, codec.encode(status))
        try:
            with pytest.raises(RpcError, match=r"orders\.o1, port 8080: has not reported who sends plaintext"):
                await admin.apply(put(strict))
            await admin.apply(pb.Change(delete=key_of(orders)))
            await admin.apply(put(strict))
        finally:
            await etcd.delete(key)


async def test_what_is_wrong_is_refused_whole(replica: Replica, mesh: Mesh, namespace: str) -> None:
    before = await revision_of(mesh)
    async with replica.admin() as admin:
        with pytest.raises(RpcError) as caught:
            await admin.apply(
                put(service("good", namespace=namespace), "a.yaml:1"),
                put(service("web", namespace=namespace, depends_on="[{name: nobody}]"), "a.yaml:9"),
            )
    assert caught.value.code is StatusCode.INVALID_ARGUMENT
    [problem] = problems_in(caught.value)
    assert problem.subject == f"a.yaml:9: Service {namespace}/web"
    assert (problem.path, problem.remedy) == (
        "$.spec.dependencies[0]",
        "correct the name, or create it in the same change set",
    )
    assert await revision_of(mesh) == before


async def test_a_dry_run_writes_nothing(replica: Replica, mesh: Mesh, namespace: str) -> None:
    before = await revision_of(mesh)
    async with replica.admin() as admin:
        reply = await admin.apply(put(service("orders", namespace=namespace)), dry_run=True)
        assert (reply.revision, reply.outcomes[0].action) == (0, pb.Outcome.CREATED)
    assert await revision_of(mesh) == before


async def test_129_objects_and_too_many_bytes(replica: Replica, mesh: Mesh, namespace: str) -> None:
    before = await revision_of(mesh)
    many = [put(service(f"s{number}", namespace=namespace)) for number in range(129)]
    note = "x" * 420_000
    large = [
        put(
            objects(
                f"kind: Service\nmetadata: {{name: s{number}, namespace: {namespace}, annotations: {{note: {note}}}}}\n"
                "spec: {ports: [{name: a, port: 1, protocol: tcp}]}"
            )[0]
        )
        for number in range(4)
    ]
    async with replica.admin() as admin:
        for changes, told in ((many, "129 objects"), (large, "1572864")):
            with pytest.raises(RpcError, match=told) as caught:
                await admin.apply(*changes)
            assert caught.value.code is StatusCode.INVALID_ARGUMENT
        assert await revision_of(mesh) == before
        # What the limit allows does go through etcd's own; the ranges and a block of addresses take two places.
        assert (await admin.apply(*many[:125])).revision > before
        assert (await admin.apply(*map(_deletion, many[:125]))).revision > before
        assert (await admin.apply(*large[:3])).revision


def _deletion(change: pb.Change) -> pb.Change:
    return pb.Change(delete=key_of(codec.decode_object(change.put, "Service", "x")))


async def test_the_loser_of_a_race_is_told(replica: Replica, second_replica: Replica, namespace: str) -> None:
    orders = service("orders", namespace=namespace)
    async with replica.admin() as one, second_replica.admin() as two:
        first = (await one.apply(put(orders))).revision
        await one.apply(put(service("orders", namespace=namespace, ports=(1,)), expected_revision=first))
        with pytest.raises(RpcError, match="expected at revision") as caught:
            await two.apply(put(service("orders", namespace=namespace, ports=(2,)), expected_revision=first))
        assert caught.value.code is StatusCode.ABORTED


async def test_asking_again_with_the_same_id(replica: Replica, second_replica: Replica, namespace: str) -> None:
    orders, web = service("orders", namespace=namespace), service("web", namespace=namespace)
    request_id = new_id()
    async with replica.admin() as one, second_replica.admin() as two:
        await one.apply(put(web))
        first = await one.apply(put(orders), put(web), request_id=request_id)
        await one.apply(put(service("orders", namespace=namespace, ports=(1,))))
        again = await two.apply(put(orders), put(web), request_id=request_id)
        assert (again.revision, list(again.outcomes)) == (first.revision, list(first.outcomes))
        assert [outcome.action for outcome in again.outcomes] == [pb.Outcome.CREATED, pb.Outcome.UNCHANGED]
        with pytest.raises(RpcError, match="used for another request") as caught:
            await two.apply(put(web), request_id=request_id)
        assert caught.value.code is StatusCode.INVALID_ARGUMENT
        for bad in ("short", "a/../../data", "x" * 65):
            with pytest.raises(RpcError, match="no request id"):
                await two.apply(put(web), request_id=bad)


async def test_increments_by_two_replicas_lose_none(replica: Replica, second_replica: Replica, namespace: str) -> None:
    """Each reads the object, adds one, and writes it back on the revision it read."""
    rounds, conflicts = 40, 0

    async def increment(one: Replica) -> None:
        nonlocal conflicts
        async with one.admin() as admin:
            done = 0
            while done < rounds:
                got = await admin.call("Config/Get", pb.GetRequest(key=key_of(start)), pb.StoredObject)
                count = codec.decode_object(got.value, "Service", "x").spec.ports[0].port  # type: ignore[union-attr]
                try:
                    await admin.apply(
                        put(service("counter", namespace=namespace, ports=(count + 1,)), expected_revision=got.revision)
                    )
                    done += 1
                except RpcError as error:
                    if error.code is not StatusCode.ABORTED:
                        raise
                    conflicts += 1

    start = service("counter", namespace=namespace, ports=(1000,))
    async with replica.admin() as admin:
        await admin.apply(put(start))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(increment, replica)
            nursery.start_soon(increment, second_replica)
        got = await admin.call("Config/Get", pb.GetRequest(key=key_of(start)), pb.StoredObject)
    count = codec.decode_object(got.value, "Service", "x").spec.ports[0].port  # type: ignore[union-attr]
    assert count == 1000 + 2 * rounds
    assert conflicts > 0


async def test_a_service_is_not_deleted_under_a_reference_being_made(
    replica: Replica, second_replica: Replica, mesh: Mesh, namespace: str
) -> None:
    """One replica deletes what another begins to refer to: whoever comes second is refused, never both done."""
    target = service("target", namespace=namespace)
    client = service("client", namespace=namespace, depends_on="[{name: target}]")
    outcomes: list[str] = []

    async def attempt(one: Replica, change: pb.Change) -> None:
        async with one.admin() as admin:
            try:
                await admin.apply(change)
                outcomes.append("done")
            except RpcError as error:
                if error.code is not StatusCode.INVALID_ARGUMENT:
                    raise
                outcomes.append("refused")

    async with replica.admin() as admin, mesh.client() as etcd:
        for _ in range(10):
            await admin.apply(put(target))
            outcomes.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(attempt, replica, pb.Change(delete=key_of(target)))
                nursery.start_soon(attempt, second_replica, put(client))
            assert sorted(outcomes) == ["done", "refused"]
            stored = {kv.key for kv in (await etcd.list(mesh.keyspace.config_of_kind("Service", namespace))).kvs}
            if mesh.keyspace.object(client.ref) in stored:
                assert mesh.keyspace.object(target.ref) in stored
                await admin.apply(pb.Change(delete=key_of(client)))


async def test_a_malformed_value_in_etcd_can_be_replaced(replica: Replica, mesh: Mesh, namespace: str) -> None:
    orders = service("orders", namespace=namespace)
    web = service("web", namespace=namespace, depends_on="[{name: orders}]")
    async with replica.admin() as admin, mesh.client() as etcd:
        await etcd.put(mesh.keyspace.object(orders.ref), b"\xc1 not MessagePack")
        with pytest.raises(RpcError, match="can't be understood"):
            await admin.apply(put(web))
        reply = await admin.apply(put(web), put(orders))
        assert [outcome.action for outcome in reply.outcomes] == [pb.Outcome.CREATED, pb.Outcome.UPDATED]


async def test_fields_of_a_newer_writer_survive(replica: Replica, mesh: Mesh, namespace: str) -> None:
    orders = service("orders", namespace=namespace)
    key = mesh.keyspace.object(orders.ref)
    async with replica.admin() as admin, mesh.client() as etcd:
        await admin.apply(put(orders))
        stored = await etcd.get(key)
        assert stored is not None
        foreign = msgpack.unpackb(stored.value)
        foreign["spec"]["fromTheFuture"] = [1, 2]
        await etcd.put(key, msgpack.packb(foreign))
        await admin.apply(put(service("orders", namespace=namespace, ports=(1,))))
        stored = await etcd.get(key)
        assert stored is not None
        assert msgpack.unpackb(stored.value)["spec"]["fromTheFuture"] == [1, 2]


async def test_watch_shows_data_and_status_and_nothing_else(replica: Replica, mesh: Mesh, namespace: str) -> None:
    orders = service("orders", namespace=namespace)
    async with replica.admin() as admin, mesh.client() as etcd:
        before = await revision_of(mesh)
        async with admin.stream("Config/Watch", pb.WatchRequest(after_revision=before), pb.WatchEvent) as following:
            await replica.token("orders", namespace)
            await etcd.put(f"/mesh/v1/control/status/{namespace}/orders.a".encode(), b"s")
            applied = await admin.apply(put(orders))
            deleted = await admin.apply(pb.Change(delete=key_of(orders)))
            seen: list[pb.WatchEvent] = []
            while len(seen) < 3:
                one = await following()
                if namespace in one.key:
                    seen.append(one)
    assert [one.key for one in seen] == [
        f"/mesh/v1/control/status/{namespace}/orders.a",
        f"/mesh/v1/data/config/Service/{namespace}/orders",
        f"/mesh/v1/data/config/Service/{namespace}/orders",
    ]
    assert codec.decode_object(seen[1].value, "Service", "orders").ref == orders.ref
    assert [(one.revision, one.deleted) for one in seen[1:]] == [(applied.revision, False), (deleted.revision, True)]
