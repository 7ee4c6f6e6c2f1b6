"""Whatever is written and whatever breaks, a follower's view ends equal to the store, revision by revision."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.fakes.etcd import FakeEtcd
from trio_etcd import Client, Compacted, Delete, Put, open_etcd

PREFIX = b"/p/"
KEYS = [PREFIX + b"%d" % number for number in range(5)] + [b"/other/1", b"/other/2"]

key_lists = st.lists(st.sampled_from(KEYS), unique=True, min_size=1, max_size=5)
writes = st.tuples(st.just("write"), key_lists, st.booleans())
faults = st.sampled_from(
    [("cut",), ("cut held",), ("compact",), ("pause",), ("move",), ("stop",), ("start",), ("hold",), ("release",)]
)
steps = st.lists(st.one_of(writes, writes, faults), max_size=40)


class Follower:
    """Lists, watches from there, lists again when told to; checks each batch as it comes."""

    def __init__(self) -> None:
        self.view: dict[bytes, bytes] = {}
        self.revision = 0
        self.batches: list[tuple[int, tuple[bytes, ...]]] = []

    async def run(self, client: Client) -> None:
        while True:
            listing = await client.list(PREFIX, page=2, timeout=60)
            assert listing.revision >= self.revision
            self.view = {kv.key: kv.value for kv in listing.kvs}
            self.revision = listing.revision
            try:
                async with client.watch(
                    PREFIX, prefix=True, start_revision=listing.revision + 1, buffer_events=3, progress=True, timeout=60
                ) as watch:
                    async for batch in watch:
                        if not batch.events:
                            self.revision = max(self.revision, batch.revision)
                            continue
                        assert batch.revision > self.revision
                        assert {event.kv.mod_revision for event in batch.events} == {batch.revision}
                        self.revision = batch.revision
                        self.batches.append((batch.revision, tuple(event.kv.key for event in batch.events)))
                        for event in batch.events:
                            if event.deleted:
                                self.view.pop(event.kv.key, None)
                            else:
                                self.view[event.kv.key] = event.kv.value
            except Compacted:
                continue


async def replay(todo: list[Any], fragment: int, seed: int) -> None:
    fake = FakeEtcd(endpoints=("a:1", "b:1"), fragment_events=fragment)
    rng = random.Random(seed)
    follower = Follower()
    truth: dict[int, tuple[bytes, ...]] = {}
    number = 0
    async with open_etcd(["a:1", "b:1"], connect=fake.connect, rng=rng, progress_every=20) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run, client)
            writer = fake.store  # the writer is beside the faults: what it does has happened
            for step in todo:
                await trio.sleep(rng.choice([0, 0, 0.01, 1]))
                match step:
                    case ("write", keys, delete):
                        number += 1
                        before = writer.revision
                        ops = [Delete(key) if delete else Put(key, b"%d" % number) for key in keys]
                        writer.txn(_txn(ops))
                        if writer.revision > before:
                            watched = writer.events_since(writer.revision, PREFIX, b"/p0")
                            truth.update({at: tuple(event.kv.key for event in part) for at, part in watched})
                    case ("cut",):
                        fake.cut()
                    case ("cut held",):  # in the middle of what is on its way
                        for stream in list(fake.streams):
                            stream.cut_after(rng.randint(0, 2))
                    case ("compact",):
                        if writer.revision > writer.compacted:
                            writer.compact(writer.revision)
                    case ("pause",):
                        await trio.sleep(30)
                    case ("move",):
                        client._watches.move()
                    case ("hold",):  # until the next write or so, "created" overtakes everything
                        fake.hold_channel = True
                        client._watches.request_progress()
                    case ("release",):
                        fake.release_channel()
                    case ("stop",):
                        fake.stop(fake.endpoints[0])
                    case ("start",):
                        fake.start(fake.endpoints[0])
            fake.start(fake.endpoints[0])
            fake.release_channel()
            expected = {kv.key: kv.value for kv in writer.range(_all()).kvs}
            with trio.fail_after(300):
                # The clock jumps: waiting costs nothing.
                while follower.view != expected or follower.revision < writer.revision:  # noqa: ASYNC110
                    await trio.sleep(1)
            nursery.cancel_scope.cancel()
    revisions = [revision for revision, _ in follower.batches]
    assert revisions == sorted(set(revisions)), "each revision once, in order"
    assert all(truth[revision] == keys for revision, keys in follower.batches), "each revision whole"


def _txn(ops: list[Put | Delete]) -> Any:
    from trio_etcd import wire

    return wire.txn_request([], ops, [])


def _all() -> Any:
    from trio_etcd._proto import etcd_pb2 as pb

    return pb.RangeRequest(key=PREFIX, range_end=b"/p0")


def run(function: Callable[..., Any], *args: Any) -> None:
    trio.run(function, *args, clock=MockClock(autojump_threshold=0))


@settings(max_examples=200, deadline=None)
@given(todo=steps, fragment=st.integers(0, 3), seed=st.integers(0, 1 << 16))
def test_a_followers_view_equals_the_store(todo: list[Any], fragment: int, seed: int) -> None:
    run(replay, todo, fragment, seed)
