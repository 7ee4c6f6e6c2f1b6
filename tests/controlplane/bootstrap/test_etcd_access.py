"""Who may do what in an etcd that init has set up."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import trio_etcd
from controlplane.bootstrap.layout import REPLICA_USER, SIDECAR_USER, TOOLING_USER
from controlplane.ca.authority import Authority
from controlplane.ca.keystore import open_authority, read_kek
from controlplane.ca.sign import serial_number
from controlplane.store.version import judge
from schemas import codec
from schemas.keys import Keyspace, StatusRef
from schemas.records import SealedKey
from tests.controlplane.bootstrap.conftest import Site
from tests.spiffe.certificates import new_key
from tests.support.pki import TlsPaths
from trio_etcd import Client, Compare, Get, Put, parse_version, wire
from trio_etcd._proto import etcd_pb2 as pb
from trio_etcd.auth import Access, Auth, Permission

KEYSPACE = Keyspace()
FROM_KEY = b"\0"  # as the end of a range: all keys from the first on
STATUS = KEYSPACE.status(StatusRef("shop", "orders-1"))
NEIGHBOUR = b"/mesh/v10/data/x"  # starts with the prefix's text and is another mesh's


async def ready(site: Site) -> Site:
    await site.start()
    await site.init()
    async with site.client(site.layout.root) as root:
        await root.put(STATUS, b"status")
        await root.put(NEIGHBOUR, b"foreign")
    return site


async def authority_of(site: Site) -> Authority:
    async with site.client(site.layout.replica) as client:
        listing = await client.list(KEYSPACE.ca())
    records = [codec.decode(one.value, SealedKey, "test") for one in listing.kvs]
    return await open_authority(records, read_kek(site.layout.kek, {}))


async def sidecar_credential(site: Site) -> tuple[bytes, bytes]:
    """What a replica hands to a sidecar together with its SVID: certificate and key, PEM."""
    key = new_key()
    authority = await authority_of(site)
    now = time.time()
    chain = authority.issue_etcd_client(SIDECAR_USER, key.public_key(), now, 3600, serial_number(os.urandom(20)))
    pem = x509.load_der_x509_certificate(chain[0]).public_bytes(Encoding.PEM)
    return pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def reads(*keys: bytes) -> list[Callable[[Client], Awaitable[object]]]:
    return [partial(_get, key=key) for key in keys]


async def _get(client: Client, key: bytes) -> object:
    return await client.get(key)


async def _list(client: Client, prefix: bytes) -> object:
    return await client.list(prefix)


async def _denied(client: Client, *calls: Callable[[Client], Awaitable[object]]) -> None:
    for call in calls:
        with pytest.raises(trio_etcd.PermissionDenied):
            await call(client)


@pytest.mark.fault(25)
async def test_a_sidecar_reads_data_and_nothing_else(site: Site) -> None:
    await ready(site)
    async with site.client_with(*await sidecar_credential(site)) as client:
        assert await client.get(KEYSPACE.epoch()) is not None
        assert (await client.list(KEYSPACE.data())).kvs
        await _denied(
            client,
            partial(_list, prefix=KEYSPACE.control()),
            partial(_list, prefix=KEYSPACE.ca()),
            partial(_list, prefix=f"{KEYSPACE.prefix}/".encode()),
            partial(_list, prefix=b""),
            *reads(STATUS, NEIGHBOUR, KEYSPACE.data()[:-1], KEYSPACE.data()[:-1] + b"0", KEYSPACE.token("x")),
            lambda one: one.put(KEYSPACE.epoch(), b"x"),
            lambda one: one.delete(KEYSPACE.epoch()),
            lambda one: one.txn([Compare.present(KEYSPACE.epoch())], [Put(KEYSPACE.epoch(), b"x")]),
            lambda one: one.txn([], [Get(STATUS)]),
            lambda one: one.txn([Compare.value_is(STATUS, b"status")], []),
            lambda one: Auth(one).add_user("mallory"),
            lambda one: Auth(one).grant_role(SIDECAR_USER, REPLICA_USER),
            lambda one: Auth(one).disable(),
        )
        with pytest.raises(trio_etcd.PermissionDenied):
            async with client.watch(KEYSPACE.control(), prefix=True) as watch:
                await anext(aiter(watch))


def nested(lease: int) -> list[Callable[[Client], Awaitable[object]]]:
    """What is in a transaction of a transaction, which etcd once let pass unseen; in either branch, three deep."""
    inner = (
        pb.RequestOp(request_put=pb.PutRequest(key=KEYSPACE.epoch(), value=b"x")),
        pb.RequestOp(request_put=pb.PutRequest(key=STATUS, value=b"x", prev_kv=True)),
        pb.RequestOp(request_put=pb.PutRequest(key=KEYSPACE.epoch(), value=b"x", lease=lease)),
        pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=STATUS, prev_kv=True)),
        pb.RequestOp(request_range=pb.RangeRequest(key=STATUS)),
        pb.RequestOp(request_range=pb.RangeRequest(key=KEYSPACE.epoch(), range_end=FROM_KEY)),
    )
    calls: list[Callable[[Client], Awaitable[object]]] = []
    for one in inner:
        for depth in (1, 2):
            for branch in (_then, _else):
                made = one
                for _ in range(depth):
                    made = pb.RequestOp(request_txn=branch(made))
                calls.append(partial(_raw_txn, request=branch(made)))
    secret = pb.Compare(key=STATUS, target=pb.Compare.VALUE, value=b"old")
    hidden = pb.RequestOp(request_txn=pb.TxnRequest(compare=[secret]))
    calls.append(partial(_raw_txn, request=pb.TxnRequest(success=[hidden])))
    return calls


def _then(op: pb.RequestOp) -> pb.TxnRequest:
    return pb.TxnRequest(success=[op])


def _else(op: pb.RequestOp) -> pb.TxnRequest:
    return pb.TxnRequest(failure=[op])


async def _raw_txn(client: Client, request: pb.TxnRequest) -> object:
    return await client.calls.write(wire.TXN, request, pb.TxnResponse)


@pytest.mark.fault(25)
async def test_a_watch_of_all_that_follows_shows_nothing_of_the_mesh_beyond_data(site: Site) -> None:
    """Fixed releases refuse it. Others show what sorts later: so of the mesh nothing does."""
    await ready(site)
    async with site.client(site.layout.root) as root, site.client_with(*await sidecar_credential(site)) as client:
        fixed = not judge(parse_version((await root.status()).version)).warn
        before = (await root.get(KEYSPACE.epoch())) or pytest.fail("no epoch")
        seen: list[bytes] = []
        denied = False
        try:
            async with client.watch(KEYSPACE.epoch(), range_end=FROM_KEY, want_previous=True) as watch:
                for key in (STATUS, KEYSPACE.token("x"), KEYSPACE.ca_key("mesh-root-x"), KEYSPACE.epoch()):
                    await root.put(key, before.value)
                with trio.fail_after(10):
                    while KEYSPACE.epoch() not in seen:
                        seen += [event.kv.key for event in (await watch.receive()).events]
        except trio_etcd.PermissionDenied:
            denied = True
        assert denied == fixed
        assert [key for key in seen if not key.startswith(KEYSPACE.data())] == []


@pytest.mark.fault(25)
async def test_a_stolen_sidecar_credential_neither_looks_back_nor_beyond(site: Site) -> None:
    """Previous values, watches of a range, leases of others and leases in numbers: no way to write or to see more."""
    await ready(site)
    async with site.client(site.layout.root) as root:
        lease = (await root.grant(600)).id
        await root.put(STATUS, b"old", lease=lease)
        before = {kv.key: kv.value for kv in (await root.list(b"")).kvs}
    async with site.client_with(*await sidecar_credential(site)) as client:
        await _denied(
            client,
            lambda one: one.put(KEYSPACE.epoch(), b"x", want_previous=True),
            lambda one: one.delete(STATUS, want_previous=True),
            lambda one: one.txn([], [Put(STATUS, b"x")], [Put(KEYSPACE.epoch(), b"x")]),
            lambda one: one.txn([Compare.present(STATUS)], [], []),
            lambda one: one.revoke(lease),
            *nested(lease),
            lambda one: one.range(KEYSPACE.epoch(), FROM_KEY),
            lambda one: one.range(KEYSPACE.data(), FROM_KEY, keys_only=True),
            lambda one: one.range(FROM_KEY, FROM_KEY, count_only=True),
            lambda one: one.delete(KEYSPACE.epoch(), range_end=FROM_KEY),
        )
        for key, end in (
            (KEYSPACE.control(), KEYSPACE.data()),
            (KEYSPACE.prefix.encode(), NEIGHBOUR),
            (FROM_KEY, FROM_KEY),
            (KEYSPACE.control(), FROM_KEY),
        ):
            with pytest.raises(trio_etcd.PermissionDenied):
                async with client.watch(key, range_end=end, want_previous=True) as watch:
                    await anext(aiter(watch))
        for _ in range(20):  # anybody may; but they hold nothing, and end by themselves
            flood = (await client.grant(5)).id
            with pytest.raises(trio_etcd.PermissionDenied):
                await client.put(KEYSPACE.epoch(), b"x", lease=flood)
    async with site.client(site.layout.root) as root:
        assert {kv.key: kv.value for kv in (await root.list(b"")).kvs} == before


async def test_tooling_reads_data_and_status_and_nothing_else(site: Site) -> None:
    await ready(site)
    async with site.client(site.layout.tooling) as client:
        assert (await client.list(KEYSPACE.data())).kvs
        assert [one.key for one in (await client.list(KEYSPACE.statuses())).kvs] == [STATUS]
        await _denied(
            client,
            partial(_list, prefix=KEYSPACE.control()),
            partial(_list, prefix=KEYSPACE.ca()),
            *reads(KEYSPACE.token("x"), NEIGHBOUR),
            lambda one: one.put(STATUS, b"x"),
            lambda one: Auth(one).disable(),
        )


async def test_a_replica_has_the_mesh_s_keys_and_does_not_administer_etcd(site: Site) -> None:
    await ready(site)
    async with site.client(site.layout.replica) as client:
        key = KEYSPACE.token("x")
        await client.put(key, b"x")
        assert (await client.delete(key)).deleted == 1
        await _denied(
            client,
            *reads(NEIGHBOUR, KEYSPACE.prefix.encode(), b"/"),
            lambda one: one.put(NEIGHBOUR, b"x"),
            lambda one: Auth(one).add_user("mallory"),
            lambda one: Auth(one).add_role("mallory"),
            lambda one: Auth(one).grant_role(REPLICA_USER, "root"),
            lambda one: Auth(one).grant_permission(SIDECAR_USER, Permission(Access.READ, b"/")),
            lambda one: Auth(one).disable(),
        )


async def test_whoever_is_nobody_s_user_gets_nothing(site: Site) -> None:
    await ready(site)
    async with site.client(site.layout.server) as client:  # a good certificate without a common name
        with pytest.raises((trio_etcd.Unauthenticated, trio_etcd.PermissionDenied)):
            await client.get(KEYSPACE.epoch())
    key = new_key()
    svid = (await authority_of(site)).issue_control_plane(key.public_key(), time.time(), 3600, 7)
    pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in svid)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    async with site.client_with(pem, secret) as client:  # an SVID is no credential of etcd
        with pytest.raises((trio_etcd.CredentialsRefused, trio_etcd.Unavailable)):
            await client.get(KEYSPACE.epoch(), timeout=2)


async def test_roles_have_exactly_these_ranges(site: Site) -> None:
    await ready(site)
    paths = TlsPaths(site.layout.root.certificate, site.layout.root.key, site.layout.ca.certificate)
    assert (await site.server.ctl("auth", "status", client=paths)).splitlines()[0].endswith("true")
    for user, expected in (
        (REPLICA_USER, {Permission(Access.READWRITE, b"/mesh/v1/", b"/mesh/v10")}),
        (SIDECAR_USER, {Permission(Access.READ, b"/mesh/v1/data/", b"/mesh/v1/data0")}),
        (
            TOOLING_USER,
            {
                Permission(Access.READ, b"/mesh/v1/control/status/", b"/mesh/v1/control/status0"),
                Permission(Access.READ, b"/mesh/v1/data/", b"/mesh/v1/data0"),
            },
        ),
    ):
        assert user in await site.server.ctl("user", "list", client=paths)
        async with site.client(site.layout.root) as client:
            assert set(await Auth(client).permissions(user)) == expected
            assert await Auth(client).roles_of(user) == (user,)


async def test_a_run_takes_back_what_was_granted_beyond(site: Site) -> None:
    await ready(site)
    async with site.client(site.layout.root) as client:
        auth = Auth(client)
        await auth.grant_permission(SIDECAR_USER, Permission.prefix(Access.READ, KEYSPACE.control()))
        await auth.grant_permission(SIDECAR_USER, Permission.prefix(Access.READWRITE, KEYSPACE.data()))
        await auth.grant_role(SIDECAR_USER, "root")
        await site.init()
        assert site.outcome(f"etcd user {SIDECAR_USER}") == "done"
        assert await auth.permissions(SIDECAR_USER) == (Permission.prefix(Access.READ, KEYSPACE.data()),)
        assert await auth.roles_of(SIDECAR_USER) == (SIDECAR_USER,)
