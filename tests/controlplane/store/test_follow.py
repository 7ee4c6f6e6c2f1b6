from __future__ import annotations

import trio

import trio_etcd
from controlplane.store.boards import ConfigClock, StatusBoard
from controlplane.store.etcd import Store
from controlplane.store.follow import follow
from controlplane.store.version import judge
from schemas import codec
from schemas.keys import Keyspace, StatusRef
from schemas.records import SidecarStatus
from tests.conftest import EtcdFactory
from tests.support.net import eventually
from trio_etcd import Event, KeyValue, Listing, WatchBatch

REF = StatusRef("shop", "orders.a")
STATUS = SidecarStatus(
    service="orders", namespace="shop", instance="a", applied_revision=1, acked_revision=1, svid_expires=0
)


async def test_a_board_through_a_restart_of_etcd(etcd_factory: EtcdFactory) -> None:
    etcd = await etcd_factory()
    keyspace = Keyspace()
    board, clock = StatusBoard(keyspace), ConfigClock()
    gone = StatusRef("shop", "gone.a")
    async with trio_etcd.open_etcd(etcd.endpoint) as client, trio.open_nursery() as nursery:
        store = Store(client, keyspace)
        await client.put(keyspace.status(gone), codec.encode(STATUS))
        nursery.start_soon(follow, store, keyspace.statuses(), board)
        nursery.start_soon(follow, store, keyspace.config(), clock)
        await board.synced.wait()
        assert board.refs() == [gone]
        with board.subscribe() as subscription:
            await client.put(keyspace.status(REF), codec.encode(STATUS))
            with trio.fail_after(5):
                assert await subscription.take() == {REF}
            assert board.status(REF) == STATUS
            await etcd.restart(kill=True)
            async with trio_etcd.open_etcd(etcd.endpoint) as other:
                await other.delete(keyspace.status(gone))
                revision = (await other.put(keyspace.config() + b"Service/shop/orders", b"x")).revision
                await other.compact(revision, physical=True)
            await eventually("the deletion is seen", lambda: board.refs() == [REF])
            assert gone in await subscription.take()
        await eventually("the configuration's revision is seen", lambda: clock.revision == revision)
        await client.put(keyspace.statuses() + b"foreign", b"a key of another shape")
        await client.put(keyspace.status(REF), b"\xc1")
        await eventually("an unreadable status", lambda: board.status(REF) is None)
        assert board.stored(REF) is not None
        assert board.refs() == [REF]
        nursery.cancel_scope.cancel()


def test_the_configurations_revision() -> None:
    clock = ConfigClock()
    clock.listed(Listing(20, (KeyValue(b"a", b"", 7), KeyValue(b"b", b"", 12))))
    assert clock.revision == 12
    clock.changed(WatchBatch(25, (Event(KeyValue(b"b", b"", 25), deleted=True),)))
    assert clock.revision == 25
    clock.listed(Listing(30, (KeyValue(b"a", b"", 7),)))  # listed again after a cut
    assert clock.revision == 25
    clock.listed(Listing(9, (KeyValue(b"a", b"", 7),)))  # restored from an old snapshot
    assert clock.revision == 7


def test_versions() -> None:
    assert judge((3, 5, 29)).refuse
    assert judge((3, 4, 99)).refuse
    assert judge((3, 6, 10)).refuse
    for version in ((3, 5, 30), (3, 6, 11), (3, 7, 0)):
        assert not judge(version).refuse
        assert "GHSA-xg4h" in judge(version).warn
    for version in ((3, 5, 33), (3, 6, 14), (3, 7, 1), (3, 8, 0), (4, 0, 0)):
        assert judge(version).refuse == judge(version).warn == ""
