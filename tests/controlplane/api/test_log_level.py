"""What one sidecar is to log for a time, as an order in etcd: who may give it, what is refused, how it ends."""

from __future__ import annotations

import pytest

from controlplane.domain.log_levels import KEPT_SECONDS
from controlplane.store.etcd import Store
from controlplane.store.requests import Request, RequestWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.keys import LogLevelRef
from schemas.names import ServiceRef
from schemas.records import LogLevel
from tests.controlplane.access import log_in
from tests.controlplane.replica import Caller, Mesh, Replica, new_id
from trio_etcd import KeyValue
from trio_grpc import RpcError, StatusCode


def request(
    namespace: str,
    level: str = "",
    *,
    seconds: int = 600,
    instance: str = "a",
    components: dict[str, str] | None = None,
) -> pb.SetLogLevelRequest:
    return pb.SetLogLevelRequest(
        request_id=new_id(), namespace=namespace, service="orders", instance=instance, level=level,
        components=components, seconds=seconds,
    )  # fmt: skip


async def send(caller: Caller, what: pb.SetLogLevelRequest) -> pb.SetLogLevelReply:
    return await caller.call("Sidecars/SetLogLevel", what, pb.SetLogLevelReply)


async def refusal(caller: Caller, what: pb.SetLogLevelRequest) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await send(caller, what)
    return caught.value


async def stored(mesh: Mesh, namespace: str) -> KeyValue | None:
    async with mesh.client() as etcd:
        return await etcd.get(mesh.keyspace.log_level(LogLevelRef(ServiceRef(namespace, "orders"), "a")))


@pytest.fixture
async def namespace_with_sidecar(replica: Replica, namespace: str) -> str:
    joined = await replica.join("orders", namespace)
    async with joined.calls() as sidecar:
        await joined.register(sidecar, "a")
    return namespace


async def test_an_order_names_who_gave_it_and_ends_with_its_lease(
    replica: Replica, mesh: Mesh, namespace_with_sidecar: str
) -> None:
    namespace = namespace_with_sidecar
    anna = await log_in(replica, f"anna-{namespace}", "editor", [namespace])
    asked = request(namespace, "info", seconds=60, components={"http": "trace", "agent": "debug"})
    async with anna.calls() as editor:
        first = await send(editor, asked)
        kv = await stored(mesh, namespace)
        assert kv is not None
        order = codec.decode(kv.value, LogLevel, "order")
        assert (order.namespace, order.service, order.instance, order.seconds) == (namespace, "orders", "a", 60)
        assert str(order.levels) == "info, agent=debug, http=trace"
        assert order.levels.until == first.until == order.at + 60
        assert order.by.endswith(f"/operator/anna-{namespace}")
        async with mesh.client() as etcd:
            assert 60 < (await etcd.lease_status(kv.lease)).granted_ttl <= 120
        assert await send(editor, asked) == first
        second = await send(editor, request(namespace, "debug"))
    async with mesh.client() as etcd:
        assert (await etcd.lease_status(kv.lease)).ttl < 0, "what held the order before is gone"
    now = await stored(mesh, namespace)
    assert now is not None
    assert now.mod_revision == second.revision > first.revision


async def test_nothing_is_left_of_an_order_that_another_one_was_before(
    replica: Replica, mesh: Mesh, namespace_with_sidecar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = mesh.keyspace.log_level(LogLevelRef(ServiceRef(namespace_with_sidecar, "orders"), "a"))
    granted: list[int] = []
    grant = Store.grant_lease
    async with mesh.client() as etcd, replica.admin() as admin:

        async def granted_meanwhile(store: Store, ttl: int, *, lease_id: int = 0) -> int:
            lease = await grant(store, ttl, lease_id=lease_id)
            if ttl == 4711 + KEPT_SECONDS:
                granted.append(lease)
                await etcd.put(key, b"somebody else's")
            return lease

        monkeypatch.setattr(Store, "grant_lease", granted_meanwhile)
        refused = await refusal(admin, request(namespace_with_sidecar, "debug", seconds=4711))
        assert refused.code is StatusCode.ABORTED
        assert [(await etcd.lease_status(one)).ttl for one in granted] == [-1]
        kept = await etcd.get(key)
        assert kept is not None
        assert kept.value == b"somebody else's"


async def test_an_order_sent_twice_at_once_stays(
    replica: Replica, mesh: Mesh, namespace_with_sidecar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attempt writes between what the other reads: of the request, and of the order before it."""
    asked = request(namespace_with_sidecar, "debug")
    granted: list[int] = []
    firsts: list[pb.SetLogLevelReply] = []
    recorded, grant = RequestWriter.recorded, Store.grant_lease
    async with mesh.client() as etcd, replica.admin() as admin, replica.admin() as again:

        async def recorded_late(writer: RequestWriter, one: Request) -> int | None:
            found = await recorded(writer, one)
            if one.id == asked.request_id and found is None and not firsts:
                monkeypatch.setattr(RequestWriter, "recorded", recorded)
                firsts.append(await send(again, asked))
            return found

        async def grant_noted(store: Store, ttl: int, *, lease_id: int = 0) -> int:
            lease = await grant(store, ttl, lease_id=lease_id)
            if ttl == asked.seconds + KEPT_SECONDS:
                granted.append(lease)
            return lease

        monkeypatch.setattr(RequestWriter, "recorded", recorded_late)
        monkeypatch.setattr(Store, "grant_lease", grant_noted)
        second = await send(admin, asked)
        kept = await stored(mesh, namespace_with_sidecar)
        assert kept is not None
        assert [kept.mod_revision] == [one.revision for one in firsts] == [second.revision]
        assert [(await etcd.lease_status(one)).ttl > 0 for one in granted] == [one == kept.lease for one in granted]
        assert len(granted) == 2, "the lease that holds nothing is gone at once"


async def test_it_goes_back_when_told_so(replica: Replica, mesh: Mesh, namespace_with_sidecar: str) -> None:
    async with replica.admin() as admin:
        await send(admin, request(namespace_with_sidecar, "debug"))
        back = request(namespace_with_sidecar, seconds=0)
        assert (await send(admin, back)).until == 0
        assert await stored(mesh, namespace_with_sidecar) is None
        await send(admin, request(namespace_with_sidecar, seconds=0))  # and is back


async def test_an_editor_changes_sidecars_of_its_own_namespaces_only(
    replica: Replica, mesh: Mesh, namespace_with_sidecar: str
) -> None:
    other = await log_in(replica, f"bert-{namespace_with_sidecar}", "editor", [f"{namespace_with_sidecar}-x"])
    viewer = await log_in(replica, f"carl-{namespace_with_sidecar}", "viewer")
    for person in (other, viewer):
        async with person.calls() as caller:
            assert (
                await refusal(caller, request(namespace_with_sidecar, "debug"))
            ).code is StatusCode.PERMISSION_DENIED
    assert await stored(mesh, namespace_with_sidecar) is None


async def test_what_is_no_order_is_refused_whole(replica: Replica, mesh: Mesh, namespace_with_sidecar: str) -> None:
    namespace = namespace_with_sidecar
    async with replica.admin() as admin:
        for bad in (
            request(namespace, "verbose"),
            request(namespace, "debug", seconds=0),
            request(namespace, "debug", seconds=24 * 3600 + 1),
            request(namespace, components={"http": "loud"}),
            request(namespace, components={"http:trace,router": "debug"}),
            request(namespace, components={f"l{number}": "debug" for number in range(33)}),
            request(namespace, "debug", instance="a/b"),
            request("a/b", "debug"),
        ):
            assert (await refusal(admin, bad)).code is StatusCode.INVALID_ARGUMENT, bad
        absent = await refusal(admin, request(namespace, "debug", instance="b"))
        assert absent.code is StatusCode.NOT_FOUND
        assert f"no sidecar {namespace}/orders.b is alive" in absent.details
    assert await stored(mesh, namespace) is None
