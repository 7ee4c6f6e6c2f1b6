"""What the client promises of etcd, run against the real one and against the fake: they must agree.

Every test writes below its own prefix and ends by itself; those that compact or count revisions say so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio

from tests.fakes.etcd import FakeEtcd
from trio_etcd import (
    Client,
    Compacted,
    Compare,
    Delete,
    DeleteResult,
    FutureRevision,
    Get,
    InvalidRequest,
    LeaseLost,
    LeaseNotFound,
    Progress,
    Put,
    PutResult,
    RangeResult,
    Relation,
    RequestTooLarge,
    Target,
    TooManyOperations,
    Watch,
    WatchBatch,
    open_etcd,
)

Open = Callable[[], AbstractAsyncContextManager[Client]]


@pytest.fixture(params=["real", "fake"])
def real_endpoint(request: pytest.FixtureRequest) -> str | None:
    """Where the real etcd is; None for the fake. Not async, because the server's fixture runs trio itself."""
    if request.param == "fake":
        return None
    endpoint: str = request.getfixturevalue("etcd_endpoint")
    return endpoint


@pytest.fixture
async def opened(real_endpoint: str | None) -> AsyncIterator[Open]:
    """Opens clients of one store, as many as wanted."""
    if real_endpoint is not None:
        endpoint = real_endpoint
        yield lambda: open_etcd(endpoint)
        return
    fake = FakeEtcd()

    @asynccontextmanager
    async def open_fake() -> AsyncIterator[Client]:
        async with open_etcd(list(fake.endpoints), connect=fake.connect) as client:
            yield client

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.run)
        yield open_fake
        nursery.cancel_scope.cancel()


@pytest.fixture
async def etcd(opened: Open) -> AsyncIterator[Client]:
    async with opened() as client:
        yield client


@pytest.fixture
def prefix(etcd_prefix: str) -> bytes:
    return etcd_prefix.encode()


async def receive(watch: Watch, count: int) -> list[WatchBatch]:
    """The next batches with events."""
    found: list[WatchBatch] = []
    with trio.fail_after(10):
        while len(found) < count:
            batch = await watch.receive()
            if not isinstance(batch, Progress):
                found.append(batch)
    return found


def summary(batch: WatchBatch) -> list[tuple[bytes, bytes | None]]:
    return [(event.kv.key, None if event.deleted else event.kv.value) for event in batch.events]


# --- keys ---


async def test_put_get_delete(etcd: Client, prefix: bytes) -> None:
    key = prefix + b"a"
    assert await etcd.get(key) is None
    first = await etcd.put(key, b"1")
    second = await etcd.put(key, b"2", want_previous=True)
    assert second.revision > first.revision
    assert second.previous is not None
    assert second.previous.value == b"1"
    found = await etcd.get(key)
    assert found is not None
    assert (found.value, found.version) == (b"2", 2)
    assert (found.create_revision, found.mod_revision) == (first.revision, second.revision)
    old = await etcd.get(key, revision=first.revision)
    assert old is not None
    assert old.value == b"1"
    gone = await etcd.delete(key, want_previous=True)
    assert gone.deleted == 1
    assert gone.revision == second.revision + 1 or gone.revision > second.revision
    assert [kv.value for kv in gone.previous] == [b"2"]
    assert await etcd.get(key) is None
    assert (await etcd.delete(key)).deleted == 0


async def test_values_are_any_bytes(etcd: Client, prefix: bytes) -> None:
    key, value = prefix + bytes(range(256)), bytes(range(256)) * 10
    await etcd.put(key, value)
    found = await etcd.get(key)
    assert found is not None
    assert (found.key, found.value) == (key, value)
    await etcd.put(key, b"")
    found = await etcd.get(key)
    assert found is not None
    assert found.value == b""


@pytest.mark.parametrize("page", [1, 3, 7, 100])
async def test_list_is_whole_sorted_and_of_one_revision(etcd: Client, prefix: bytes, page: int) -> None:
    names = [b"%02d" % number for number in range(7)]
    for name in reversed(names):
        last = await etcd.put(prefix + b"l/" + name, name)
    await etcd.put(prefix + b"l0", b"a neighbour: not below the prefix")
    listing = await etcd.list(prefix + b"l/", page=page)
    assert [kv.key for kv in listing.kvs] == [prefix + b"l/" + name for name in names]
    assert listing.revision > last.revision
    pinned = await etcd.list(prefix + b"l/", page=page, revision=last.revision - 1)
    assert pinned.revision == last.revision - 1
    assert len(pinned.kvs) == 6


async def test_range_limits_counts_and_leaves_values_out(etcd: Client, prefix: bytes) -> None:
    for name in (b"a", b"b", b"c"):
        await etcd.put(prefix + name, b"v")
    part = await etcd.range(prefix + b"a", prefix + b"z", limit=2)
    assert ([kv.key[-1:] for kv in part.kvs], part.more, part.count) == ([b"a", b"b"], True, 3)
    counted = await etcd.range(prefix + b"a", prefix + b"z", count_only=True)
    assert (counted.kvs, counted.count) == ((), 3)
    bare = await etcd.range(prefix + b"a", prefix + b"z", keys_only=True)
    assert [kv.value for kv in bare.kvs] == [b"", b"", b""]


async def test_delete_prefix_is_one_revision(etcd: Client, prefix: bytes) -> None:
    for name in (b"d/1", b"d/2", b"e/1"):
        await etcd.put(prefix + name, b"v")
    async with etcd.watch(prefix, prefix=True) as watch:
        assert (await etcd.delete_prefix(prefix + b"d/")).deleted == 2
        (batch,) = await receive(watch, 1)
    assert summary(batch) == [(prefix + b"d/1", None), (prefix + b"d/2", None)]
    assert [kv.key for kv in (await etcd.list(prefix)).kvs] == [prefix + b"e/1"]


async def test_a_revision_that_has_not_happened(etcd: Client, prefix: bytes) -> None:
    with pytest.raises(FutureRevision):
        await etcd.get(prefix + b"x", revision=1 << 40)


# --- transactions ---


async def test_txn_chooses_its_branch_and_answers_each_operation(etcd: Client, prefix: bytes) -> None:
    a, b = prefix + b"a", prefix + b"b"
    made = await etcd.txn([Compare.absent(a)], [Put(a, b"1"), Put(b, b"1"), Get(a)], [Get(a)])
    assert made.succeeded
    put_a, put_b, got = made.results
    assert put_a == put_b == PutResult(made.revision)
    assert isinstance(got, RangeResult)
    assert [(kv.value, kv.mod_revision) for kv in got.kvs] == [(b"1", made.revision)]
    again = await etcd.txn([Compare.absent(a)], [Put(a, b"2")], [Get.prefix(prefix), Delete(b, want_previous=True)])
    assert not again.succeeded
    listed, deleted = again.results
    assert isinstance(listed, RangeResult)
    assert [kv.key for kv in listed.kvs] == [a, b]
    assert isinstance(deleted, DeleteResult)
    assert [kv.value for kv in deleted.previous] == [b"1"]
    assert await etcd.get(b) is None


async def test_compares(etcd: Client, prefix: bytes) -> None:
    key, missing = prefix + b"k", prefix + b"missing"
    written = await etcd.put(key, b"5")
    true = [
        Compare.present(key),
        Compare.absent(missing),
        Compare.unchanged(key, written.revision),
        Compare.unchanged(missing, 0),
        Compare.value_is(key, b"5"),
        Compare(key, Target.VALUE, b"4", Relation.GREATER),
        Compare(key, Target.VERSION, 1),
        Compare(key, Target.VERSION, 2, Relation.LESS),
        Compare(key, Target.MOD, 0, Relation.NOT_EQUAL),
        Compare(key, Target.LEASE, 0),
        Compare(prefix, Target.CREATE, 0, Relation.GREATER, range_end=prefix + b"\xff"),
    ]
    assert (await etcd.txn(true, [])).succeeded
    false = [
        Compare.absent(key),
        Compare.present(missing),
        Compare.unchanged(key, written.revision - 1),
        Compare.value_is(key, b"6"),
        Compare.value_is(missing, b""),
        Compare(key, Target.VERSION, 1, Relation.GREATER),
    ]
    for compare in false:
        assert not (await etcd.txn([compare], [])).succeeded, compare


async def test_the_loser_of_a_race_writes_nothing(opened: Open, prefix: bytes) -> None:
    key = prefix + b"counter"
    won: list[int] = []

    async with opened() as one, opened() as two:
        start = (await one.put(key, b"0")).revision

        async def add(client: Client) -> None:
            for _ in range(20):
                found = await client.get(key)
                assert found is not None
                value = int(found.value) + 1
                done = await client.txn([Compare.unchanged(key, found.mod_revision)], [Put(key, b"%d" % value)])
                if done.succeeded:
                    won.append(value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, one)
            nursery.start_soon(add, two)
        final = await one.get(key)
    assert final is not None
    assert sorted(won) == list(range(1, int(final.value) + 1))
    assert final.version == len(won) + 1
    assert final.create_revision == start


async def test_limits_are_refused_and_nothing_is_written(etcd: Client, prefix: bytes) -> None:
    many = [Put(prefix + b"%03d" % number, b"v") for number in range(129)]
    with pytest.raises(TooManyOperations) as caught:
        await etcd.txn([], many)
    assert not caught.value.maybe_applied
    with pytest.raises(RequestTooLarge):
        await etcd.put(prefix + b"big", bytes(1600 * 1024))
    with pytest.raises(InvalidRequest):
        await etcd.txn([], [Put(prefix + b"same", b"1"), Put(prefix + b"same", b"2")])
    assert (await etcd.list(prefix)).kvs == ()


# --- watches ---


async def test_watch_sees_each_revision_whole_and_in_order(etcd: Client, prefix: bytes) -> None:
    async with etcd.watch(prefix, prefix=True) as watch:
        put = await etcd.put(prefix + b"a", b"1")
        both = await etcd.txn([], [Put(prefix + b"a", b"2"), Put(prefix + b"b", b"2")])
        await etcd.put(prefix[:-1], b"outside")
        gone = await etcd.delete(prefix + b"a")
        batches = await receive(watch, 3)
    assert [batch.revision for batch in batches] == [put.revision, both.revision, gone.revision]
    assert [summary(batch) for batch in batches] == [
        [(prefix + b"a", b"1")],
        [(prefix + b"a", b"2"), (prefix + b"b", b"2")],
        [(prefix + b"a", None)],
    ]


async def test_watch_from_the_past_and_with_previous_values(etcd: Client, prefix: bytes) -> None:
    first = await etcd.put(prefix + b"a", b"1")
    await etcd.put(prefix + b"a", b"2")
    async with etcd.watch(prefix + b"a", start_revision=first.revision, want_previous=True) as watch:
        one, two = await receive(watch, 2)
        assert watch.next_revision > two.revision
    assert one.events[0].previous is None
    assert two.events[0].previous is not None
    assert two.events[0].previous.value == b"1"


async def test_watch_of_one_key_and_of_a_range(etcd: Client, prefix: bytes) -> None:
    async with (
        etcd.watch(prefix + b"b") as single,
        etcd.watch(prefix + b"b", range_end=prefix + b"d") as ranged,
    ):
        for name in (b"a", b"b", b"c", b"d"):
            await etcd.put(prefix + name, name)
        assert [summary(batch) for batch in await receive(single, 1)] == [[(prefix + b"b", b"b")]]
        assert [batch.events[0].kv.key[-1:] for batch in await receive(ranged, 2)] == [b"b", b"c"]


async def test_list_then_watch_misses_and_repeats_nothing(opened: Open, prefix: bytes) -> None:
    async with opened() as writer, opened() as reader, trio.open_nursery() as nursery:

        async def write() -> None:
            for number in range(100):
                await writer.put(prefix + b"%d" % (number % 10), b"%d" % number)

        nursery.start_soon(write)
        while len((await reader.list(prefix)).kvs) < 5:
            await trio.lowlevel.checkpoint()
        listing = await reader.list(prefix)
        view = {kv.key: kv.value for kv in listing.kvs}
        seen = sum(kv.version for kv in listing.kvs)
        async with reader.watch(prefix, prefix=True, start_revision=listing.revision + 1) as watch:
            for batch in await receive(watch, 100 - seen):
                view.update({event.kv.key: event.kv.value for event in batch.events})
        assert view == {kv.key: kv.value for kv in (await reader.list(prefix)).kvs}


async def test_watch_of_compacted_history_raises(etcd: Client, prefix: bytes) -> None:
    first = await etcd.put(prefix + b"a", b"1")
    last = await etcd.put(prefix + b"a", b"2")
    await etcd.compact(last.revision)
    with trio.fail_after(5):
        async with etcd.watch(prefix, prefix=True, start_revision=first.revision) as watch:
            with pytest.raises(Compacted) as caught:
                await watch.receive()
    assert caught.value.compact_revision == last.revision
    with pytest.raises(Compacted):
        await etcd.get(prefix + b"a", revision=first.revision)
    async with etcd.watch(prefix, prefix=True, start_revision=last.revision) as watch:
        assert [batch.revision for batch in await receive(watch, 1)] == [last.revision]


async def test_progress_only_for_those_who_asked(etcd: Client, prefix: bytes) -> None:
    async with (
        etcd.watch(prefix + b"quiet/", prefix=True, progress=True) as told,
        etcd.watch(prefix + b"quiet/", prefix=True) as silent,
    ):
        elsewhere = await etcd.put(prefix + b"noise", b"v")
        with trio.fail_after(5):
            while True:
                told.request_progress()
                with trio.move_on_after(0.2):
                    batch = await told.receive()
                    assert isinstance(batch, Progress)
                    if batch.revision >= elsewhere.revision:
                        break
        assert silent.next_revision > elsewhere.revision
        assert silent.receive_buffered() == []
        assert told.link.state.connected
        assert told.link.seconds_silent() is not None


async def test_a_slow_reader_loses_nothing_and_holds_nobody_up(etcd: Client, prefix: bytes) -> None:
    async with (
        etcd.watch(prefix, prefix=True, buffer_events=4) as slow,
        etcd.watch(prefix, prefix=True) as fast,
    ):
        revisions = [(await etcd.put(prefix + b"k", b"%d" % number)).revision for number in range(60)]
        assert [batch.revision for batch in await receive(fast, 60)] == revisions
        assert len(slow.receive_buffered()) < 60
        rest = await receive(slow, 1)
        while rest[-1].revision < revisions[-1]:
            rest += await receive(slow, 1)
        assert [batch.revision for batch in rest] == revisions[-len(rest) :]


async def test_a_paused_watch_resumes_with_the_next_revision(etcd: Client, prefix: bytes) -> None:
    async with etcd.watch(prefix, prefix=True, buffer_events=4) as slow:
        revisions = []
        for number in range(40):
            done = await etcd.txn([], [Put(prefix + b"%d" % part, b"%d" % number) for part in range(3)])
            revisions.append(done.revision)
        batches = await receive(slow, 40)
    assert [batch.revision for batch in batches] == revisions
    assert all(len(batch.events) == 3 for batch in batches)


async def test_many_watches_on_one_client_are_independent(etcd: Client, prefix: bytes) -> None:
    heard: dict[int, list[bytes]] = {number: [] for number in range(20)}

    async def listen(number: int, task_status: trio.TaskStatus[None]) -> None:
        async with etcd.watch(prefix + b"%d/" % number, prefix=True) as watch:
            task_status.started()
            for batch in await receive(watch, 3):
                heard[number].append(batch.events[0].kv.value)

    async with trio.open_nursery() as nursery:
        for number in heard:
            await nursery.start(listen, number)
        for round_ in range(3):
            for number in heard:
                await etcd.put(prefix + b"%d/x" % number, b"%d" % round_)
    assert heard == {number: [b"0", b"1", b"2"] for number in heard}


# --- leases ---


async def test_revoking_a_lease_deletes_its_keys_at_one_revision(etcd: Client, prefix: bytes) -> None:
    granted = await etcd.grant(60)
    await etcd.put(prefix + b"a", b"1", lease=granted.id)
    await etcd.txn([], [Put(prefix + b"b", b"1", lease=granted.id)])
    status = await etcd.lease_status(granted.id, want_keys=True)
    assert sorted(status.keys) == [prefix + b"a", prefix + b"b"]  # in no order
    assert 0 < status.ttl <= status.granted_ttl == granted.ttl
    async with etcd.watch(prefix, prefix=True) as watch:
        await etcd.revoke(granted.id)
        (batch,) = await receive(watch, 1)
    assert sorted(summary(batch)) == [(prefix + b"a", None), (prefix + b"b", None)]
    assert (await etcd.lease_status(granted.id)).ttl == -1
    with pytest.raises(LeaseNotFound):
        await etcd.revoke(granted.id)
    with pytest.raises(LeaseNotFound):
        await etcd.put(prefix + b"a", b"1", lease=granted.id)


async def test_all_leases_are_listed(etcd: Client) -> None:
    granted = {(await etcd.grant(60)).id for _ in range(3)}
    assert granted <= set(await etcd.leases())
    for one in granted:
        await etcd.revoke(one)
    assert not granted & set(await etcd.leases())


async def test_a_lease_lives_for_its_body_and_no_longer(etcd: Client, prefix: bytes) -> None:
    async with etcd.lease(1) as lease:
        await etcd.put(prefix + b"a", b"1", lease=lease.id)
        await trio.sleep(2.5)
        assert await etcd.get(prefix + b"a") is not None
        assert lease.alive_until > trio.current_time()
    assert await etcd.get(prefix + b"a") is None


async def test_a_lease_that_is_lost_ends_its_body(etcd: Client, prefix: bytes) -> None:
    async def hold() -> None:
        async with etcd.lease(2) as lease:
            await etcd.revoke(lease.id)
            await trio.sleep_forever()

    with pytest.raises(LeaseLost), trio.fail_after(5):
        await hold()


async def test_somebody_elses_lease_is_kept_alive_and_not_revoked(opened: Open, prefix: bytes) -> None:
    async with opened() as granter, opened() as keeper:
        granted = await granter.grant(1)
        await granter.put(prefix + b"a", b"1", lease=granted.id)
        async with keeper.keep_alive(granted.id, granted.ttl) as kept:
            await trio.sleep(2.5)
            assert kept.lost is None
            assert await granter.get(prefix + b"a") is not None
        assert (await granter.lease_status(granted.id)).ttl >= 0
        async with granter.watch(prefix + b"a") as watch:  # nobody beats any more: it expires
            (batch,) = await receive(watch, 1)
            assert batch.events[0].deleted


async def test_keeping_a_lease_that_does_not_exist(etcd: Client) -> None:
    async with etcd.keep_alive(0x7ABCDEF, 1.5) as kept:
        with trio.fail_after(5):
            lost = await kept.wait_lost()
    assert "no longer" in str(lost)
