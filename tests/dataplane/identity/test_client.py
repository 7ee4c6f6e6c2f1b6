"""Calls to replicas: failover within a bound, who is taken for a replica, errors as our own types."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator

import pytest
import trio

from dataplane.identity import replicas as replicas_module
from dataplane.identity.check import check, from_reply
from dataplane.identity.client import ReplicaClient
from dataplane.identity.material import Identity, key_to_pem, new_key, signing_request
from schemas import codec
from schemas.api import mesh_pb2
from schemas.errors import (
    Conflict,
    InvalidInput,
    MeshError,
    NotFound,
    Overloaded,
    PermissionDenied,
    Problem,
    Unauthenticated,
    Unavailable,
)
from schemas.records import Endpoint, SidecarStatus
from spiffe.bundle import record
from tests.dataplane.identity.fake_replica import HOUR, TOKEN, TRUST_DOMAIN, FakeReplica, Mesh
from tests.support.net import eventually, free_port
from trio_grpc import Context, RpcAbort, StatusCode, unary

STATUS = SidecarStatus(
    service="orders", namespace="shop", instance="a", applied_revision=1, acked_revision=1, svid_expires=0
)
ENDPOINT = Endpoint(address="127.0.0.2", ports={"http": 8080})


@dataclasses.dataclass
class Sidecars:
    """The service's methods, with what they were asked and what they are to fail with."""

    asked: list[object] = dataclasses.field(default_factory=list)
    failure: RpcAbort | None = None
    hold: trio.Event | None = None

    async def register(self, request: mesh_pb2.RegisterRequest, context: Context) -> mesh_pb2.RegisterReply:
        await self._note(request)
        return mesh_pb2.RegisterReply(lease_id=7, ttl_seconds=request.ttl_seconds, revision=12)

    async def report(self, request: mesh_pb2.ReportRequest, context: Context) -> mesh_pb2.ReportReply:
        await self._note(request)
        return mesh_pb2.ReportReply()

    async def deregister(self, request: mesh_pb2.DeregisterRequest, context: Context) -> mesh_pb2.DeregisterReply:
        await self._note(request)
        return mesh_pb2.DeregisterReply(revision=13)

    async def _note(self, request: object) -> None:
        self.asked.append(request)
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure

    def replica(self, mesh: Mesh) -> FakeReplica:
        pb, path = mesh_pb2, "/mesh.v1.Sidecars"
        return FakeReplica(
            mesh,
            time.time,
            extra={
                f"{path}/Register": unary(
                    self.register, pb.RegisterRequest.FromString, pb.RegisterReply.SerializeToString
                ),
                f"{path}/Report": unary(self.report, pb.ReportRequest.FromString, pb.ReportReply.SerializeToString),
                f"{path}/Deregister": unary(
                    self.deregister, pb.DeregisterRequest.FromString, pb.DeregisterReply.SerializeToString
                ),
            },
        )


def identity(mesh: Mesh, *endpoints: str) -> Identity:
    key, etcd_key = new_key(), new_key()
    now = time.time()
    reply = mesh.issue(signing_request(key), signing_request(etcd_key), not_before=now, expires=now + HOUR)
    reply.api_endpoints.extend(endpoints)
    issued = from_reply(reply, key_to_pem(key), key_to_pem(etcd_key))
    check(issued, None, now)
    return issued


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


@pytest.fixture
async def client() -> AsyncIterator[ReplicaClient]:
    client = ReplicaClient(fraction=lambda: 0.0)
    yield client
    client.close()


async def test_register_report_deregister_carry_everything(mesh: Mesh, client: ReplicaClient) -> None:
    sidecars = Sidecars()
    async with sidecars.replica(mesh).serving() as replica:
        client.use(identity(mesh, f"127.0.0.1:{replica.api_port}"))
        registered = await client.register("a", ENDPOINT, STATUS, 15)
        assert (registered.lease_id, registered.ttl_seconds, registered.revision) == (7, 15, 12)
        await client.register("a", None, STATUS, 15, lease_id=7)
        await client.report("a", 7, STATUS)
        assert await client.deregister("a", 7) == 13
    status = codec.encode(STATUS)
    assert sidecars.asked == [
        mesh_pb2.RegisterRequest(instance="a", endpoint=codec.encode(ENDPOINT), status=status, ttl_seconds=15),
        mesh_pb2.RegisterRequest(instance="a", status=status, ttl_seconds=15, lease_id=7),
        mesh_pb2.ReportRequest(instance="a", lease_id=7, status=status),
        mesh_pb2.DeregisterRequest(instance="a", lease_id=7),
    ]


async def test_the_next_replica_answers_where_the_first_is_down(mesh: Mesh, client: ReplicaClient) -> None:
    sidecars = Sidecars()
    async with sidecars.replica(mesh).serving() as replica:
        client.use(identity(mesh, f"127.0.0.1:{free_port()}", f"127.0.0.1:{replica.api_port}"))
        with trio.fail_after(5):
            for _ in range(3):
                await client.report("a", 7, STATUS)
    assert len(sidecars.asked) == 3


async def test_the_next_replica_answers_where_the_first_is_a_black_hole(
    mesh: Mesh, client: ReplicaClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas_module, "ATTEMPT_SECONDS", 0.3)
    sidecars = Sidecars()
    holes = await trio.open_tcp_listeners(0, host="127.0.0.1")  # takes connections and says nothing
    hole = holes[0].socket.getsockname()[1]
    async with sidecars.replica(mesh).serving() as replica:
        client.use(identity(mesh, f"127.0.0.1:{hole}", f"127.0.0.1:{replica.api_port}"))
        with trio.fail_after(5):
            await client.report("a", 7, STATUS)
            before = trio.current_time()
            await client.report("a", 7, STATUS)
            assert trio.current_time() - before < 0.3, "the one that answered is asked first"
    await holes[0].aclose()


async def test_a_replica_that_comes_back_is_found_again(mesh: Mesh, client: ReplicaClient) -> None:
    sidecars = Sidecars()
    replica = sidecars.replica(mesh)
    async with replica.serving():
        client.use(identity(mesh, f"127.0.0.1:{replica.api_port}"))
        await client.report("a", 7, STATUS)
    with pytest.raises(Unavailable):
        await client.report("a", 7, STATUS)
    async with replica.serving():
        with trio.fail_after(5):
            await client.report("a", 7, STATUS)


async def test_nobody_answers_within_the_bound(mesh: Mesh, client: ReplicaClient) -> None:
    port = free_port()
    client.use(identity(mesh, f"127.0.0.1:{port}"))
    with (
        trio.fail_after(5),
        pytest.raises(Unavailable, match=rf"no replica answered .*/Report \(127.0.0.1:{port}: ") as info,
    ):
        await client.report("a", 7, STATUS, timeout=1)
    assert not info.value.outcome_unknown


async def test_an_answer_that_does_not_come_leaves_the_outcome_unknown(mesh: Mesh, client: ReplicaClient) -> None:
    sidecars = Sidecars(hold=trio.Event())
    async with sidecars.replica(mesh).serving() as replica:
        client.use(identity(mesh, f"127.0.0.1:{replica.api_port}"))
        with pytest.raises(Unavailable) as info:
            await client.deregister("a", 7, timeout=0.3)
        assert info.value.outcome_unknown


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (StatusCode.NOT_FOUND, NotFound),
        (StatusCode.ABORTED, Conflict),
        (StatusCode.PERMISSION_DENIED, PermissionDenied),
        (StatusCode.UNAUTHENTICATED, Unauthenticated),
        (StatusCode.INVALID_ARGUMENT, InvalidInput),
        (StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (StatusCode.INTERNAL, Unavailable),
    ],
)
async def test_a_refusal_is_an_answer_and_has_a_type(
    mesh: Mesh, client: ReplicaClient, code: StatusCode, kind: type[MeshError]
) -> None:
    sidecars = Sidecars(failure=RpcAbort(code, "because"))
    async with sidecars.replica(mesh).serving() as replica:
        client.use(identity(mesh, f"127.0.0.1:{replica.api_port}", f"127.0.0.1:{free_port()}"))
        with pytest.raises(kind, match="because"):
            await client.report("a", 7, STATUS)
    assert len(sidecars.asked) == 1


async def test_problems_come_through_whole(mesh: Mesh, client: ReplicaClient) -> None:
    item = mesh_pb2.ProblemItem(subject="endpoint", path="$.address", message="not an address", remedy="write one")
    details = mesh_pb2.ProblemList(problems=[item]).SerializeToString()
    failure = RpcAbort(StatusCode.INVALID_ARGUMENT, "no", [("mesh-problems-bin", details)])
    async with Sidecars(failure=failure).replica(mesh).serving() as replica:
        client.use(identity(mesh, f"127.0.0.1:{replica.api_port}"))
        with pytest.raises(InvalidInput) as info:
            await client.register("a", ENDPOINT, STATUS, 15)
    assert info.value.problems == (Problem("endpoint", "not an address", "$.address", "write one"),)


@pytest.mark.parametrize(("said", "meant"), [("1500", 1.5), ("999999", 30.0), ("-1", 0.0), ("soon", 0.0), ("", 0.0)])
async def test_one_with_too_much_to_do_says_when_to_come_again(
    mesh: Mesh, client: ReplicaClient, said: str, meant: float
) -> None:
    """And the next attempt, not this one, goes to another replica."""
    trailing = [("grpc-retry-pushback-ms", said)]
    busy, idle = Sidecars(failure=RpcAbort(StatusCode.RESOURCE_EXHAUSTED, "busy", trailing)), Sidecars()
    async with busy.replica(mesh).serving() as first, idle.replica(mesh).serving() as second:
        client.use(identity(mesh, f"127.0.0.1:{first.api_port}", f"127.0.0.1:{second.api_port}"))
        with pytest.raises(Overloaded, match="busy") as caught:
            await client.report("a", 7, STATUS)
        assert caught.value.retry_after == meant
        assert (len(busy.asked), len(idle.asked)) == (1, 0)
        await client.report("a", 7, STATUS)
        assert (len(busy.asked), len(idle.asked)) == (1, 1)


async def test_only_a_replica_is_taken_for_a_replica(mesh: Mesh, client: ReplicaClient) -> None:
    """A workload's certificate chains to the same root, and lacks the name that the CA gives to replicas alone."""
    sidecars = Sidecars()
    async with sidecars.replica(mesh).serving(dns="orders.shop.mesh") as impostor:
        client.use(identity(mesh, f"127.0.0.1:{impostor.api_port}"))
        with pytest.raises(Unavailable):
            await client.report("a", 7, STATUS, timeout=2)
        with pytest.raises(Unavailable):
            await client.join(impostor.join_file(), b"", b"", timeout=2)
    assert sidecars.asked == []
    assert impostor.calls == []
    assert impostor.tokens == {TOKEN}


async def test_the_token_is_shown_to_no_replica_of_another_root(mesh: Mesh, client: ReplicaClient) -> None:
    async with FakeReplica(Mesh(), time.time).serving() as stranger:
        file = stranger.join_file(trust_bundle=codec.encode(mesh.bundle))
        with pytest.raises(Unavailable):
            await client.join(file, b"", b"", timeout=2)
    assert stranger.calls == []


async def test_an_empty_bundle_trusts_nobody(mesh: Mesh, client: ReplicaClient) -> None:
    empty = record(TRUST_DOMAIN, [], 1)
    with pytest.raises(InvalidInput, match="trust bundle is empty"):
        client.use(dataclasses.replace(identity(mesh, "127.0.0.1:1"), bundle=empty))
    file = FakeReplica(mesh, time.time).join_file(trust_bundle=codec.encode(empty))
    with pytest.raises(InvalidInput, match="trust bundle is empty"):
        await client.join(file, b"", b"")


async def test_a_new_identity_leaves_calls_in_flight_alone(mesh: Mesh, client: ReplicaClient) -> None:
    sidecars = Sidecars(hold=trio.Event())
    assert sidecars.hold is not None
    async with sidecars.replica(mesh).serving() as replica:
        endpoint = f"127.0.0.1:{replica.api_port}"
        client.use(identity(mesh, endpoint))
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.report, "a", 7, STATUS)
                await eventually("the call has arrived", lambda: sidecars.asked)
                client.use(identity(mesh, endpoint))
                sidecars.hold.set()
        await client.report("a", 7, STATUS)
    assert len(sidecars.asked) == 2


async def test_without_an_identity_nothing_is_sent(client: ReplicaClient) -> None:
    with pytest.raises(Unauthenticated, match="join first"):
        await client.report("a", 7, STATUS)
