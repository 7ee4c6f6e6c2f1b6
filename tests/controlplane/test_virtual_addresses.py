"""Virtual addresses with real replicas and a real etcd: races, services from before, what sidecars may not read."""

from __future__ import annotations

import os
import random

import msgspec
import pytest
import trio

from controlplane.address_keeper import give_addresses
from controlplane.store.etcd import Store
from controlplane.store.requests import RequestWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.names import ObjectRef
from schemas.objects import Service
from schemas.objects.service import VirtualAddress
from schemas.records import AddressBlock
from tests.controlplane.api.test_config_service import key_of, put
from tests.controlplane.domain.objects import service
from tests.controlplane.replica import Mesh, Replica
from trio_grpc import RpcError, StatusCode


async def addresses(mesh: Mesh, *namespaces: str) -> dict[str, VirtualAddress | None]:
    """By ``name.namespace``, of what is in etcd."""
    found: dict[str, VirtualAddress | None] = {}
    async with mesh.client() as etcd:
        for namespace in namespaces:
            for kv in (await etcd.list(mesh.keyspace.config_of_kind("Service", namespace))).kvs:
                one = codec.decode_object(kv.value, "Service", "x")
                assert isinstance(one, Service)
                found[f"{one.metadata.name}.{namespace}"] = one.spec.virtual_address
    return found


async def check_claims(mesh: Mesh, of: dict[str, VirtualAddress | None]) -> None:
    """Each address stands in its block, for its service."""
    async with mesh.client() as etcd:
        for name, address in of.items():
            assert address is not None
            kv = await etcd.get(mesh.keyspace.address_block(f"{address.ipv4.rpartition('.')[0]}.0"))
            assert kv is not None
            slot = codec.decode(kv.value, AddressBlock, "block").slots[address.ipv4]
            assert (f"{slot.name}.{slot.namespace}", slot.released) == (name, None)


async def test_two_replicas_make_and_unmake_services_at_once(
    replica: Replica, second_replica: Replica, mesh: Mesh, namespace: str
) -> None:
    """All of one namespace, so of one block: every two writers meet in it. Who loses is planned anew, and nobody is
    refused but for an object that somebody else has just written."""
    names = [f"s{number}" for number in range(12)]
    chance = random.Random(7)
    written, refused = 0, list[RpcError]()

    async def writer(one: Replica, seed: int) -> None:
        nonlocal written
        order = random.Random(seed)
        async with one.admin() as admin:
            for _ in range(8):
                name = order.choice(names)
                value = service(name, namespace=namespace, ports=(order.randrange(1, 60000),))
                change = pb.Change(delete=key_of(value)) if order.random() < 0.3 else put(value)
                try:
                    await admin.apply(change)
                    written += 1
                except RpcError as error:
                    refused.append(error)

    async with trio.open_nursery() as nursery:
        for one in (replica, second_replica):
            for _ in range(3):
                nursery.start_soon(writer, one, chance.randrange(1000))
    assert written > 15
    assert {error.code for error in refused} <= {StatusCode.ABORTED, StatusCode.NOT_FOUND}
    assert not any("kept changing" in str(error) for error in refused)
    found = await addresses(mesh, namespace)
    assert len(set(found.values())) == len(found) > 0
    await check_claims(mesh, found)


async def test_a_service_from_before_gets_an_address_and_nothing_else(
    replica: Replica, mesh: Mesh, namespace: str
) -> None:
    old = service("old", namespace=namespace)
    key = mesh.keyspace.object(ObjectRef("Service", namespace, "old"))
    async with mesh.client() as etcd:
        await etcd.put(key, codec.encode(old))
        store = Store(etcd, mesh.keyspace)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:  # as two replicas that start together
                for _ in range(2):
                    nursery.start_soon(give_addresses, store, RequestWriter(store), lambda: 0.0, os.urandom)
        found = await addresses(mesh, namespace)
        await check_claims(mesh, found)
        kv = await etcd.get(key)
        assert kv is not None
        assert kv.version == 2, "it was written once"
        after = codec.decode_object(kv.value, "Service", "old")
        assert isinstance(after, Service)
        assert msgspec.structs.replace(after, spec=msgspec.structs.replace(after.spec, virtual_address=None)) == old


async def test_an_update_keeps_it_and_a_deletion_gives_it_back(replica: Replica, mesh: Mesh, namespace: str) -> None:
    orders = service("orders", namespace=namespace)
    async with replica.admin() as admin:
        await admin.apply(put(orders))
        before = await addresses(mesh, namespace)
        await admin.apply(put(service("orders", namespace=namespace, ports=(1,))))
        assert await addresses(mesh, namespace) == before
        await admin.apply(pb.Change(delete=key_of(orders)))
        await admin.apply(put(orders))
        assert await addresses(mesh, namespace) == before
        await check_claims(mesh, before)


async def test_blocks_are_brought_in_line_with_who_has_addresses(replica: Replica, mesh: Mesh, namespace: str) -> None:
    """A block that somebody damaged, and a service that somebody deleted past the replicas."""
    kept, gone = service("kept", namespace=namespace), service("gone", namespace=namespace)
    async with replica.admin() as admin, mesh.client() as etcd:
        await admin.apply(put(kept), put(gone))
        found = await addresses(mesh, namespace)
        address, lost = found[f"kept.{namespace}"], found[f"gone.{namespace}"]
        assert address is not None
        assert lost is not None
        block = mesh.keyspace.address_block(f"{address.ipv4.rpartition('.')[0]}.0")
        store = Store(etcd, mesh.keyspace)

        async def mend(now: int) -> AddressBlock:
            await give_addresses(store, RequestWriter(store), lambda: now, os.urandom)
            kv = await etcd.get(block)
            assert kv is not None
            return codec.decode(kv.value, AddressBlock, "block")

        await etcd.delete(mesh.keyspace.object(gone.ref))
        slots = (await mend(77)).slots
        assert (slots[address.ipv4].released, slots[lost.ipv4].released) == (None, 77)
        await etcd.put(block, b"\xc1")
        with pytest.raises(RpcError, match="control/addresses"):
            await admin.apply(put(service("more", namespace=namespace)))
        assert (await mend(78)).slots.keys() >= {address.ipv4}
        await check_claims(mesh, {f"kept.{namespace}": address})
        assert (await admin.apply(put(service("more", namespace=namespace)))).revision
