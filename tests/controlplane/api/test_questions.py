"""Questions to sidecars: put into etcd, answered at any replica, gone afterwards."""

from __future__ import annotations

import pytest
import trio

import trio_etcd
from controlplane.api import question_service
from controlplane.api.call import Call
from controlplane.api.caller import Caller as ApiCaller
from controlplane.api.caller import CallerKind
from controlplane.store.boards import StatusBoard
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Unavailable
from schemas.keys import Keyspace
from schemas.questions import MAX_ANSWER_BYTES, Answer, Question
from tests.controlplane.replica import Caller, Joined, Mesh, Replica
from trio_grpc import RpcError, StatusCode


async def next_question(etcd: trio_etcd.Client) -> Question:
    prefix = Keyspace().questions()
    listing = await etcd.list(prefix)
    async with etcd.watch(prefix, prefix=True, start_revision=listing.revision + 1) as watch:
        held = [kv.value for kv in listing.kvs]
        while not held:
            held = [one.kv.value for one in (await anext(aiter(watch))).events if not one.deleted]
    return codec.decode(held[0], Question, "question")


def answer(joined: Joined, instance: str, **fields: object) -> bytes:
    return codec.encode(Answer(service=joined.service, namespace=joined.namespace, instance=instance, **fields))  # type: ignore[arg-type]  # fields by name


async def give(sidecar: Caller, question: str, value: bytes, instance: str = "a") -> None:
    request = pb.AnswerRequest(instance=instance, question=question, answer=value)
    await sidecar.call("Questions/Answer", request, pb.AnswerReply)


async def refused(sidecar: Caller, question: str, value: bytes, instance: str = "a") -> StatusCode:
    with pytest.raises(RpcError) as caught:
        await give(sidecar, question, value, instance)
    return caught.value.code


async def test_asked_and_answered(replica: Replica, second_replica: Replica, mesh: Mesh, namespace: str) -> None:
    joined = await replica.join("orders", namespace)
    replies: list[pb.AskReply] = []
    async with joined.calls(second_replica) as sidecar, replica.admin() as admin, mesh.client() as etcd:
        for instance in ("a", "b"):
            await joined.register(sidecar, instance)

        async def ask() -> None:
            request = pb.AskRequest(about="request", request_id="id-1", services=[f"orders.{namespace}"])
            replies.append(await admin.call("Questions/Ask", request, pb.AskReply))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            with trio.fail_after(10):
                async with mesh.client("tooling") as reader:  # which reads `data/`, as a sidecar does
                    question = await next_question(reader)
            assert (question.about, question.request_id, question.services) == (
                "request",
                "id-1",
                (f"orders.{namespace}",),
            )
            value = answer(joined, "a", entries=("one",), looked_at="here")
            assert await refused(sidecar, question.id, value, "b") is StatusCode.INVALID_ARGUMENT
            assert await refused(sidecar, "x/../" + question.id, value) is StatusCode.INVALID_ARGUMENT
            assert await refused(sidecar, "0" * 32, value) is StatusCode.NOT_FOUND
            long = answer(joined, "a", entries=("x" * MAX_ANSWER_BYTES,))
            assert await refused(sidecar, question.id, long) is StatusCode.INVALID_ARGUMENT
            await give(sidecar, question.id, value)
            await give(sidecar, question.id, value)  # whose first reply was lost says it again
            assert await refused(sidecar, question.id, answer(joined, "a")) is StatusCode.ABORTED
            assert await refused(sidecar, question.id, answer(joined, "made-up"), "made-up") is StatusCode.NOT_FOUND
            other = await replica.join("cart", namespace)
            async with other.calls(second_replica) as stranger:
                await other.register(stranger, "a")
                assert await refused(stranger, question.id, answer(other, "a")) is StatusCode.INVALID_ARGUMENT
            await give(sidecar, question.id, answer(joined, "b", problem="why not"), "b")
        (reply,) = replies
        said = [codec.decode(one, Answer, "answer") for one in reply.answers]
        assert [(one.instance, one.entries, one.problem) for one in said] == [("a", ("one",), ""), ("b", (), "why not")]
        assert not reply.silent
        for prefix in (mesh.keyspace.questions(), mesh.keyspace.answers(question.id)):
            assert not (await etcd.list(prefix)).kvs
        assert await refused(sidecar, question.id, value) is StatusCode.NOT_FOUND


async def test_who_does_not_answer_is_named(replica: Replica, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_service, "GATHER_SECONDS", 0.1)
    joined = await replica.join("orders", namespace)
    async with joined.calls() as sidecar, replica.admin() as admin:
        await joined.register(sidecar, "a")
        request = pb.AskRequest(about="request", request_id="id-1", services=[f"orders.{namespace}"])
        reply = await admin.call("Questions/Ask", request, pb.AskReply)
        assert (list(reply.answers), list(reply.silent)) == ([], [f"{namespace}/orders.a"])
        request.services[:] = [f"nobody.{namespace}"]
        reply = await admin.call("Questions/Ask", request, pb.AskReply)
        assert (list(reply.answers), list(reply.silent)) == ([], [])
        for wrong in (pb.AskRequest(about="weather"), pb.AskRequest(about="request", request_id="a b")):
            with pytest.raises(RpcError) as caught:
                await admin.call("Questions/Ask", wrong, pb.AskReply)
            assert caught.value.code is StatusCode.INVALID_ARGUMENT
        with pytest.raises(RpcError) as caught:
            await sidecar.call("Questions/Ask", request, pb.AskReply)
        assert caught.value.code is StatusCode.PERMISSION_DENIED


async def test_a_replica_that_knows_no_sidecars_yet_says_so() -> None:
    board = StatusBoard(Keyspace())
    service = question_service.QuestionService(None, board, None, lambda size: bytes(size))  # type: ignore[arg-type]  # neither is reached
    caller = Call(ApiCaller(CallerKind.ROOT_LOCAL, "unix"), seconds=question_service.AFTER_SECONDS + 0.01)
    with pytest.raises(Unavailable, match="has not read yet which sidecars live"):
        await service.ask(pb.AskRequest(about="flows"), caller)


async def ask_for_flows(replica: Replica, namespace: str, into: list[pb.AskReply], about: str = "flows") -> None:
    async with replica.admin() as admin:
        request = pb.AskRequest(about=about, request_id="id-1", services=[f"orders.{namespace}"])
        into.append(await admin.call("Questions/Ask", request, pb.AskReply))


async def test_all_answers_together_are_bounded(
    replica: Replica, mesh: Mesh, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question_service, "GATHERED_BYTES", 4000)
    joined = await replica.join("orders", namespace)
    replies: list[pb.AskReply] = []
    async with joined.calls() as sidecar, mesh.client("tooling") as reader:
        for instance in ("a", "b", "c"):
            await joined.register(sidecar, instance)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_for_flows, replica, namespace, replies)
            question = await next_question(reader)
            assert question.max_bytes == 4000 // 3
            long = answer(joined, "a", looked_at="x" * 1300)
            assert await refused(sidecar, question.id, long) is StatusCode.INVALID_ARGUMENT
            for instance in ("a", "b", "c"):
                await give(sidecar, question.id, answer(joined, instance, looked_at="x" * 1000), instance)
        assert (len(replies[0].answers), list(replies[0].silent)) == (3, [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_for_flows, replica, namespace, replies, "request")
            question = await next_question(reader)
            assert question.max_bytes == MAX_ANSWER_BYTES, "nobody knows who has the request"
            for instance in ("a", "b", "c"):
                await give(sidecar, question.id, answer(joined, instance, entries=("x" * 1500,)), instance)
        assert (len(replies[1].answers), list(replies[1].silent)) == (2, [f"{namespace}/orders.c"])


async def test_the_past_as_long_as_etcd_has_it(replica: Replica, namespace: str) -> None:
    async with replica.admin() as admin:
        before = await admin.call("Config/List", pb.ListRequest(kind="Service", namespace=namespace), pb.ListReply)
        at = pb.ListRequest(kind="Service", namespace=namespace, revision=before.revision)
        assert not (await admin.call("Config/List", at, pb.ListReply)).objects
        key = pb.ObjectKey(kind="Mesh", namespace="mesh-system", name="mesh")
        now = await admin.call("Config/Get", pb.GetRequest(key=key), pb.StoredObject)
        then = await admin.call("Config/Get", pb.GetRequest(key=key, revision=before.revision), pb.StoredObject)
        assert then == now
        for revision, code in ((10**12, StatusCode.NOT_FOUND), (-1, StatusCode.INVALID_ARGUMENT)):
            for rpc, request, reply in (
                ("Config/List", pb.ListRequest(kind="Service", revision=revision), pb.ListReply),
                ("Config/Get", pb.GetRequest(key=key, revision=revision), pb.StoredObject),
                ("Revocations/List", pb.ListRevocationsRequest(revision=revision), pb.ListRevocationsReply),
            ):
                with pytest.raises(RpcError) as caught:
                    await admin.call(rpc, request, reply)
                assert caught.value.code is code, (rpc, revision)
