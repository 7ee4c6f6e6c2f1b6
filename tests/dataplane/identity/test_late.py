"""Renewed after the end of the SVID, where nobody could issue before."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import stat

import pytest

from dataplane.identity.keeper import IdentityKeeper
from dataplane.identity.renewal import Health
from tests.dataplane.identity.fake_replica import HOUR
from tests.dataplane.identity.host import Host, let_pass
from tests.support.net import eventually


async def _expires_unrenewed(host: Host, keeper: IdentityKeeper) -> None:
    host.replica.refuse_renewals = True
    await let_pass(host, keeper, 2 * HOUR)
    await eventually("it was refused", lambda: keeper.problem)


@pytest.mark.fault(11)
async def test_an_expired_identity_is_renewed_where_nobody_could_issue(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with host.keeping() as keeper:
        first = keeper.current
        await _expires_unrenewed(host, keeper)
        assert "knows of no time without a replica" in str(keeper.problem)
        host.replica.excuse = True
        host.join = None
        await let_pass(host, keeper, 10)
        second = await keeper.changed(first)
        assert host.replica.calls == ["join", "renew", "late", "renew", "late"]
        assert keeper.health is Health.GOOD
        assert keeper.problem is None
        assert host.store.load() == second
        assert second.join_endpoints == (f"127.0.0.1:{host.replica.join_port}",)
    assert "after its end, since nobody could issue before" in caplog.text


async def test_so_is_one_that_was_kept_when_the_agent_starts_anew(host: Host) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
    host.clock.offset += 2 * HOUR
    host.replica.excuse = True
    host.join = None
    async with host.keeping() as keeper:
        assert keeper.current is not None
        assert keeper.current != first
    assert host.replica.calls == ["join", "late"]


async def test_a_kept_identity_says_why_it_is_not_renewed_after_its_end(host: Host) -> None:
    async with host.keeping():
        pass
    host.clock.offset += 2 * HOUR
    async with host.starting() as (keeper, _):
        await eventually("it has said why", lambda: keeper.problem)
        assert keeper.problem is not None
        for part in ("expired 3600 s ago", "its token has expired", "knows of no time without a replica"):
            assert part in keeper.problem


async def test_an_answer_that_is_lost_is_asked_for_again_with_the_same_keys(host: Host) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
        host.replica.excuse, host.replica.lose_answers = True, 1
        await _expires_unrenewed(host, keeper)
        assert "lost" in str(keeper.problem)
        await let_pass(host, keeper, 10)
        second = await keeper.changed(first)
        await let_pass(host, keeper, 2 * HOUR)
        await keeper.changed(second)
        assert len(host.replica.excused) == 2, "the next SVID is asked for with other keys"


@pytest.mark.fault(27)
async def test_an_agent_that_is_killed_before_the_answer_asks_for_the_same_again(host: Host) -> None:
    async with host.keeping():
        pass
    host.clock.offset += 2 * HOUR
    host.replica.excuse, host.replica.lose_answers = True, 1
    asked = host.store.path.with_name("asked.json")
    async with host.starting() as (keeper, _):
        await eventually("the answer was lost", lambda: keeper.problem)
        assert stat.S_IMODE(os.stat(asked).st_mode) == 0o600
    async with host.keeping() as keeper:
        assert keeper.health is Health.GOOD
        assert keeper.current == host.store.load()
    assert not asked.exists()
    assert host.replica.calls == ["join", "late", "late"]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"kind": "Asked", "fingerprint": "x", "key": "k", "etcdKey": "k"}'])
async def test_keys_that_cannot_be_read_are_made_anew(host: Host, content: bytes) -> None:
    async with host.keeping() as keeper:
        assert keeper.current is not None
        fingerprint = hashlib.sha256(keeper.current.chain_pem).hexdigest()
    host.store.path.with_name("asked.json").write_bytes(content.replace(b'"x"', f'"{fingerprint}"'.encode()))
    host.clock.offset += 2 * HOUR
    host.replica.excuse = True
    async with host.keeping() as keeper:
        assert keeper.health is Health.GOOD


async def test_whom_no_attestor_lets_in_any_more_is_renewed_all_the_same(host: Host) -> None:
    """What lets a host in for the first time is asked for at no other renewal either."""
    async with host.keeping() as keeper:
        first = keeper.current
        host.replica.refuse_renewals = host.replica.excuse = True
        host.join = host.replica.join_file(token="mjt1.revoked", expires=int(host.clock()) + 9 * HOUR)
        await let_pass(host, keeper, 2 * HOUR)
        await keeper.changed(first)
        assert host.replica.calls == ["join", "renew", "join", "late"]


async def test_a_kept_identity_without_join_endpoints_asks_those_of_the_join_file(host: Host) -> None:
    async with host.keeping() as keeper:
        assert keeper.current is not None
        host.store.save(dataclasses.replace(keeper.current, join_endpoints=()))
    host.clock.offset += 2 * HOUR
    host.replica.excuse = True
    async with host.keeping() as keeper:
        assert keeper.health is Health.GOOD
    assert host.replica.calls == ["join", "late"]
