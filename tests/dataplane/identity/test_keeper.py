"""The keeper against a replica with real TLS: join, renew, keep, refuse what is not ours, heal."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from dataplane.identity.check import UnacceptableIdentity
from dataplane.identity.client import ReplicaClient
from dataplane.identity.keeper import IdentityKeeper
from dataplane.identity.material import Identity, chain_from_pem, key_matches
from dataplane.identity.renewal import Health
from dataplane.identity.store import IdentityStore, encode
from schemas import codec
from schemas.api import mesh_pb2
from schemas.errors import InvalidInput, Unauthenticated, Unavailable
from schemas.joinfile import JoinFile
from spiffe.bundle import record
from tests.dataplane.identity.fake_replica import HOUR, SPIFFE_ID, TRUST_DOMAIN, FakeReplica, Mesh, der, sign
from tests.support.net import eventually
from tests.support.pki import Authority
from trio_grpc import RpcAbort, StatusCode

SECONDS = 20.0  # a bound for a busy machine


class Clock:
    """Seconds since 1970 that a test can move; TLS itself goes by the real time, so it starts there."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


class Host:
    """One sidecar's host: its disk, clock and join file."""

    def __init__(self, directory: Path, replica: FakeReplica, clock: Clock) -> None:
        self.store = IdentityStore(directory)
        self.replica = replica
        self.clock = clock
        self.join: JoinFile | None = replica.join_file()

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[IdentityKeeper]:
        """A keeper that has its first identity, for the body."""
        async with self.starting() as (keeper, started):
            await started.wait()
            yield keeper

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[tuple[IdentityKeeper, trio.Event]]:
        client = ReplicaClient(fraction=lambda: 0.5)
        keeper = IdentityKeeper(self.store, client, lambda: self.join, clock=self.clock, fraction=lambda: 0.5)
        started = trio.Event()

        async def run() -> None:
            await nursery.start(keeper.run)
            started.set()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                with trio.fail_after(SECONDS):
                    yield keeper, started
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _only(group) from None
        finally:
            client.close()


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one fault in a nursery's group."""
    inner = group.exceptions[0]
    return _only(inner) if isinstance(inner, BaseExceptionGroup) else inner


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    clock = Clock()
    async with FakeReplica(Mesh(), clock).serving() as replica:
        yield Host(tmp_path, replica, clock)


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
        await _pass(host, keeper, HOUR * 0.6)
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
        await _pass(host, keeper, HOUR * 11 / 12)
        await eventually("the first attempt has failed", lambda: keeper.problem)
        await _pass(host, keeper, 2)
        await eventually("a second attempt", lambda: host.replica.calls.count("renew") >= 2)
        assert keeper.current is first
        assert keeper.health is Health.EXPIRING
        assert keeper.problem is not None
        assert "etcd has no leader" in keeper.problem
        assert caplog.text.count("ALARM") == 1
        assert "is expiring" in caplog.text
        host.replica.failure = None
        await _pass(host, keeper, 10)
        assert (await keeper.changed(first)).expires > host.clock() + HOUR / 2
        assert keeper.problem is None
        assert keeper.health is Health.GOOD


async def _pass(host: Host, keeper: IdentityKeeper, seconds: float) -> None:
    """Let time pass for this host, and spare the keeper its longest wait of a minute."""
    host.clock.offset += seconds
    await trio.testing.wait_all_tasks_blocked()
    keeper.look_again()


async def test_an_expired_identity_says_so_and_heals_by_renewal(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
        host.replica.failure = RpcAbort(StatusCode.UNAVAILABLE, "down")
        await _pass(host, keeper, 2 * HOUR)
        await eventually("an attempt has failed", lambda: keeper.problem)
        assert keeper.health is Health.EXPIRED
        assert keeper.current is first
        assert "is expired" in caplog.text
        host.replica.failure = None
        await _pass(host, keeper, 10)
        second = await keeper.changed(first)
        assert second.expires > host.clock()


async def test_an_expired_identity_heals_by_a_new_join_file(host: Host) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
        host.replica.refuse_renewals = True
        await _pass(host, keeper, 2 * HOUR)
        await eventually("an attempt has failed", lambda: keeper.problem)
        assert host.replica.calls == ["join", "renew", "late"], "a token that was used is not shown again"
        host.replica.tokens.add("mjt1.two.secret")
        host.join = host.replica.join_file(token="mjt1.two.secret")
        await _pass(host, keeper, 10)
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


# -- renewed after its end, since nobody could issue before


async def _expires_unrenewed(host: Host, keeper: IdentityKeeper) -> None:
    host.replica.refuse_renewals = True
    await _pass(host, keeper, 2 * HOUR)
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
        await _pass(host, keeper, 10)
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
        await _pass(host, keeper, 10)
        second = await keeper.changed(first)
        await _pass(host, keeper, 2 * HOUR)
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
        await _pass(host, keeper, 2 * HOUR)
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


# -- what must not be accepted


def _other_id(host: Host, reply: mesh_pb2.IdentityReply) -> None:
    reply.chain[0] = _resigned(host, reply, uri=f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/payments")
    reply.spiffe_id = f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/payments"


def _claimed_id(host: Host, reply: mesh_pb2.IdentityReply) -> None:
    reply.chain[0] = _resigned(host, reply, uri=f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/payments")


def _other_key(host: Host, reply: mesh_pb2.IdentityReply) -> None:
    reply.chain[0] = _resigned(host, reply, key=ec.generate_private_key(ec.SECP256R1()))


def _other_etcd_key(host: Host, reply: mesh_pb2.IdentityReply) -> None:
    leaf = host.replica.mesh.etcd_ca.issue("mesh-sidecar").certificate
    reply.etcd_chain[0] = der(leaf)


def _other_root(host: Host, reply: mesh_pb2.IdentityReply) -> None:
    stranger = Authority.create("stranger")
    reply.trust_bundle = codec.encode(record(TRUST_DOMAIN, [stranger.certificate], 2))


def _other_domain(host: Host, reply: mesh_pb2.IdentityReply) -> None:
    reply.trust_bundle = codec.encode(record("other.test", [host.replica.mesh.root.certificate], 2))


def _expired(host: Host, reply: mesh_pb2.IdentityReply) -> None:
    reply.chain[0] = _resigned(host, reply, not_before=host.clock() - 100, expires=host.clock() - 1)


def _no_chain(host: Host, reply: mesh_pb2.IdentityReply) -> None:
    del reply.chain[:]


def _garbage(host: Host, reply: mesh_pb2.IdentityReply) -> None:
    reply.etcd_ca = b"\xff\x00"


def _no_replicas(host: Host, reply: mesh_pb2.IdentityReply) -> None:
    del reply.api_endpoints[:]


def _resigned(
    host: Host,
    reply: mesh_pb2.IdentityReply,
    *,
    uri: str = SPIFFE_ID,
    key: ec.EllipticCurvePrivateKey | None = None,
    not_before: float | None = None,
    expires: float | None = None,
) -> bytes:
    before = x509.load_der_x509_certificate(reply.chain[0])
    public = key.public_key() if key else before.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return der(
        sign(
            host.replica.mesh.issuing,
            public,
            uri=uri,
            not_before=not_before or before.not_valid_before_utc.timestamp(),
            expires=expires or before.not_valid_after_utc.timestamp(),
        )
    )


BAD_REPLIES: dict[str, tuple[Callable[[Host, mesh_pb2.IdentityReply], None], str]] = {
    "another's identity": (_other_id, "this sidecar is to be"),
    "an ID that is not the certificate's": (_claimed_id, "payments's, not .*orders's"),
    "a certificate for another key": (_other_key, "private key does not belong"),
    "an etcd certificate for another key": (_other_etcd_key, "private key for etcd does not belong"),
    "a bundle that does not vouch for it": (_other_root, "can't be trusted"),
    "a bundle of another trust domain": (_other_domain, "no bundle for trust domain"),
    "an expired certificate": (_expired, "has expired"),
    "no certificate": (_no_chain, "can't be read"),
    "garbage": (_garbage, "can't be read"),
    "no replica": (_no_replicas, "names no replica"),
}


@pytest.mark.parametrize("what", BAD_REPLIES)
async def test_a_bad_reply_is_never_used(host: Host, what: str) -> None:
    spoil, why = BAD_REPLIES[what]

    def spoiled(reply: mesh_pb2.IdentityReply) -> mesh_pb2.IdentityReply:
        spoil(host, reply)
        return reply

    async with host.keeping() as keeper:
        first = keeper.current
        host.replica.spoil = spoiled
        await _pass(host, keeper, HOUR * 0.6)
        await eventually("the renewal was refused", lambda: keeper.problem)
        assert keeper.problem is not None
        assert re.search(why, keeper.problem)
        assert keeper.current is first
        assert host.store.load() == first


TAMPERED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "torn": (lambda data: data[: len(data) // 2], "can't be read"),
    "empty": (lambda data: b"", "can't be read"),
    "not ours": (lambda data: b'{"kind": "Identity"}', "can't be read"),
    "a later expiry": (lambda data: _edited(data, expires=2**31), "not its certificate's"),
    "another's id": (lambda data: _edited(data, spiffeId=SPIFFE_ID + "x"), "not .*ordersx's"),
    "another key": (lambda data: _edited(data, key=_json(data)["etcd"]["key"]), "does not belong"),
    "no roots": (
        lambda data: _edited(data, trustBundle=_base64(codec.encode(record(TRUST_DOMAIN, [], 1)))),
        "no bundle for trust domain",
    ),
}


def _json(data: bytes) -> dict[str, dict[str, str]]:
    value: dict[str, dict[str, str]] = json.loads(data)
    return value


def _edited(data: bytes, **changes: object) -> bytes:
    return json.dumps({**_json(data), **changes}).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("what", TAMPERED)
async def test_a_kept_identity_that_was_tampered_with_is_ignored_with_a_reason(
    host: Host, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with host.keeping() as keeper:
        first = keeper.current
    assert first is not None
    tamper, why = TAMPERED[what]
    host.store.path.write_bytes(tamper(encode(first)))
    host.replica.tokens.add("mjt1.two.secret")
    host.join = host.replica.join_file(token="mjt1.two.secret")
    async with host.keeping() as keeper:
        assert keeper.current is not None
        assert keeper.current.key_pem != first.key_pem
    assert re.search(f"ignored the kept identity: .*{why}", caplog.text)
    assert "PRIVATE" not in caplog.text


async def test_a_join_file_for_another_service_outweighs_what_was_kept(host: Host) -> None:
    async with host.keeping():
        pass
    host.replica.tokens.add("mjt1.two.secret")
    host.replica.spiffe_id = f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/payments"
    host.join = host.replica.join_file(token="mjt1.two.secret", service="payments")
    async with host.keeping() as keeper:
        assert keeper.current is not None
        assert str(keeper.current.spiffe_id) == host.replica.spiffe_id


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
