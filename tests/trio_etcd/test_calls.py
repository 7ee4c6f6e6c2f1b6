"""Deadlines, retries, failover and the typed errors of unary calls, on the fake and a jumping clock."""

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
    CredentialsRefused,
    DeadlineExceeded,
    EtcdError,
    Fault,
    NoSpace,
    Overloaded,
    PermissionDenied,
    ServerError,
    Unavailable,
    open_etcd,
    wire,
)
from trio_etcd.endpoints import Endpoints
from trio_etcd.errors import from_rpc
from trio_grpc import RpcError, StatusCode

TWO = ("a:1", "b:1")


def opened(fake: FakeEtcd, *, timeout: float = 5, tls: TLS | None = None) -> AbstractAsyncContextManager[Client]:
    return open_etcd(list(fake.endpoints), connect=fake.connect, rng=random.Random(1), timeout=timeout, tls=tls)


def asked(fake: FakeEtcd, path: str) -> list[str]:
    return [endpoint for endpoint, called in fake.calls if called == path]


async def test_a_read_goes_on_at_the_next_member(autojump_clock: MockClock) -> None:
    fake = FakeEtcd(TWO)
    async with opened(fake) as client:
        first = client.endpoints[0]
        fake.stop(first)
        await client.put(b"/a", b"1")  # never left this process: sent again, to the other
        found = await client.get(b"/a")
        assert found is not None
        assert client.endpoints[0] != first
        assert fake.store.revision == 2


async def test_a_read_leaves_a_frozen_member_in_time(autojump_clock: MockClock) -> None:
    fake = FakeEtcd(TWO)
    async with opened(fake) as client:
        fake.frozen.add(client.endpoints[0])
        start = trio.current_time()
        assert await client.get(b"/a") is None
        assert trio.current_time() - start < 5


async def test_a_read_is_retried_until_its_deadline_and_no_longer(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake) as client:
        fake.stop(fake.endpoints[0])
        start = trio.current_time()
        with pytest.raises(Unavailable) as caught:
            await client.get(b"/a", timeout=3)
        assert 1 < trio.current_time() - start <= 3
        assert not caught.value.maybe_applied
        assert len(asked(fake, wire.RANGE)) > 3


@pytest.mark.parametrize("applied", [True, False])
async def test_a_write_without_answer_is_not_repeated(autojump_clock: MockClock, applied: bool) -> None:
    fake = FakeEtcd(TWO)
    async with opened(fake) as client:
        fake.lose_next_response(wire.PUT, applied=applied)
        with pytest.raises(Unavailable) as caught:
            await client.put(b"/a", b"1")
        assert caught.value.maybe_applied
        assert caught.value.fault is Fault.UNKNOWN
        assert "unknown whether the write was applied" in str(caught.value)
        assert len(asked(fake, wire.PUT)) == 1
        assert (await client.get(b"/a") is not None) is applied


async def test_a_write_that_takes_too_long(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake) as client:
        fake.fail_next(wire.TXN, applied=True, delay=60)
        start = trio.current_time()
        with pytest.raises(DeadlineExceeded) as caught:
            await client.txn([], [], timeout=2)
        assert caught.value.maybe_applied
        assert trio.current_time() - start == pytest.approx(2, abs=0.1)


async def test_a_write_that_etcd_did_not_start_is_sent_again(autojump_clock: MockClock) -> None:
    fake = FakeEtcd()
    async with opened(fake) as client:
        words = "etcdserver: revision of auth store is old"
        fake.fail_next(wire.PUT, applied=False, error=RpcError(StatusCode.INVALID_ARGUMENT, words), times=2)
        await client.put(b"/a", b"1")
        assert len(asked(fake, wire.PUT)) == 3


async def test_a_timeout_must_be_positive() -> None:
    async with opened(FakeEtcd()) as client:
        with pytest.raises(ValueError, match="above 0"):
            await client.get(b"/a", timeout=0)


async def test_refused_credentials_are_raised_when_every_member_refuses(autojump_clock: MockClock) -> None:
    old, new = TLS(b"old"), TLS(b"new")
    fake = FakeEtcd(TWO, accepts=lambda tls: tls == new)
    async with opened(fake, tls=old) as client:
        with pytest.raises(CredentialsRefused):
            await client.get(b"/a")
        assert sorted(asked(fake, wire.RANGE)) == ["a:1", "b:1"]
        await client.replace_tls(new)
        assert await client.get(b"/a") is None
        with pytest.raises(CredentialsRefused):
            await client.replace_tls(old)
        assert await client.get(b"/a") is None


@pytest.mark.parametrize(
    ("code", "words", "kind", "fault", "doubt"),
    [
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", NoSpace, Fault.SERVER, False),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Overloaded, Fault.SERVER, False),
        (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", PermissionDenied, Fault.CALLER, False),
        (StatusCode.UNAVAILABLE, "etcdserver: leader changed", Unavailable, Fault.UNKNOWN, True),
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out", Unavailable, Fault.UNKNOWN, True),
        (StatusCode.UNKNOWN, "something new", ServerError, Fault.SERVER, True),
        (StatusCode.UNAVAILABLE, "can't connect to a:1: refused", Unavailable, Fault.UNKNOWN, False),
    ],
)
def test_errors_say_whose_fault_and_whether_it_happened(
    code: StatusCode, words: str, kind: type[EtcdError], fault: Fault, doubt: bool
) -> None:
    error = from_rpc(RpcError(code, words), what="Put", endpoint="a:1", write=True)
    assert (type(error), error.fault, error.maybe_applied) == (kind, fault, doubt)
    assert words in str(error)
    assert "a:1" in str(error)
    assert not from_rpc(RpcError(code, words), what="Range", endpoint="a:1", write=False).maybe_applied


def test_clients_with_one_list_spread_over_its_members() -> None:
    fake = FakeEtcd(("a:1", "b:1", "c:1"))
    firsts = {Endpoints(fake.endpoints, None, fake.connect, random.Random(seed)).all[0] for seed in range(30)}
    assert firsts == set(fake.endpoints)
