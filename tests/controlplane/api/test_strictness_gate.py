"""No two changes together close a port to senders of plaintext when neither may; and what the audit says of force."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from controlplane.api import change_set
from controlplane.api.call import Call
from controlplane.api.caller import Caller, CallerKind
from controlplane.api.config_service import ConfigService
from controlplane.api.convert import changes_from
from controlplane.api.strictness_gate import StrictnessGate
from controlplane.domain.change import Change
from controlplane.domain.known import Known
from controlplane.store.etcd import Store
from controlplane.store.requests import Request, RequestWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict
from schemas.keys import StatusRef
from schemas.objects import AnyObject, PeerAuthentication
from schemas.records import PlaintextPort, SidecarStatus
from tests.controlplane.replica import new_id
from tests.controlplane.rotation.world import KEYS, World, made_world
from tests.states.build import peers, port, service

NOW = int(time.time())
ALL, ORDERS = peers("all", "PERMISSIVE"), peers("orders", "PERMISSIVE", ["orders"])
KIND = KEYS.config_of_kind(PeerAuthentication.__name__)


def put(value: AnyObject) -> pb.Change:
    return pb.Change(put=codec.encode(value))


def delete(value: AnyObject) -> pb.Change:
    return pb.Change(delete=pb.ObjectKey(kind=value.kind, namespace=value.metadata.namespace, name=value.metadata.name))


@dataclass
class Scene:
    """Of a mesh in which somebody sends plaintext to orders, seen three seconds ago."""

    world: World
    facts: dict[str, object] = field(default_factory=dict)
    """What the last call told the audit."""

    async def apply(self, *changes: pb.Change, force: bool = False, dry_run: bool = False) -> pb.ApplyReply:
        store = self.world.store()
        call = Call(Caller(CallerKind.ROOT_LOCAL, "here"))
        self.facts = call.facts
        request = pb.ApplyRequest(changes=changes, request_id=new_id(), force=force, dry_run=dry_run)
        return await ConfigService(store, RequestWriter(store), lambda: NOW).apply(request, call)

    async def leave(self, *changes: pb.Change, monkeypatch: pytest.MonkeyPatch) -> None:
        """Forced, by a caller that goes once etcd has the write and before the replica knows so."""
        transact = Store.transact

        async def unanswered(store: Store, *args: Any, **kwargs: Any) -> None:
            await transact(store, *args, **kwargs)
            call.cancel()
            await trio.sleep_forever()

        monkeypatch.setattr(Store, "transact", unanswered)
        with trio.CancelScope() as call:
            await self.apply(*changes, force=True)
        assert call.cancelled_caught

    async def apply_while(self, meanwhile: Callable[[], Awaitable[object]], *changes: pb.Change) -> None:
        """meanwhile: done between what `changes` were decided by and their write."""
        store = self.world.store()
        gate = StrictnessGate(store, NOW, force=False)
        passed: list[None] = []

        async def gate_and_more(changed: Sequence[Change], known: Known) -> None:
            await gate(changed, known)
            if not passed:
                passed.append(None)
                await meanwhile()

        await change_set.apply(
            store,
            RequestWriter(store),
            Request(new_id(), b"f" * 32),
            changes_from(pb.ApplyRequest(changes=changes)),
            dry_run=False,
            seconds=5,
            now=NOW,
            gate=gate_and_more,
        )

    async def names(self) -> list[str]:
        return [kv.key.decode().rsplit("/", 1)[1] for kv in (await self.world.client.list(KIND)).kvs]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with made_world() as world:
        made = Scene(world)
        revision = (await made.apply(put(service("orders", port("http", 80))), put(ALL), put(ORDERS))).revision
        status = SidecarStatus(
            service="orders",
            namespace="shop",
            instance="o1",
            applied_revision=revision,
            acked_revision=revision,
            svid_expires=0,
            plaintext=(PlaintextPort(port=80, since=0, last_seen=NOW - 3),),
        )
        await world.client.put(KEYS.status(StatusRef("shop", "orders.o1")), codec.encode(status))
        yield made


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (delete(ALL), delete(ORDERS), ["all"]),
        (delete(ORDERS), delete(ALL), ["orders"]),
        (put(peers("all", "STRICT")), delete(ORDERS), ["all"]),
        (delete(ORDERS), put(peers("all", "STRICT")), ["all", "orders"]),
    ],
)
async def test_of_two_changes_at_once_the_later_one_is_judged_by_the_earlier(
    scene: Scene, first: pb.Change, second: pb.Change, left: list[str]
) -> None:
    with pytest.raises(Conflict, match=r"orders\.o1, port 80: plaintext 3 s ago"):
        await scene.apply_while(lambda: scene.apply(second), first)
    assert await scene.names() == left


async def test_changes_that_have_nothing_to_do_with_it_wait_for_none(scene: Scene) -> None:
    web = service("web", port("http", 80))
    await scene.apply_while(lambda: scene.apply(put(web)), delete(ALL))
    assert await scene.names() == ["orders"]


async def test_who_was_cut_off_is_on_record_though_the_caller_went(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.apply(delete(ALL))
    with caplog.at_level(logging.WARNING):
        await scene.leave(delete(ORDERS), monkeypatch=monkeypatch)
    assert await scene.names() == []
    assert "plaintext 3 s ago" in str(scene.facts.get("past"))
    assert [one.message for one in caplog.records].count("plaintext refused by force") == 1


async def test_the_audit_says_who_was_cut_off_when_they_were(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    changes = delete(ALL), delete(ORDERS)

    def warned() -> int:
        return [one.message for one in caplog.records].count("plaintext refused by force")

    with pytest.raises(Conflict):
        await scene.apply(*changes)
    await scene.apply(*changes, force=True, dry_run=True)
    await scene.apply(delete(ALL), force=True)
    assert ("past" in scene.facts, warned()) == (False, 0)
    with caplog.at_level(logging.WARNING):
        await scene.apply(delete(ORDERS), force=True)
    assert (scene.facts["past"], warned()) == (
        "shop/orders.o1, port 80: plaintext 3 s ago, from an address that is not known",
        1,
    )
