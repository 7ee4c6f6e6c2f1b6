"""The keeper against a replica with real TLS: join, renew, keep, heal."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import stat
import time
from pathlib import Path

import msgspec
import pytest

from dataplane.identity.check import UnacceptableIdentity
from dataplane.identity.material import Identity, chain_from_pem, key_matches
from dataplane.identity.renewal import Health
from dataplane.identity.store import IdentityStore
from schemas.errors import InvalidInput, Unauthenticated, Unavailable
from spiffe.bundle import record
from tests.dataplane.identity.fake_replica import HOUR, SPIFFE_ID, TRUST_DOMAIN, FakeReplica, Mesh
from tests.dataplane.identity.host import Host, let_pass
from tests.support.net import eventually
from tests.support.pki import Authority
from trio_grpc import RpcAbort, StatusCode


async def test_the_first_start_joins_and_the_next_one_needs_nobody(host: Host) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
        assert first is not None
        assert str(first.spiffe_id) == SPIFFE_ID
        assert keeper.health is Health.GOOD
        assert first.api_endpoints == (f"127.0.0.1:{host.replica.api_port}",)
        assert first.bundle == host.replica.mesh.bundle
        assert key_matches(first.key_pem, chain_from_pem(first.chain_pem, "chain")[0])
        assert key_matches(first.etcd.key_pem, chain_from_pem(first.etcd.cert_pem, "etcd")[0])
        assert not key_matches(first.key_pem, chain_from_pem(first.etcd.cert_pem, "etcd")[0])
    host.replica.failure = RpcAbort(StatusCode.UNAVAILABLE, "down")
    host.join = None
    async with host.keeping() as keeper:
        assert keeper.current == first
    assert host.replica.calls == ["join"]


async def test_what_is_kept_is_for_its_owner_only(host: Host) -> None:
    async with host.keeping():
        pass
    assert stat.S_IMODE(os.stat(host.store.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(host.store.path.parent).st_mode) == 0o700
    assert os.listdir(host.store.path.parent) == ["identity.json"]


async def test_a_key_that_others_could_read_is_closed_to_them(host: Host) -> None:
    async with host.keeping():
        pass
    os.chmod(host.store.path, 0o644)
    assert host.store.load() is not None
    assert stat.S_IMODE(os.stat(host.store.path).st_mode) == 0o600


async def test_a_disk_that_takes_nothing_does_not_stop_the_renewal(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
        _replace_directory_by_a_file(host.store.path.parent)
        await let_pass(host, keeper, HOUR * 0.6)
        assert await keeper.changed(first) is keeper.current
        assert "can't be kept on disk" in caplog.text


def _replace_directory_by_a_file(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.write_text("in the way")


async def test_no_secret_is_shown(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with host.keeping() as keeper:
        identity = keeper.current
    assert identity is not None
    said = repr(identity) + repr(identity.etcd) + caplog.text
    for secret in (identity.key_pem, identity.etcd.key_pem):
        assert secret.decode().splitlines()[1] not in said
    assert "PRIVATE KEY" not in said
    assert "secret" not in said
    assert "[redacted]" in said


async def test_renewal_at_half_life_publishes_and_keeps_the_new_one(host: Host) -> None:
    host.replica.lifetime = 2  # seconds: half-life is one second away
    async with host.keeping() as keeper:
        first = keeper.current
        host.replica.lifetime = HOUR
        second = await keeper.changed(first)
        assert host.replica.calls == ["join", "renew"]
        assert second is keeper.current
        assert first is not None
        assert second.key_pem != first.key_pem
        assert second.expires > first.expires
        assert host.store.load() == second


async def test_while_renewing_fails_the_identity_stays_and_the_alarm_is_raised_once(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
        host.replica.failure = RpcAbort(StatusCode.UNAVAILABLE, "etcd has no leader")
        await let_pass(host, keeper, HOUR * 11 / 12)
        await eventually("the first attempt has failed", lambda: keeper.problem)
        await let_pass(host, keeper, 2)
        await eventually("a second attempt", lambda: host.replica.calls.count("renew") >= 2)
        assert keeper.current is first
        assert keeper.health is Health.EXPIRING
        assert keeper.problem is not None
        assert "etcd has no leader" in keeper.problem
        assert caplog.text.count("ALARM") == 1
        assert "is expiring" in caplog.text
        host.replica.failure = None
        await let_pass(host, keeper, 10)
        assert (await keeper.changed(first)).expires > host.clock() + HOUR / 2
        assert keeper.problem is None
        assert keeper.health is Health.GOOD


async def test_an_expired_identity_says_so_and_heals_by_renewal(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
        host.replica.failure = RpcAbort(StatusCode.UNAVAILABLE, "down")
        await let_pass(host, keeper, 2 * HOUR)
        await eventually("an attempt has failed", lambda: keeper.problem)
        assert keeper.health is Health.EXPIRED
        assert keeper.current is first
        assert "is expired" in caplog.text
        host.replica.failure = None
        await let_pass(host, keeper, 10)
        second = await keeper.changed(first)
        assert second.expires > host.clock()


async def test_an_expired_identity_heals_by_a_new_join_file(host: Host) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
        host.replica.refuse_renewals = True
        await let_pass(host, keeper, 2 * HOUR)
        await eventually("an attempt has failed", lambda: keeper.problem)
        assert host.replica.calls == ["join", "renew", "late"], "a token that was used is not shown again"
        host.replica.tokens.add("mjt1.two.secret")
        host.join = host.replica.join_file(token="mjt1.two.secret")
        await let_pass(host, keeper, 10)
        await keeper.changed(first)
        assert host.replica.calls == ["join", "renew", "late", "renew", "join"]


async def test_a_kept_identity_that_has_expired_waits_for_a_join_file(host: Host) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
    host.clock.offset += 2 * HOUR
    host.join = None
    async with host.starting() as (keeper, started):
        await eventually("it has said why", lambda: keeper.problem)
        assert keeper.current is None
        assert not started.is_set()
        host.replica.tokens.add("mjt1.two.secret")
        host.join = host.replica.join_file(token="mjt1.two.secret")
        keeper.look_again()
        await started.wait()
        assert keeper.current is not None
        assert keeper.current != first


@pytest.mark.parametrize("attestor", ["token", "expired SVID"])
async def test_who_was_off_while_the_root_was_replaced_is_told_so_and_comes_back_by_a_new_join_file(
    host: Host, attestor: str
) -> None:
    async with host.keeping():
        pass
    old = host.join
    assert old is not None
    host.clock.offset += 2 * HOUR
    async with FakeReplica(Mesh(sequence=4), host.clock).serving() as rotated:
        endpoints = (f"127.0.0.1:{rotated.join_port}",)
        expires = int(host.clock()) + HOUR
        host.join = msgspec.structs.replace(old, token="mjt1.x.y", expires=expires, join_endpoints=endpoints)
        if attestor == "expired SVID":
            kept = host.store.load()
            assert kept is not None
            host.store.save(dataclasses.replace(kept, join_endpoints=endpoints))
            host.join = None
        async with host.starting() as (keeper, started):
            await eventually("it has said why", lambda: keeper.problem)
            said = str(keeper.problem)
            assert "chains to no root that this host knows" in said
            made = host.replica.mesh.root.certificate.not_valid_before_utc
            assert f"trust bundle 1 of {TRUST_DOMAIN}, made {made:%Y-%m-%d}" in said
            assert "meshadm token create" in said
            assert not started.is_set()
            host.join = rotated.join_file()
            keeper.look_again()
            await started.wait()
            assert keeper.current is not None
            assert keeper.current.bundle.sequence == 4
        assert rotated.calls == ["join"], "no token was spent on a stranger"


@pytest.mark.fault(12)
async def test_a_host_whose_clock_is_behind_trusts_nothing_early_and_wastes_no_token(host: Host) -> None:
    host.replica.now = time.time
    host.clock.offset = -HOUR
    async with host.starting() as (keeper, started):
        await eventually("it has said why", lambda: keeper.problem)
        assert keeper.problem is not None
        assert "is this host's clock right?" in keeper.problem
        assert keeper.clock_problem is not None
        assert "behind" in keeper.clock_problem
        assert not started.is_set()
        host.clock.offset = 0
        keeper.look_again()
        await started.wait()
        assert keeper.health is Health.GOOD
    assert host.replica.calls == ["join"]


@pytest.mark.fault(12)
async def test_a_host_whose_clock_is_ahead_uses_nothing_late_and_wastes_no_token(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    assert host.join is not None
    host.join = msgspec.structs.replace(host.join, expires=int(time.time()) + 24 * HOUR)
    host.replica.now = time.time
    host.clock.offset = 2 * HOUR
    async with host.starting() as (keeper, started):
        await eventually("it has said why", lambda: keeper.problem)
        assert keeper.clock_problem is not None
        assert "ahead" in keeper.clock_problem
        assert "ALARM: this host's clock is about 7" in caplog.text
        assert not started.is_set()
        host.clock.offset = 0
        keeper.look_again()
        await started.wait()
        assert keeper.health is Health.GOOD
    assert host.replica.calls == ["join"]


@pytest.mark.fault(12)
async def test_a_clock_that_is_off_by_less_than_the_life_is_reported_until_it_is_mended(host: Host) -> None:
    host.replica.now = time.time
    host.clock.offset = HOUR / 6
    async with host.keeping() as keeper:
        assert keeper.clock_problem is not None
        assert "ahead" in keeper.clock_problem
        first = keeper.current
        host.clock.offset, host.replica.now = HOUR * 0.6, host.clock  # they agree by the next renewal
        keeper.look_again()
        await keeper.changed(first)
        assert keeper.clock_problem is None


async def test_no_identity_and_no_join_file_is_one_clear_error(host: Host) -> None:
    host.join = None
    with pytest.raises(InvalidInput, match=r"there is no join file .*meshadm token create"):
        async with host.keeping():
            pass


async def test_a_refused_token_ends_the_first_start(host: Host) -> None:
    host.replica.tokens.clear()
    with pytest.raises(Unauthenticated, match="used or expired"):
        async with host.keeping():
            pass
    host.join = host.replica.join_file(expires=int(host.clock()) - 1)
    with pytest.raises(InvalidInput, match="its token has expired"):
        async with host.keeping():
            pass
    assert host.replica.calls == ["join"]


async def test_the_first_join_is_tried_until_a_replica_answers(host: Host) -> None:
    host.replica.failure = RpcAbort(StatusCode.UNAVAILABLE, "starting")
    async with host.starting() as (keeper, started):
        await eventually("an attempt has failed", lambda: keeper.problem)
        host.replica.failure = None
        keeper.look_again()
        await started.wait()


async def test_a_newer_bundle_is_adopted_and_kept(host: Host) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
        assert first is not None
        second_root = Authority.create("second root")
        newer = record(TRUST_DOMAIN, [host.replica.mesh.root.certificate, second_root.certificate], 2)
        assert await keeper.adopt_bundle(newer)
        assert (await keeper.changed(first)).bundle == newer
        assert not await keeper.adopt_bundle(first.bundle), "an older one"
        with pytest.raises(UnacceptableIdentity):
            await keeper.adopt_bundle(record(TRUST_DOMAIN, [second_root.certificate], 3))
        assert keeper.current is not None
        assert keeper.current.bundle == newer
    loaded = host.store.load()
    assert isinstance(loaded, Identity)
    assert loaded.bundle == newer


def test_a_disk_that_refuses_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "identity").write_text("a file where the directory should be")
    with pytest.raises(Unavailable, match="can't be read"):
        IdentityStore(tmp_path).load()
