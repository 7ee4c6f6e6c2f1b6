"""Sidecars that renew at once meet a replica that has too much to do: refused at once, back when told, all renewed.

The sidecars' own keepers against a real replica and etcd; `make bench` has a thousand of them.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from controlplane.api import issuing, turns
from controlplane.api.turns import Turns
from dataplane.identity.check import from_reply
from dataplane.identity.client import ReplicaClient
from dataplane.identity.keeper import IdentityKeeper
from dataplane.identity.material import Identity, key_to_pem, new_key, signing_request
from dataplane.identity.store import IdentityStore
from schemas.api import mesh_pb2 as pb
from tests.controlplane.api.test_audit import Events
from tests.controlplane.api.test_audit import events as events
from tests.controlplane.replica import Caller, Mesh, Replica, running_replica
from tests.support.net import eventually
from trio_grpc import Channel, RpcError, StatusCode

SIDECARS = 30
PAST_HALF_LIFE_S = 2200.0
SECONDS = 30.0
# More than all sidecars here take together, less than what the others take.
ENDURED_SECONDS = 0.4
FULL_SECONDS = 0.5


class Disk(IdentityStore):
    """In memory. The host's clock is ahead until there is a new identity, so that it renews once, and at once."""

    def __init__(self, kept: Identity) -> None:
        self.kept = kept
        self.ahead = PAST_HALF_LIFE_S

    def load(self) -> Identity | None:
        return self.kept

    def save(self, identity: Identity) -> None:
        self.kept = identity
        self.ahead = 0.0

    def clock(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
async def busy(mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Replica, Turns]]:
    """A replica, and its turns to fill up."""
    made: list[Turns] = []

    def make() -> Turns:
        made.append(Turns())
        return made[-1]

    monkeypatch.setattr(issuing, "Turns", make)
    async with running_replica(mesh, tmp_path) as replica:
        yield replica, made[0]


async def identities(replica: Replica, namespace: str) -> list[Identity]:
    joined = await replica.join("orders", namespace)
    keys = [(new_key(), new_key()) for _ in range(SIDECARS)]
    items = [pb.RenewRequest(csr=signing_request(key), etcd_csr=signing_request(other)) for key, other in keys]
    async with joined.calls() as sidecar:
        reply = await sidecar.call("Identity/RenewBatch", pb.RenewBatchRequest(items=items), pb.RenewBatchReply)
    made = []
    for (key, etcd_key), item in zip(keys, reply.items, strict=True):
        whole = pb.IdentityReply()
        whole.CopyFrom(reply.common)
        whole.chain.extend(item.chain)
        whole.etcd_chain.extend(item.etcd_chain)
        whole.api_endpoints[:] = [f"127.0.0.1:{replica.serving.api_port}"]
        made.append(from_reply(whole, key_to_pem(key), key_to_pem(etcd_key)))
    return made


async def test_all_renew_when_told_and_none_before(
    busy: tuple[Replica, Turns], namespace: str, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, taken = busy
    dice = random.Random(0)
    disks = [Disk(one) for one in await identities(replica, namespace)]
    old = [disk.kept for disk in disks]
    renewed: list[float] = []
    events.records.clear()

    async def host(disk: Disk) -> None:
        client = ReplicaClient(fraction=dice.random)
        keeper = IdentityKeeper(disk, client, lambda: None, clock=disk.clock, fraction=dice.random)
        try:
            async with trio.open_nursery() as own:
                before = await own.start(keeper.run)
                await keeper.changed(before)
                renewed.append(time.monotonic())
                own.cancel_scope.cancel()
        finally:
            client.close()

    def refused() -> list[dict[str, object]]:
        return events.of("Identity/Renew", "refused")

    async def all_refused() -> bool:
        return len(refused()) >= SIDECARS

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            with ExitStack() as others:
                while taken.wait_for("a sidecar") < FULL_SECONDS:
                    others.enter_context(taken.admitted(f"other {secrets.token_hex(4)}", SECONDS))
                monkeypatch.setattr(turns, "MAX_WAIT_SECONDS", ENDURED_SECONDS)
                for disk in disks:
                    nursery.start_soon(host, disk)
                await eventually("every sidecar is refused", all_refused)
                assert not renewed
                first = time.monotonic()
    assert len(renewed) == SIDECARS
    assert {said["status"] for said in refused()} == {"RESOURCE_EXHAUSTED"}
    assert all("nothing was issued" in str(said["why"]) for said in refused())
    assert min(renewed) > first
    for disk, before in zip(disks, old, strict=True):
        assert disk.kept.spiffe_id == before.spiffe_id
        assert disk.kept.key_pem != before.key_pem
        assert disk.kept.not_before >= before.not_before


async def test_one_connection_leaves_the_others_room(replica: Replica) -> None:
    """Its 33rd call waits at its own end, and takes no place at the replica."""
    target, own = f"unix:{replica.config.listen.socket}", (("grpc.use_local_subchannel_pool", 1),)
    with Channel(target, options=own) as greedy, Channel(target, options=own) as other, ExitStack() as streams:
        await Caller(greedy).call("Config/List", pb.ListRequest(), pb.ListReply)
        for _ in range(32):
            streams.enter_context(greedy.server_stream("/mesh.v1.Config/Watch", b""))
        with pytest.raises(RpcError) as caught:
            await Caller(greedy).call("Config/List", pb.ListRequest(), pb.ListReply, seconds=0.5)
        assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
        await Caller(other).call("Config/List", pb.ListRequest(), pb.ListReply)
        streams.close()
        await Caller(greedy).call("Config/List", pb.ListRequest(), pb.ListReply)
