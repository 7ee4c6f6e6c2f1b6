"""Watches and leases when streams, members, versions and the store misbehave, on the fake and a jumping clock."""

from __future__ import annotations

import random
from contextlib import AbstractAsyncContextManager

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.etcd import FakeEtcd
from trio_etcd import (
    TLS,
    Client,
    Compacted,
    CredentialsRefused,
    DeadlineExceeded,
    LeaseLost,
    PermissionDenied,
    Progress,
    Put,
    StoreReplaced,
    Watch,
    open_etcd,
    wire,
)
from trio_etcd.link import LinkState
from trio_etcd.watch_mux import ANSWER_S

TWO = ("a:1", "b:1")


def opened(fake: FakeEtcd, **options: object) -> AbstractAsyncContextManager[Client]:
    return open_etcd(list(fake.endpoints), connect=fake.connect, rng=random.Random(1), **options)  # type: ignore[arg-type] # keywords of several types


async def until(watch: Watch, *, connected: bool) -> LinkState:
    state = watch.link.state
    with trio.fail_after(60):
        while state.connected is not connected:
            state = await watch.link.wait_change(state)
    return state


async def test_a_cut_between_fragments_resumes_at_the_revision_that_was_not_whole(autojump_clock: MockClock) -> None:
    fake = FakeEtcd(fragment_events=2)
    async with opened(fake) as client, client.watch(b"/", prefix=True) as watch:
        whole = (await client.txn([], [Put(b"/1", b"a"), Put(b"/2", b"a")])).revision
        assert (await watch.receive()).revision == whole
        ops = [Put(b"/%d" % number, b"b") for number in range(7)]
        fake.store.txn(wire.txn_request([], ops, []))
        for stream in list(fake.streams):
            stream.cut_after(2)  # four of seven events arrive, then the connection breaks
        batch = await watch.receive()
        assert (batch.revision, len(batch.events)) == (whole + 1, 7)
        assert watch.receive_buffered() == []


async def test_a_lost_leader_moves_the_watch_to_another_member(autojump_clock: MockClock) -> None:
    fake = FakeEtcd(TWO)
    async with opened(fake) as client, client.watch(b"/a") as watch:
        before = watch.link.state.endpoint
        fake.lose_leader(before)
        await until(watch, connected=False)
        state = await until(watch, connected=True)
        assert state.endpoint != before
        revision = (await client.put(b"/a", b"1")).revision
        assert (await watch.receive()).revision == revision


async def test_a_member_that_never_answers_a_create_is_left(autojump_clock: MockClock) -> None:
    fake = FakeEtcd(TWO)
    async with opened(fake) as client:
        fake.frozen.add(client.endpoints[0])
        start = trio.current_time()
        async with client.watch(b"/a", timeout=30) as watch:
            assert trio.current_time() - start < ANSWER_S + 1
            revision = (await client.put(b"/a", b"1")).revision
            assert (await watch.receive()).revision == revision


async def test_a_watch_that_nobody_accepts_ends_at_its_deadline(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    fake.stop(fake.endpoints[0])
    async with opened(fake) as client:
        with pytest.raises(DeadlineExceeded, match="connection refused"):
            async with client.watch(b"/a", timeout=3):
                pass


async def test_compaction_while_cut_off_is_raised_after_what_was_buffered(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    endpoint = fake.endpoints[0]
    async with opened(fake) as client, client.watch(b"/a") as watch:
        held = (await client.put(b"/a", b"1")).revision
        await trio.testing.wait_all_tasks_blocked()
        fake.stop(endpoint)
        for number in range(3):
            fake.store.put(_put(b"/a", b"%d" % number))
        fake.store.compact(fake.store.revision)
        fake.start(endpoint)
        assert (await watch.receive()).revision == held
        with pytest.raises(Compacted) as caught:
            await watch.receive()
        assert caught.value.compact_revision == fake.store.revision


async def test_a_store_put_back_is_told_and_a_new_watch_works(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake) as client:
        async with client.watch(b"/a") as watch:
            for number in range(5):
                await client.put(b"/a", b"%d" % number)
            with trio.fail_after(30):
                while watch.next_revision <= fake.store.revision:
                    await watch.receive()
            watch.receive_buffered()
            fake.restore()
            with pytest.raises(StoreReplaced):
                await watch.receive()
        async with client.watch(b"/a") as again:
            revision = (await client.put(b"/a", b"new")).revision
            assert (await again.receive()).revision == revision


async def test_another_cluster_behind_the_same_address_is_told(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake) as client:
        async with client.watch(b"/a") as watch:
            fake.cluster_id += 1
            fake.cut()
            with pytest.raises(StoreReplaced, match="cluster id"):
                await watch.receive()
        async with client.watch(b"/a") as again:
            revision = (await client.put(b"/a", b"new")).revision
            assert (await again.receive()).revision == revision


async def test_permission_taken_away_is_raised_at_the_next_resume(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake) as client, client.watch(b"/a") as watch, client.watch(b"/b") as other:
        fake.denied.add(b"/a")
        fake.cut()
        with pytest.raises(PermissionDenied):
            await watch.receive()
        revision = (await client.put(b"/b", b"1")).revision
        assert (await other.receive()).revision == revision


async def test_credentials_refused_at_a_reconnect_end_the_watch(autojump_clock: MockClock) -> None:
    good = True
    fake = FakeEtcd(TWO, accepts=lambda tls: good)
    async with opened(fake, tls=TLS(b"ca")) as client, client.watch(b"/a") as watch:
        good = False
        fake.cut()
        with trio.fail_after(60), pytest.raises(CredentialsRefused):
            await watch.receive()


@pytest.mark.parametrize(("version", "asks"), [("3.4.34", False), ("3.5.12", False), ("3.5.13", True), ("3.6.0", True)])
async def test_progress_is_asked_only_where_answers_do_not_overtake_events(
    autojump_clock: MockClock, version: str, asks: bool
) -> None:
    fake = FakeEtcd(version=version)
    async with opened(fake, progress_every=60) as client:
        async with client.watch(b"/quiet", progress=True) as watch:
            await client.put(b"/noise", b"1")
            with trio.move_on_after(200):
                batch = await watch.receive()
                while batch.revision < fake.store.revision:
                    batch = await watch.receive()
                assert isinstance(batch, Progress)
            assert (watch.next_revision > fake.store.revision) is asks


async def test_progress_that_speaks_of_earlier_watches_skips_nothing_of_a_new_one(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake, progress_every=1000) as client, client.watch(b"/quiet") as first:
        await trio.sleep(100)
        missed = [(await client.put(b"/late", b"%d" % number)).revision for number in range(3)]
        fake.hold_channel = True
        first.request_progress()
        await trio.testing.wait_all_tasks_blocked()
        async with client.watch(b"/late", start_revision=missed[0]) as late:  # "created" passes the answer
            fake.release_channel()
            with trio.fail_after(10):
                assert [(await late.receive()).revision for _ in missed] == missed
            await trio.sleep(100)
            assert late.next_revision == fake.store.revision + 1, "later answers do count"


async def test_silence_and_disconnection_can_be_seen(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake, progress_every=10) as client, client.watch(b"/a") as watch:
        await trio.sleep(100)
        assert watch.link.state.connected
        silent = watch.link.seconds_silent()
        assert silent is not None
        assert silent < 15
        fake.stop(fake.endpoints[0])
        state = await until(watch, connected=False)
        assert "Socket closed" in str(state.error) or "refused" in str(state.error)
        await trio.sleep(100)
        assert trio.current_time() - watch.link.state.since == pytest.approx(100, abs=1)
        silent = watch.link.seconds_silent()
        assert silent is not None
        assert silent > 99


async def test_the_stream_ends_with_the_last_watch_and_comes_back(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake) as client:
        for _ in range(2):
            async with client.watch(b"/a"), client.watch(b"/b"):
                assert len(fake.streams) == 1
            await trio.testing.wait_all_tasks_blocked()
            assert len(fake.streams) == 0


# --- leases ---


async def test_a_lease_is_kept_through_cuts_and_members(autojump_clock: MockClock) -> None:
    fake = FakeEtcd(TWO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.run)
        async with opened(fake) as client, client.lease(10) as lease:
            await client.put(b"/live", b"1", lease=lease.id)
            for _ in range(20):
                await trio.sleep(7)
                fake.cut()
            down = client.endpoints[0]
            fake.stop(down)
            await trio.sleep(100)
            assert lease.lost is None
            assert await client.get(b"/live") is not None
        nursery.cancel_scope.cancel()


async def test_a_lease_is_lost_exactly_when_it_may_be_gone(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake) as client:
        granted = await client.grant(30)
        async with client.keep_alive(granted.id, granted.ttl) as kept:
            await trio.sleep(25)
            fake.stop(fake.endpoints[0])
            until_then = kept.alive_until
            lost = await kept.wait_lost()
            assert isinstance(lost, LeaseLost)
            assert trio.current_time() == pytest.approx(until_then, abs=0.1)
            assert until_then > 40


async def test_a_member_that_stops_answering_beats_is_left_before_the_lease_ends(autojump_clock: MockClock) -> None:
    fake = FakeEtcd(TWO)
    async with opened(fake) as client:
        granted = await client.grant(30)
        async with client.keep_alive(granted.id, granted.ttl) as kept:
            await trio.sleep(15)
            fake.frozen.add(kept.link.state.endpoint)
            await trio.sleep(100)
            assert kept.lost is None


async def test_expiry_at_the_server_is_noticed_at_the_next_beat(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake) as client:
        granted = await client.grant(30)
        async with client.keep_alive(granted.id, granted.ttl) as kept:
            await trio.sleep(1)
            fake.expire_lease(granted.id)
            start = trio.current_time()
            await kept.wait_lost()
            assert trio.current_time() - start <= 10


def _put(key: bytes, value: bytes):  # type: ignore[no-untyped-def]
    from trio_etcd._proto import etcd_pb2 as pb

    return pb.PutRequest(key=key, value=value)
