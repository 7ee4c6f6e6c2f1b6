"""Who is taken out of discovery when pulses end: those that end alone, at once; those that end together, late."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

import trio_etcd
from controlplane.store.boards import StatusBoard
from controlplane.store.etcd import Store
from controlplane.store.follow import follow
from controlplane.store.leases import grant_pair, pulse_of
from controlplane.store.losses import Pulse, in_bulk
from controlplane.store.ops import Put
from controlplane.store.undertaker import Undertaker
from schemas import codec
from schemas.errors import Unavailable
from schemas.keys import EndpointRef, Keyspace, StatusRef
from schemas.names import ServiceRef
from schemas.records import Endpoint, SidecarStatus, SilentSidecar
from tests.support.net import eventually

SECONDS = 20.0  # a bound for a busy machine
LEAVES_END = 1_900_000_000


@dataclass
class Mesh:
    client: trio_etcd.Client
    store: Store
    holds: dict[str, int]

    async def add(self, *names: str, discovered: bool = True, pulse_seconds: int = 600) -> None:
        """``service.instance``; their pulses live long, until `end`."""
        for name in names:
            service, _, instance = name.partition(".")
            hold = await grant_pair(self.store, pulse_seconds)
            status = SidecarStatus(
                service=service, namespace="shop", instance=instance, applied_revision=0, acked_revision=0,
                svid_expires=0, trust_sequence=3,
            )  # fmt: skip
            puts = [Put(self.store.keyspace.status(StatusRef("shop", name)), codec.encode(status), hold)]
            if discovered:
                puts.append(Put(self._endpoint(name), codec.encode(Endpoint(address="10.0.0.1", ports={})), hold))
            await self.store.transact((), puts)
            self.holds[name] = hold

    async def end(self, *names: str) -> None:
        """Their pulses, all at once."""
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(self.client.revoke, pulse_of(self.holds[name]))

    async def left(self) -> set[str]:
        """Who still has a status."""
        keys = await self.store.list_keys(self.store.keyspace.statuses())
        return {key.rpartition(b"/")[2].decode() for key in keys}

    async def remembered(self) -> dict[str, SilentSidecar]:
        listing = await self.store.list(self.store.keyspace.silent())
        return {
            kv.key.rpartition(b"/")[2].decode(): codec.decode(kv.value, SilentSidecar, "record") for kv in listing.kvs
        }

    def _endpoint(self, name: str) -> bytes:
        service, _, instance = name.partition(".")
        return self.store.keyspace.endpoint(EndpointRef(ServiceRef("shop", service), instance))


@asynccontextmanager
async def mesh(etcd_endpoint: str, prefix: str) -> AsyncIterator[Mesh]:
    async with trio_etcd.open_etcd(etcd_endpoint) as client:
        yield Mesh(client, Store(client, Keyspace(prefix)), {})


@asynccontextmanager
async def undertaker(
    one: Mesh, keep_seconds: float = 600.0, leaves_end: Callable[[], int] = lambda: LEAVES_END
) -> AsyncIterator[StatusBoard]:
    """At work from here on: pulses that have ended before are found so, as after a start of the replica."""
    board = StatusBoard(one.store.keyspace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, one.store, one.store.keyspace.statuses(), board)
        nursery.start_soon(Undertaker(one.store, board, leaves_end, keep_seconds=keep_seconds).run)
        yield board
        nursery.cancel_scope.cancel()


NAMES = [f"orders.o{number}" for number in range(5)] + [f"web.w{number}" for number in range(5)]


async def test_one_alone_is_taken_out_at_once(etcd_endpoint: str, etcd_prefix: str) -> None:
    async with mesh(etcd_endpoint, etcd_prefix) as one:
        await one.add(*NAMES)
        await one.end("orders.o0")
        async with undertaker(one):
            await eventually("it is gone", lambda: _is(one, set(NAMES[1:])), SECONDS)
        remembered = {"orders.o0": SilentSidecar(until=LEAVES_END, trust_sequence=3, address="10.0.0.1")}
        assert await one.remembered() == remembered


@pytest.mark.fault(29)
async def test_half_at_once_are_kept_and_who_left_before_is_not(
    etcd_endpoint: str, etcd_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with mesh(etcd_endpoint, etcd_prefix) as one:
        await one.add(*NAMES)
        await one.add("web.stopped", discovered=False)
        await one.end("web.stopped", *NAMES[3:8])
        async with undertaker(one):
            # It ended together with them, and judged in the same way; but it was not in discovery any more.
            await eventually("who left is gone", lambda: _is(one, set(NAMES)), SECONDS)
            await eventually("all others are judged", lambda: kept(caplog) == set(NAMES[3:8]), SECONDS)
            assert await one.left() == set(NAMES)


@pytest.mark.fault(29)
async def test_most_of_a_service_are_kept_in_a_mesh_that_is_well(
    etcd_endpoint: str, etcd_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = [f"other.x{number}" for number in range(15)]
    async with mesh(etcd_endpoint, etcd_prefix) as one:
        await one.add("orders.o0", "orders.o1", "orders.o2", "web.w0", *others)
        await one.end("orders.o0", "orders.o1", "web.w0")
        async with undertaker(one):
            await eventually(
                "the single one is gone", lambda: _is(one, {"orders.o0", "orders.o1", "orders.o2", *others}), SECONDS
            )
            await eventually("the others are judged", lambda: kept(caplog) == {"orders.o0", "orders.o1"}, SECONDS)
            assert {"orders.o0", "orders.o1"} <= await one.left()


async def test_those_that_are_kept_go_in_the_end(etcd_endpoint: str, etcd_prefix: str) -> None:
    async with mesh(etcd_endpoint, etcd_prefix) as one:
        await one.add(*NAMES)
        await one.end(*NAMES[:5])
        async with undertaker(one, keep_seconds=0.1):
            await eventually("they are gone", lambda: _is(one, set(NAMES[5:])), SECONDS)
        assert set(await one.remembered()) == set(NAMES[:5])


async def test_nobody_goes_before_it_is_written_down_that_he_was_there(etcd_endpoint: str, etcd_prefix: str) -> None:
    asked = trio.Event()

    def leaves_end() -> int:
        if asked.is_set():
            return LEAVES_END
        asked.set()
        raise Unavailable("this replica has no CA yet")

    async with mesh(etcd_endpoint, etcd_prefix) as one:
        await one.add("orders.o0", "orders.o1", "orders.o2")
        await one.end("orders.o0")
        async with undertaker(one, leaves_end=leaves_end):
            await asked.wait()
            assert await one.left() == {"orders.o0", "orders.o1", "orders.o2"}
            await eventually("it is gone", lambda: _is(one, {"orders.o1", "orders.o2"}), SECONDS)
        assert set(await one.remembered()) == {"orders.o0"}


async def test_a_hold_that_was_given_up_for_another_is_no_leftover(etcd_endpoint: str, etcd_prefix: str) -> None:
    """An agent that starts anew gets a new pair; the old one would last a month without a key."""
    async with mesh(etcd_endpoint, etcd_prefix) as one:
        await one.add("orders.o0", pulse_seconds=1)
        async with undertaker(one) as board:
            await board.synced.wait()
            old = one.holds["orders.o0"]
            await one.add("orders.o0")

            async def gone() -> bool:
                return old not in await one.client.leases()

            await eventually("the old hold is gone", gone, SECONDS)
            assert await one.left() == {"orders.o0"}
            assert await one.remembered() == {}


def kept(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Whom the replica says that it keeps."""
    said = [record for record in caplog.records if "kept in discovery" in record.getMessage()]
    return {getattr(record, "fields")["sidecar"].rpartition("/")[2] for record in said}  # noqa: B009  (set by `event`)


async def _is(one: Mesh, names: set[str]) -> bool:
    return await one.left() == names


# -- decisions


def pulses(*left: int) -> Sequence[Pulse]:
    return [Pulse(one, 15 if one >= 0 else 0) for one in left]


@pytest.mark.parametrize(
    ("left", "bulk"),
    [
        ((-1,), False),
        ((-1, 12), False),  # half of two, and still one alone
        ((-1, -1), True),
        ((-1, 3, 14, 12, 10), True),  # cut off together: the second has not been renewed either
        ((-1, 10, 11, 12, 13), False),
        ((-1, -1, *[12] * 8), False),  # a fifth is not more than a fifth
        ((-1, -1, -1, *[12] * 8), True),
    ],
)
def test_bulk(left: tuple[int, ...], bulk: bool) -> None:
    assert in_bulk(pulses(*left), 0.2) is bulk


def test_nobody_is_no_bulk() -> None:
    assert not in_bulk((), 0.2)
