"""TLS, client certificates and etcd's own access control, on a real etcd; credentials replaced under load."""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.conftest import EtcdFactory
from tests.support.pki import Authority
from trio_etcd import (
    TLS,
    AlreadyExists,
    Client,
    CredentialsRefused,
    Fault,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    open_etcd,
    parse_version,
)
from trio_etcd.auth import Access, Auth, Permission


@dataclass
class SecureEtcd:
    """An etcd with TLS, and the authority that its clients' certificates come from."""

    endpoint: str
    servers: Authority
    clients: Authority

    def tls(self, common_name: str, clients: Authority | None = None, *, lifetime_s: int = 3600) -> TLS:
        lifetime = datetime.timedelta(seconds=lifetime_s)
        leaf = (clients or self.clients).issue(common_name, server=False, lifetime=lifetime)
        return TLS(self.servers.pem, leaf.chain_pem, leaf.key_pem)


@pytest.fixture
async def secure(etcd_factory: EtcdFactory, tmp_path: Path) -> SecureEtcd:
    servers, clients = Authority.create("etcd servers"), Authority.create("etcd clients")
    (tmp_path / "clients.crt").write_bytes(clients.pem)
    paths = servers.issue("etcd", dns=["localhost"], ip=["127.0.0.1"]).write(tmp_path, "etcd")
    server = await etcd_factory(tls=paths, client_ca=tmp_path / "clients.crt")
    return SecureEtcd(server.endpoint, servers, clients)


async def switch_auth_on(admin: Client) -> None:
    """root, a writer of /app/, and a reader of /app/public/."""
    auth = Auth(admin)
    for role, permission in {
        "writer": Permission.prefix(Access.READWRITE, b"/app/"),
        "reader": Permission.prefix(Access.READ, b"/app/public/"),
    }.items():
        await auth.add_role(role)
        await auth.grant_permission(role, permission)
        await auth.add_user(role)
        await auth.grant_role(role, role)
    await auth.add_user("root")
    await auth.grant_role("root", "root")
    await auth.enable()


async def test_users_are_the_names_in_certificates(secure: SecureEtcd) -> None:
    async with open_etcd(f"https://{secure.endpoint}", tls=secure.tls("root")) as admin:
        assert not await Auth(admin).enabled()
        await switch_auth_on(admin)
        assert await Auth(admin).enabled()
        await admin.put(b"/app/public/a", b"1")
        await admin.put(b"/secret", b"1")
    async with open_etcd(secure.endpoint, tls=secure.tls("writer")) as writer:
        await writer.put(b"/app/public/a", b"2")
        with pytest.raises(PermissionDenied) as denied:
            await writer.put(b"/secret", b"2")
        assert denied.value.fault is Fault.CALLER
        assert not denied.value.maybe_applied
    async with open_etcd(secure.endpoint, tls=secure.tls("reader")) as reader:
        assert [kv.value for kv in (await reader.list(b"/app/public/")).kvs] == [b"2"]
        with pytest.raises(PermissionDenied):
            await reader.put(b"/app/public/a", b"3")
        with pytest.raises(PermissionDenied):
            await reader.list(b"/")
    async with open_etcd(secure.endpoint, tls=secure.tls("stranger")) as stranger:
        with pytest.raises(PermissionDenied):
            await stranger.get(b"/app/public/a")
    async with open_etcd(secure.endpoint, tls=secure.tls("")) as nameless:
        with pytest.raises((Unauthenticated, PermissionDenied)):
            await nameless.get(b"/app/public/a")


async def test_a_watch_that_may_not_is_refused_and_others_go_on(secure: SecureEtcd) -> None:
    async with open_etcd(secure.endpoint, tls=secure.tls("root")) as admin:
        await switch_auth_on(admin)
        async with open_etcd(secure.endpoint, tls=secure.tls("reader")) as reader:
            async with reader.watch(b"/app/public/", prefix=True) as allowed:
                with pytest.raises(PermissionDenied):
                    async with reader.watch(b"/app/private/", prefix=True):
                        pass
                revision = (await admin.put(b"/app/public/a", b"1")).revision
                with trio.fail_after(5):
                    assert (await allowed.receive()).revision == revision
            assert reader.watch_link.state.error is None


async def test_who_may_keep_a_lease_alive(secure: SecureEtcd) -> None:
    async with open_etcd(secure.endpoint, tls=secure.tls("root")) as admin:
        await switch_auth_on(admin)
        version = parse_version((await admin.status()).version)
        bare, with_key = await admin.grant(1), await admin.grant(2)
        await admin.put(b"/app/public/live", b"1", lease=with_key.id)
        async with (
            open_etcd(secure.endpoint, tls=secure.tls("reader")) as reader,
            reader.keep_alive(bare.id, bare.ttl) as kept,
            reader.keep_alive(with_key.id, with_key.ttl) as forbidden,
        ):
            if version >= (3, 5, 30):  # earlier ones let any user renew any lease
                with trio.fail_after(1.9):
                    lost = await forbidden.wait_lost()
                assert "permission denied" in str(lost)
            await trio.sleep(2.2)
            assert kept.lost is None, "a refused lease takes no other one with it"
            assert (await reader.lease_status(bare.id)).ttl >= 0


async def test_administration_says_what_exists_and_what_does_not(secure: SecureEtcd) -> None:
    async with open_etcd(secure.endpoint, tls=secure.tls("root")) as admin:
        auth = Auth(admin)
        with pytest.raises(InvalidRequest):
            await auth.enable()  # no root yet
        await switch_auth_on(admin)
        assert set(await auth.users()) == {"root", "reader", "writer"}
        assert set(await auth.roles()) >= {"reader", "writer"}
        assert await auth.roles_of("reader") == ("reader",)
        assert await auth.permissions("reader") == (Permission(Access.READ, b"/app/public/", b"/app/public0"),)
        with pytest.raises(AlreadyExists):
            await auth.add_user("reader")
        with pytest.raises(AlreadyExists):
            await auth.add_role("reader")
        with pytest.raises(NotFound):
            await auth.roles_of("nobody")
        await auth.revoke_permission("reader", b"/app/public/", b"/app/public0")
        assert await auth.permissions("reader") == ()
        await auth.revoke_role("reader", "reader")
        assert await auth.roles_of("reader") == ()
        await auth.delete_user("reader")
        await auth.delete_role("reader")
        assert "reader" not in await auth.users()
        await auth.disable()
        assert not await auth.enabled()


async def test_refused_credentials_are_a_typed_error_everywhere(secure: SecureEtcd) -> None:
    foreign = secure.tls("root", Authority.create("etcd clients"))
    expired = secure.tls("root", lifetime_s=-60)
    leaf = secure.clients.issue("root")
    wrong_server = TLS(Authority.create("etcd servers").pem, leaf.chain_pem, leaf.key_pem)
    for tls in (foreign, expired, wrong_server, TLS(secure.servers.pem)):
        async with open_etcd(secure.endpoint, tls=tls) as client:
            with trio.fail_after(10):
                with pytest.raises(CredentialsRefused) as caught:
                    await client.get(b"/a")
                assert caught.value.fault is Fault.CALLER
                with pytest.raises(CredentialsRefused):
                    async with client.watch(b"/a"):
                        pass


async def test_replaced_credentials_lose_and_double_nothing(secure: SecureEtcd) -> None:
    rng = random.Random(3)
    async with open_etcd(secure.endpoint, tls=secure.tls("root")) as admin:
        await switch_auth_on(admin)
        async with open_etcd(secure.endpoint, tls=secure.tls("reader")) as reader:
            granted = await admin.grant(2)
            written: list[int] = []
            seen: list[int] = []
            done = trio.Event()

            async def write() -> None:
                for number in range(1000):
                    written.append((await admin.put(b"/app/public/%d" % rng.randrange(9), b"%d" % number)).revision)
                done.set()

            async with (
                reader.watch(b"/app/public/", prefix=True) as watch,
                reader.keep_alive(granted.id, granted.ttl) as kept,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(write)
                rotations = 0
                while not done.is_set():
                    await reader.replace_tls(secure.tls("reader"))
                    rotations += 1
                    await trio.sleep(0.1)
                with trio.fail_after(10):
                    while not seen or seen[-1] < written[-1]:
                        seen.append((await watch.receive()).revision)
                assert kept.lost is None
            assert seen == written
            assert rotations > 2


async def test_credentials_that_do_not_work_are_not_taken_over(secure: SecureEtcd) -> None:
    async with open_etcd(secure.endpoint, tls=secure.tls("root")) as client:
        async with client.watch(b"/a") as watch:
            with pytest.raises(CredentialsRefused):
                await client.replace_tls(secure.tls("root", Authority.create("etcd clients")), timeout=3)
            revision = (await client.put(b"/a", b"1")).revision
            with trio.fail_after(5):
                assert (await watch.receive()).revision == revision


async def test_the_new_identity_is_in_force_after_replacement(secure: SecureEtcd) -> None:
    async with open_etcd(secure.endpoint, tls=secure.tls("root")) as admin:
        await switch_auth_on(admin)
    async with open_etcd(secure.endpoint, tls=secure.tls("reader")) as client:
        with pytest.raises(PermissionDenied):
            await client.put(b"/app/a", b"1")
        await client.replace_tls(secure.tls("writer"))
        await client.put(b"/app/a", b"1")
