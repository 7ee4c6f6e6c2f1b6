"""The client against real etcd servers whose connections, processes and quorum are taken away."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.conftest import EtcdClusterFactory, EtcdFactory
from tests.support.net import eventually
from tests.trio_etcd.proxy import Proxy
from trio_etcd import (
    Client,
    Compacted,
    EtcdError,
    LeaseLost,
    Progress,
    Put,
    StoreReplaced,
    Unavailable,
    Watch,
    open_etcd,
)


@asynccontextmanager
async def through_proxy(target: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()


async def collect(watch: Watch, last: int) -> list[int]:
    """The revisions of all batches up to `last`."""
    found: list[int] = []
    with trio.fail_after(30):
        while not found or found[-1] < last:
            batch = await watch.receive()
            if not isinstance(batch, Progress):
                found.append(batch.revision)
    return found


async def put_surely(client: Client, key: bytes, value: bytes) -> int:
    """Until one is acknowledged; the values are idempotent."""
    with trio.fail_after(30):
        while True:
            try:
                return (await client.put(key, value, timeout=2)).revision
            except Unavailable:
                await trio.sleep(0.02)


async def test_nothing_is_lost_or_doubled_through_many_cuts(etcd_endpoint: str, etcd_prefix: str) -> None:
    prefix, rng = etcd_prefix.encode(), random.Random(7)
    async with through_proxy(etcd_endpoint) as proxy, open_etcd(etcd_endpoint) as writer:
        async with open_etcd(proxy.endpoint) as reader, reader.watch(prefix, prefix=True) as watch:
            written: list[int] = []
            done = trio.Event()

            async def write() -> None:
                for number in range(1500):
                    keys = rng.sample(range(50), rng.randint(1, 4))
                    result = await writer.txn([], [Put(prefix + b"%d" % key, b"%d" % number) for key in keys])
                    written.append(result.revision)
                done.set()

            async def cut() -> None:
                while not done.is_set():
                    await trio.sleep(rng.uniform(0.02, 0.1))
                    proxy.refusing = True
                    proxy.cut()
                    await trio.sleep(rng.uniform(0, 0.03))
                    proxy.refusing = False

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                nursery.start_soon(cut)
            seen = await collect(watch, written[-1])
            assert seen == written
            assert proxy.accepted > 5


async def test_kill_and_restart(etcd_factory: EtcdFactory) -> None:
    server = await etcd_factory()
    async with open_etcd(server.endpoint) as client, client.watch(b"/k/", prefix=True) as watch:
        first = (await client.put(b"/k/a", b"1")).revision
        assert await collect(watch, first) == [first]
        state = watch.link.state
        await server.kill()
        with trio.fail_after(10):
            state = await watch.link.wait_change(state)
        assert not state.connected
        assert state.error is not None
        with pytest.raises(Unavailable):
            await client.get(b"/k/a", timeout=0.5)
        await server.start()
        second = await put_surely(client, b"/k/a", b"2")
        assert (await collect(watch, second))[-1] == second
        assert watch.link.state.connected


async def test_a_frozen_server_is_noticed_and_left(etcd_cluster: EtcdClusterFactory) -> None:
    members = await etcd_cluster(3)
    async with open_etcd([member.endpoint for member in members]) as client:
        async with client.watch(b"/f/", prefix=True) as watch:
            used = watch.link.state.endpoint
            frozen = next(member for member in members if member.endpoint == used)
            frozen.pause()
            try:
                # Calls give up on it at once; the stream is cut when its pings stay unanswered (10 + 5 s).
                with trio.fail_after(10):
                    assert await client.get(b"/f/a") is None
                last = await put_surely(client, b"/f/a", b"1")
                with trio.fail_after(25):
                    assert (await watch.receive()).revision == last
                assert watch.link.state.endpoint != used
            finally:
                frozen.resume()


async def test_the_leader_is_killed_while_writing(etcd_cluster: EtcdClusterFactory) -> None:
    members = await etcd_cluster(3)
    async with open_etcd([member.endpoint for member in members]) as client:
        async with client.watch(b"/l/", prefix=True) as watch:
            acknowledged = [await put_surely(client, b"/l/%d" % number, b"v") for number in range(50)]
            leader = (await client.status()).leader
            for member in members:
                if (await client.status(member.endpoint)).member_id == leader:
                    await member.kill()
            acknowledged += [await put_surely(client, b"/l/%d" % number, b"v") for number in range(50, 100)]
            seen = await collect(watch, acknowledged[-1])
            assert seen == sorted(set(seen))
            assert set(acknowledged) <= set(seen)
            assert len((await client.list(b"/l/")).kvs) == 100


async def test_lost_quorum_is_noticed_and_survived(etcd_cluster: EtcdClusterFactory) -> None:
    members = await etcd_cluster(3)
    async with open_etcd(members[0].endpoint) as client:
        async with client.watch(b"/q/", prefix=True) as watch:
            await members[1].kill()
            await members[2].kill()
            state = watch.link.state
            assert state.connected
            with trio.fail_after(10):
                state = await watch.link.wait_change(state)
            assert not state.connected
            with pytest.raises(EtcdError) as caught:
                await client.put(b"/q/a", b"1", timeout=1)
            assert caught.value.maybe_applied
            members[1].spawn()
            await members[1].wait_healthy()
            last = await put_surely(client, b"/q/a", b"2")
            assert (await collect(watch, last))[-1] == last


async def test_revisions_larger_than_a_message_arrive_whole(etcd_endpoint: str, etcd_prefix: str) -> None:
    prefix = etcd_prefix.encode()
    async with open_etcd(etcd_endpoint) as client:
        first = (await client.put(prefix + b"start", b"")).revision
        expected = []
        for number in range(6):  # each transaction is near the limit of one request, together they are 8 MB
            ops = [Put(prefix + b"%d/%d" % (number, part), bytes([part]) * 14_000) for part in range(96)]
            expected.append(((await client.txn([], ops)).revision, 96))
        async with client.watch(prefix, prefix=True, start_revision=first + 1) as watch:
            with trio.fail_after(20):
                batches = [await watch.receive() for _ in expected]
        assert [(batch.revision, len(batch.events)) for batch in batches] == expected
        listing = await client.list(prefix, timeout=20)
        assert len(listing.kvs) == 6 * 96 + 1


async def test_a_listing_larger_than_one_message_shrinks_its_pages(etcd_endpoint: str, etcd_prefix: str) -> None:
    prefix, count = etcd_prefix.encode(), 40
    async with open_etcd(etcd_endpoint) as client:
        for number in range(count):
            await client.put(prefix + b"%02d" % number, bytes(1_000_000))
        listing = await client.list(prefix, timeout=30)  # 40 MB, above the 32 MiB that one message may have
        assert len(listing.kvs) == count
        await client.delete_prefix(prefix)


async def test_a_watch_that_fell_behind_resumes_after_a_cut_too(etcd_endpoint: str, etcd_prefix: str) -> None:
    prefix = etcd_prefix.encode()
    async with through_proxy(etcd_endpoint) as proxy, open_etcd(proxy.endpoint) as client:
        async with client.watch(prefix, prefix=True, buffer_events=50) as watch, open_etcd(etcd_endpoint) as writer:
            written = []
            for number in range(400):
                ops = [Put(prefix + b"%d" % part, b"%d" % number) for part in range(5)]
                written.append((await writer.txn([], ops)).revision)
                if number == 200:
                    proxy.cut()
            assert await collect(watch, written[-1]) == written


async def test_progress_asked_while_falling_behind_skips_nothing(etcd_endpoint: str, etcd_prefix: str) -> None:
    """etcd answers "created" ahead of progress that waits behind events: such progress is about earlier watches."""
    prefix = etcd_prefix.encode()
    async with open_etcd(etcd_endpoint) as client, open_etcd(etcd_endpoint) as writer:
        first = (await writer.put(prefix + b"start", b"")).revision
        written = []
        for _ in range(50):  # 5,000 events in 3.3 MB: etcd takes its time to split them
            ops = [Put(prefix + b"%d" % part, bytes(600)) for part in range(100)]
            written.append((await writer.txn([], ops)).revision)
        async with client.watch(prefix, prefix=True, start_revision=first + 1, buffer_events=100) as watch:

            async def ask() -> None:
                while True:
                    watch.request_progress()
                    await trio.sleep(0.01)

            seen: list[int] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                with trio.fail_after(20):
                    while not seen or seen[-1] < written[-1]:
                        seen.append((await watch.receive()).revision)
                nursery.cancel_scope.cancel()
        assert seen == written


async def test_a_quiet_watch_survives_compaction_elsewhere(etcd_factory: EtcdFactory) -> None:
    server = await etcd_factory()
    async with open_etcd(server.endpoint) as client, client.watch(b"/quiet/", prefix=True, progress=True) as watch:
        last = 0
        for _ in range(50):
            last = (await client.put(b"/noise", b"x")).revision
        with trio.fail_after(10):
            while watch.next_revision <= last:
                watch.request_progress()
                await watch.receive()
        await client.compact(last)
        state = watch.link.state
        await server.restart(kill=True)
        while not (state := await watch.link.wait_change(state)).connected:
            pass
        written = await put_surely(client, b"/quiet/a", b"1")
        assert (await collect(watch, written)) == [written]


async def test_compaction_of_what_was_missed_is_told(etcd_factory: EtcdFactory) -> None:
    server = await etcd_factory()
    async with through_proxy(server.endpoint) as proxy, open_etcd(server.endpoint) as writer:
        async with open_etcd(proxy.endpoint) as client, client.watch(b"/c/", prefix=True) as watch:
            proxy.refusing = True
            proxy.cut()
            for number in range(5):
                last = (await writer.put(b"/c/a", b"%d" % number)).revision
            await writer.compact(last)
            proxy.refusing = False
            with trio.fail_after(15), pytest.raises(Compacted) as caught:
                await watch.receive()
            assert caught.value.compact_revision == last


async def test_a_store_that_lost_its_revisions_is_told(etcd_factory: EtcdFactory) -> None:
    full, empty = await etcd_factory(), await etcd_factory()
    async with open_etcd(full.endpoint) as writer:
        for number in range(20):
            last = (await writer.put(b"/r/a", b"%d" % number)).revision
    # Resuming after what another store had: the same cluster put back, as far as a client can see.
    async with open_etcd(empty.endpoint) as client:
        async with client.watch(b"/r/", prefix=True, start_revision=last + 1) as watch:
            with trio.fail_after(10), pytest.raises(StoreReplaced):
                await watch.receive()


async def test_a_lease_survives_cuts_and_is_lost_when_nobody_answers(etcd_endpoint: str, etcd_prefix: str) -> None:
    key = etcd_prefix.encode() + b"a"
    async with through_proxy(etcd_endpoint) as proxy, open_etcd(etcd_endpoint) as other:
        async with open_etcd(proxy.endpoint) as client:
            granted = await client.grant(2)
            await client.put(key, b"1", lease=granted.id)
            async with client.keep_alive(granted.id, granted.ttl) as kept:
                for _ in range(6):
                    await trio.sleep(0.6)
                    proxy.cut()
                assert kept.lost is None
                assert await other.get(key) is not None
                proxy.refusing = True
                proxy.cut()
                with trio.fail_after(10):
                    lost = await kept.wait_lost()
                assert isinstance(lost, LeaseLost)
                assert trio.current_time() >= kept.alive_until

                async def gone() -> bool:
                    return await other.get(key) is None

                await eventually("the key of the lost lease is gone", gone)
