"""Writes whose answers are lost, against a real etcd."""

from __future__ import annotations

import secrets
from functools import partial

import pytest
import trio

import trio_etcd
from controlplane.store import requests
from controlplane.store.etcd import LeaseGone, MustListAgain, Store, translate
from controlplane.store.ops import Delete, KeyGuard, LeaseGuard, PrefixGuard, Put
from controlplane.store.requests import Request, RequestWriter
from schemas.errors import InvalidInput, LimitExceeded, Unavailable
from schemas.keys import Keyspace
from tests.conftest import EtcdFactory
from tests.controlplane.lossy import Faults, opened
from tests.support.net import eventually


def request(content: bytes = b"a") -> Request:
    return Request(secrets.token_hex(8), content.ljust(32))


@pytest.mark.parametrize("lost", [["answer lost"], ["request lost"], ["request lost", "answer lost", "answer lost"]])
async def test_a_write_whose_answer_is_lost_happens_once(etcd_endpoint: str, etcd_prefix: str, lost: list[str]) -> None:
    faults = Faults(list(lost))
    key = f"{etcd_prefix}x".encode()
    async with opened(etcd_endpoint, etcd_prefix, faults) as store:
        revision = await RequestWriter(store).write(request(), (KeyGuard(key, 0),), (Put(key, b"1"),), seconds=5)
        found = await store.get(key)
        assert found is not None
        assert (found.mod_revision, found.version) == (revision, 1)
        assert faults.sent == len(lost) + 1


async def test_a_write_that_can_not_be_settled_says_so_in_time(etcd_endpoint: str, etcd_prefix: str) -> None:
    faults = Faults(["request lost"] * 1000)
    asked = request()
    key = f"{etcd_prefix}x".encode()
    async with opened(etcd_endpoint, etcd_prefix, faults) as store:
        with trio.fail_after(3):
            with pytest.raises(Unavailable, match=f"ask again with request id {asked.id}") as caught:
                await RequestWriter(store).write(asked, (), (Put(key, b"1"),), seconds=0.5)
        assert caught.value.outcome_unknown
        assert faults.sent > 1
        faults.plan.clear()
        assert await RequestWriter(store).write(asked, (), (Put(key, b"1"),), seconds=5)


async def test_two_replicas_with_one_request_write_once(etcd_endpoint: str, etcd_prefix: str) -> None:
    asked = request()
    key = f"{etcd_prefix}x".encode()
    revisions: list[int | None] = []

    async def write(store: Store) -> None:
        revisions.append(await RequestWriter(store).write(asked, (), (Put(key, b"1"),), seconds=5))

    async with opened(etcd_endpoint, etcd_prefix) as one, opened(etcd_endpoint, etcd_prefix) as two:
        async with trio.open_nursery() as nursery:
            for store in (one, two) * 5:
                nursery.start_soon(write, store)
        found = await one.get(key)
        assert found is not None
        assert found.version == 1
        assert set(revisions) == {found.mod_revision}
        with pytest.raises(InvalidInput, match="used for another request"):
            await RequestWriter(two).write(Request(asked.id, b"b" * 32), (), (Put(key, b"2"),), seconds=5)


async def test_a_guard_that_does_not_hold_leaves_no_record(etcd_endpoint: str, etcd_prefix: str) -> None:
    asked = request()
    key = f"{etcd_prefix}x".encode()
    async with opened(etcd_endpoint, etcd_prefix) as store:
        writer = RequestWriter(store)
        assert await writer.write(asked, (KeyGuard(key, 7),), (Put(key, b"1"),), seconds=5) is None
        assert await writer.recorded(asked) is None
        assert await store.get(key) is None


async def test_records_go_with_a_lease_and_the_lease_is_shared(etcd_endpoint: str, etcd_prefix: str) -> None:
    async with opened(etcd_endpoint, etcd_prefix) as store:
        writer = RequestWriter(store)
        leases = set()
        for number in range(3):
            asked = request()
            await writer.write(asked, (), (Put(f"{etcd_prefix}{number}".encode(), b""),), seconds=5)
            record = await store.get(store.keyspace.request(asked.id))
            assert record is not None
            leases.add(record.lease)
        [lease] = leases
        assert requests.RECORD_SECONDS <= await store.lease_ttl(lease) <= requests.RECORD_SECONDS + 60
        async with trio_etcd.open_etcd(etcd_endpoint) as etcd:
            await etcd.revoke(lease)  # as when this replica was frozen for too long
        assert await writer.write(request(), (), (Put(f"{etcd_prefix}later".encode(), b""),), seconds=5)


async def test_what_each_guard_holds(etcd_endpoint: str, etcd_prefix: str) -> None:
    a, b = (f"{etcd_prefix}{name}".encode() for name in "ab")
    prefix = etcd_prefix.encode()
    async with opened(etcd_endpoint, etcd_prefix) as store:
        assert await store.transact((PrefixGuard(prefix, 1),), (Put(a, b"1"),))  # nothing below it yet
        revision = (await store.list(prefix)).revision
        assert await store.transact((PrefixGuard(prefix, revision - 1),), (Put(b, b""),)) is None
        assert await store.transact((PrefixGuard(prefix, revision),), (Put(b, b"1"),))
        assert await store.transact((PrefixGuard(prefix, revision),), (Put(a, b"2"),)) is None
        lease = await store.grant_lease(60)
        assert await store.transact((), (Put(a, b"3", lease),))
        assert await store.transact((LeaseGuard(a, lease),), (Delete(b),))
        assert await store.transact((LeaseGuard(a, lease + 1),), (Delete(a),)) is None
        assert await store.transact((LeaseGuard(b, lease),), (Put(b, b""),)) is None  # absent: under no lease
        with pytest.raises(LeaseGone):
            await store.transact((), (Put(a, b"4", lease + 1),))
        with pytest.raises(LimitExceeded):
            await store.transact((), [Put(f"{etcd_prefix}{number}".encode(), b"") for number in range(129)])


async def test_reading_many_keys_and_the_past(etcd_endpoint: str, etcd_prefix: str) -> None:
    faults = Faults()
    names = [f"{etcd_prefix}{number:03}".encode() for number in range(300)]
    async with opened(etcd_endpoint, etcd_prefix, faults) as store:
        for start in range(0, 300, 100):
            await store.transact((), [Put(name, name) for name in names[start : start + 100 : 2]])
        faults.plan = ["answer lost", "request lost"]
        found = await store.get_many([*names, names[0]])
        assert sorted(found) == names[::2]
        first = found[names[0]].mod_revision
        await store.transact((), (Put(names[0], b"new"),))
        assert (await store.get_at([names[0]], first))[names[0]].value == names[0]


async def test_a_watch_from_before_a_compaction(etcd_factory: EtcdFactory) -> None:
    etcd = await etcd_factory()
    async with trio_etcd.open_etcd(etcd.endpoint) as client:
        revision = [(await client.put(b"/mesh/v1/x", b"")).revision for _ in range(3)][-1]
        await client.compact(revision)
        with pytest.raises(MustListAgain):
            async with Store(client, Keyspace()).watch(b"/mesh/v1/", 1) as watch:
                await watch.receive()


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (trio_etcd.Compacted("x"), MustListAgain),
        (trio_etcd.StoreReplaced("x"), MustListAgain),
        (trio_etcd.LeaseNotFound("x"), LeaseGone),
        (trio_etcd.RequestTooLarge("x"), LimitExceeded),
        (trio_etcd.TooManyOperations("x"), LimitExceeded),
        (trio_etcd.NoSpace("x"), Unavailable),
        (trio_etcd.PermissionDenied("x"), Unavailable),
        (trio_etcd.DeadlineExceeded("x", maybe_applied=True), Unavailable),
    ],
)
def test_etcds_errors_become_ours(error: trio_etcd.EtcdError, becomes: type[Exception]) -> None:
    ours = translate(error)
    assert type(ours) is becomes
    if isinstance(ours, Unavailable):
        assert ours.outcome_unknown is error.maybe_applied


def more_than(items: list[int], count: int) -> bool:
    return len(items) > count


@pytest.mark.fault(1)
async def test_etcd_killed_again_and_again_loses_no_acknowledged_write(etcd_factory: EtcdFactory) -> None:
    """Each write puts one number into two keys: at no time may they differ, and what was acknowledged is there."""
    etcd = await etcd_factory()
    left, right = b"/mesh/v1/left", b"/mesh/v1/right"
    acknowledged: list[int] = []
    done = trio.Event()

    async def write(store: Store) -> None:
        writer = RequestWriter(store)
        number = 0
        while not done.is_set():
            number += 1
            value = str(number).encode()
            asked = request(value)
            with trio.fail_after(30):
                while True:
                    try:
                        if await writer.write(asked, (), (Put(left, value), Put(right, value)), seconds=10):
                            break
                    except Unavailable:
                        await trio.sleep(0.05)  # as a client does: again, with the same id
            acknowledged.append(number)

    async with opened(etcd.endpoint, "/mesh/v1/") as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, store)
            for _ in range(3):
                count = len(acknowledged)
                await eventually("writes go on", partial(more_than, acknowledged, count + 20))
                await etcd.restart(kill=True)
            done.set()
        found = await store.get_many([left, right])
        assert found[left].value == found[right].value == str(acknowledged[-1]).encode()
        assert found[left].version == len(acknowledged)  # each exactly once
