"""Registration: the newest state only, coalesced and retried; the lease kept alive in a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
import trio.testing

from dataplane.identity.client import Registered
from dataplane.registration import COALESCE_SECONDS, MAX_RETRY_SECONDS, Registration
from schemas import codec
from schemas.errors import Conflict, MeshError, NotFound, Unavailable
from schemas.records import Endpoint, SidecarStatus
from tests.support.net import eventually
from trio_etcd import Client, Put, open_etcd

SECONDS = 20.0  # a bound for a busy machine
ENDPOINT = Endpoint(address="127.0.0.2", ports={"http": 8080})


def status(revision: int) -> SidecarStatus:
    return SidecarStatus(
        service="orders", namespace="shop", instance="a", applied_revision=revision, acked_revision=0, svid_expires=0
    )


class Lost(Exception):
    pass


@dataclass
class FakeLeases:
    """Leases that live until a test ends them."""

    kept: dict[int, trio.Event] = field(default_factory=dict)

    @asynccontextmanager
    async def keep_alive(self, lease_id: int, ttl: float) -> AsyncIterator[FakeLease]:
        self.kept[lease_id] = trio.Event()
        yield FakeLease(self.kept[lease_id])


@dataclass
class FakeLease:
    over: trio.Event

    async def wait_lost(self) -> Exception:
        await self.over.wait()
        return Lost("etcd no longer has it")


@dataclass
class FakeReplicas:
    """Takes everything, unless `failures` has something to raise first."""

    failures: list[MeshError] = field(default_factory=list)
    said: list[tuple[float, str, int, Endpoint | None, SidecarStatus | None]] = field(default_factory=list)
    attempts: int = 0
    latency: float = 0.0
    next_lease: int = 1
    ended: set[int] = field(default_factory=set)
    """Leases that have ended: who asks to take one up again is given a new one, as by a real replica."""

    async def _call(
        self, what: str, lease: int, endpoint: Endpoint | None = None, status: SidecarStatus | None = None
    ) -> None:
        self.attempts += 1
        await trio.sleep(self.latency)
        if self.failures:
            raise self.failures.pop(0)
        self.said.append((trio.current_time(), what, lease, endpoint, status))

    async def register(
        self, instance: str, endpoint: Endpoint | None, status: SidecarStatus, ttl_seconds: int, lease_id: int = 0
    ) -> Registered:
        await self._call("register", lease_id, endpoint, status)
        if not lease_id or lease_id in self.ended:
            lease_id, self.next_lease = self.next_lease, self.next_lease + 1
        return Registered(lease_id, lease_id, ttl_seconds, 1)

    async def report(self, instance: str, lease_id: int, status: SidecarStatus) -> None:
        await self._call("report", lease_id, None, status)

    async def deregister(self, instance: str, lease_id: int) -> int:
        await self._call("deregister", lease_id)
        return 2

    def brief(self) -> list[tuple[str, int, bool, int | None]]:
        """What, lease, with an endpoint or not, applied revision."""
        return [(what, lease, bool(e), s.applied_revision if s else None) for _, what, lease, e, s in self.said]


@asynccontextmanager
async def running(replicas: FakeReplicas, leases: FakeLeases | Client) -> AsyncIterator[Registration]:
    registration = Registration(replicas, leases, "a", ttl_seconds=15, fraction=lambda: 0.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registration.run)
        yield registration
        nursery.cancel_scope.cancel()


async def test_nothing_is_sent_before_there_is_a_status(autojump_clock: trio.testing.MockClock) -> None:
    replicas = FakeReplicas()
    async with running(replicas, FakeLeases()) as registration:
        registration.set_endpoint(ENDPOINT)
        await trio.sleep(60)
        assert replicas.attempts == 0
        registration.set_status(status(1))
        await trio.testing.wait_all_tasks_blocked()
        assert replicas.brief() == [("register", 0, True, 1)]
        assert registration.registered


async def test_the_first_change_goes_at_once_and_a_burst_after_it_as_its_newest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    replicas = FakeReplicas()
    async with running(replicas, FakeLeases()) as registration:
        registration.set_status(status(1))
        await trio.sleep(1)
        began = trio.current_time()
        for revision in range(2, 12):
            registration.set_status(status(revision))
            await trio.sleep(COALESCE_SECONDS / 5)
        await trio.sleep(1)
        registration.set_status(status(11))
        await trio.sleep(1)
    reports = [(at - began, said.applied_revision) for at, what, _, _, said in replicas.said[1:] if said]
    assert reports[0] == (0, 2)
    assert reports[-1][1] == 11
    assert len(reports) == 3
    assert all(later[0] - earlier[0] >= COALESCE_SECONDS for earlier, later in pairwise(reports))


async def test_while_no_replica_answers_only_the_newest_state_waits(autojump_clock: trio.testing.MockClock) -> None:
    replicas = FakeReplicas(failures=[Unavailable("no replica answered")] * 9)
    async with running(replicas, FakeLeases()) as registration:
        registration.set_status(status(1))
        await trio.sleep(1)
        assert registration.problem == "no replica answered"
        assert not registration.registered
        registration.set_status(status(2))
        registration.set_endpoint(ENDPOINT)
        await trio.sleep(10 * MAX_RETRY_SECONDS)
        assert replicas.brief() == [("register", 0, True, 2)]
        assert replicas.attempts == 10
        assert registration.problem is None
        replicas.failures = [Unavailable("no replica answered")] * 3
        registration.set_status(status(3))
        await trio.testing.wait_all_tasks_blocked()
        registration.set_status(status(4))
        await trio.sleep(10)
    assert replicas.brief()[1:] == [("report", 1, False, 4)]


async def test_a_lost_lease_means_registering_anew(autojump_clock: trio.testing.MockClock) -> None:
    replicas, leases = FakeReplicas(), FakeLeases()
    async with running(replicas, leases) as registration:
        registration.set_endpoint(ENDPOINT)
        registration.set_status(status(1))
        await trio.testing.wait_all_tasks_blocked()
        leases.kept[1].set()
        await trio.testing.wait_all_tasks_blocked()
        assert set(leases.kept) == {1, 2}
        # A replica that does not know the lease says so too.
        replicas.failures = [NotFound("no such lease")]
        registration.set_status(status(2))
        await trio.sleep(1)
        assert set(leases.kept) == {1, 2, 3}
    assert replicas.brief() == [("register", 0, True, 1), ("register", 0, True, 1), ("register", 0, True, 2)]


async def test_an_endpoint_that_changes_is_registered_under_the_same_lease(
    autojump_clock: trio.testing.MockClock,
) -> None:
    replicas, leases = FakeReplicas(), FakeLeases()
    async with running(replicas, leases) as registration:
        registration.set_status(status(1))
        await trio.sleep(1)
        registration.set_endpoint(ENDPOINT)
        await trio.sleep(1)
    assert replicas.brief() == [("register", 0, False, 1), ("register", 1, True, 1)]
    assert set(leases.kept) == {1}


async def test_another_lease_than_was_asked_for_is_the_one_that_is_kept_alive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    replicas, leases = FakeReplicas(), FakeLeases()
    async with running(replicas, leases) as registration:
        registration.set_status(status(1))
        await trio.sleep(1)
        replicas.ended.add(1)
        registration.set_endpoint(ENDPOINT)
        await trio.sleep(1)
        registration.set_status(status(2))
        await trio.sleep(1)
        assert registration.registered
        assert set(leases.kept) == {1, 2}
        leases.kept[2].set()
        await trio.sleep(1)
    assert replicas.brief() == [
        ("register", 0, False, 1),
        ("register", 1, True, 1),
        ("report", 2, False, 2),
        ("register", 0, True, 2),
    ]


async def test_another_instance_of_the_same_name_is_a_problem_that_may_pass(
    autojump_clock: trio.testing.MockClock,
) -> None:
    replicas = FakeReplicas(failures=[Conflict("instance a is live at 127.0.0.3")] * 5)
    async with running(replicas, FakeLeases()) as registration:
        registration.set_status(status(1))
        await trio.sleep(1)
        assert registration.problem == "instance a is live at 127.0.0.3"
        await trio.sleep(60)
        assert registration.registered


async def test_withdraw_takes_it_out_and_it_stays_out(autojump_clock: trio.testing.MockClock) -> None:
    replicas, leases = FakeReplicas(), FakeLeases()
    async with running(replicas, leases) as registration:
        registration.set_endpoint(ENDPOINT)
        registration.set_status(status(1))
        await trio.sleep(1)
        replicas.failures = [Unavailable("no replica answered")]
        await registration.withdraw()
        registration.set_endpoint(ENDPOINT)
        registration.set_status(status(2))
        await trio.sleep(1)
        leases.kept[1].set()
        await trio.sleep(1)
    assert replicas.brief()[1:] == [
        ("deregister", 1, False, None),
        ("report", 1, False, 2),
        ("register", 0, False, 2),
    ]


async def test_withdraw_waits_for_the_registration_in_flight(autojump_clock: trio.testing.MockClock) -> None:
    replicas = FakeReplicas(latency=1)
    async with running(replicas, FakeLeases()) as registration:
        registration.set_endpoint(ENDPOINT)
        registration.set_status(status(1))
        await trio.sleep(0.5)
        await registration.withdraw()
        assert [what for what, *_ in replicas.brief()] == ["register", "deregister"]


async def test_withdraw_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    replicas = FakeReplicas()
    async with running(replicas, FakeLeases()) as registration:
        registration.set_endpoint(ENDPOINT)
        registration.set_status(status(1))
        await trio.sleep(1)
        replicas.failures = [Unavailable("no replica answered")] * 1000
        began = trio.current_time()
        await registration.withdraw(timeout=3)
        assert trio.current_time() - began == pytest.approx(3)


async def test_a_withdrawal_without_a_registration_needs_nobody(autojump_clock: trio.testing.MockClock) -> None:
    replicas = FakeReplicas()
    async with running(replicas, FakeLeases()) as registration:
        await registration.withdraw()
    assert replicas.attempts == 0


# -- with the real etcd


@dataclass
class EtcdReplicas(FakeReplicas):
    """Writes to etcd what a replica writes."""

    etcd: Client | None = None
    prefix: bytes = b""

    async def register(
        self, instance: str, endpoint: Endpoint | None, status: SidecarStatus, ttl_seconds: int, lease_id: int = 0
    ) -> Registered:
        assert self.etcd is not None
        await self._call("register", lease_id, endpoint, status)
        if not lease_id:
            lease_id = (await self.etcd.grant(ttl_seconds)).id
        values = [(b"status", codec.encode(status))] + ([(b"endpoint", codec.encode(endpoint))] if endpoint else [])
        result = await self.etcd.txn((), [Put(self.prefix + key, value, lease_id) for key, value in values])
        return Registered(lease_id, lease_id, ttl_seconds, result.revision)


async def _becomes(value: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await value() == wanted


async def test_the_lease_is_kept_alive_in_etcd_and_its_end_brings_a_new_one(
    etcd_endpoint: str, etcd_prefix: str
) -> None:
    prefix = etcd_prefix.encode()
    with trio.fail_after(SECONDS):
        async with open_etcd(etcd_endpoint) as etcd:
            replicas = EtcdReplicas(etcd=etcd, prefix=prefix)
            registration = Registration(replicas, etcd, "a", ttl_seconds=4)
            registration.set_endpoint(ENDPOINT)
            registration.set_status(status(1))

            async def lease_of_endpoint() -> int:
                found = await etcd.get(prefix + b"endpoint")
                return found.lease if found else 0

            async with trio.open_nursery() as nursery:
                nursery.start_soon(registration.run)
                await eventually("the endpoint is in etcd", lease_of_endpoint)
                first = await lease_of_endpoint()

                async def seconds_left() -> int:
                    return (await etcd.lease_status(first)).ttl

                # Of 4 s, in whole seconds rounded down: renewed at a third, so from 2 back to 3.
                await eventually("a second has gone", lambda: _becomes(seconds_left, 2))
                await eventually("it was renewed", lambda: _becomes(seconds_left, 3))
                await etcd.revoke(first)
                await eventually("it is registered anew", lease_of_endpoint)
                assert await lease_of_endpoint() != first
                nursery.cancel_scope.cancel()
