from __future__ import annotations

import pytest

from schemas import codec
from schemas.api import mesh_pb2 as pb
from tests.controlplane.domain.objects import service
from tests.controlplane.replica import Replica
from trio_grpc import RpcError, StatusCode


def put(value: object, **more: object) -> pb.Change:
    return pb.Change(put=codec.encode(value), **more)  # type: ignore[arg-type]  # any object


async def test_apply_get_list_delete(replica: Replica, namespace: str) -> None:
    orders = service("orders", namespace=namespace)
    async with replica.admin() as admin:
        applied = await admin.apply(put(orders))
        assert [outcome.action for outcome in applied.outcomes] == [pb.Outcome.CREATED]
        key = applied.outcomes[0].key
        got = await admin.call("Config/Get", pb.GetRequest(key=key), pb.StoredObject)
        assert (got.value, got.revision) == (codec.encode(orders), applied.revision)
        listed = await admin.call("Config/List", pb.ListRequest(kind="Service", namespace=namespace), pb.ListReply)
        assert list(listed.objects) == [got]
        everything = await admin.call("Config/List", pb.ListRequest(), pb.ListReply)
        assert {one.key.kind for one in everything.objects} >= {"Mesh", "Service"}
        assert (await admin.apply(put(orders))).revision == 0
        deleted = await admin.apply(pb.Change(delete=key))
        assert [outcome.action for outcome in deleted.outcomes] == [pb.Outcome.DELETED]
        with pytest.raises(RpcError) as caught:
            await admin.call("Config/Get", pb.GetRequest(key=key), pb.StoredObject)
        assert caught.value.code is StatusCode.NOT_FOUND
