"""etcd's answer is lost in the middle of a call: the caller is served as if nothing had been."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from controlplane.api.attestors.join_token import JoinTokenAttestor
from controlplane.api.attestors.x509_possession import X509Possession
from controlplane.api.call import Call
from controlplane.api.caller import Caller, CallerKind
from controlplane.api.identity_service import IdentityService
from controlplane.api.issuing import InForce, Issuing, Told
from controlplane.api.operators import Operators
from controlplane.api.sidecar_service import SidecarService
from controlplane.api.token_service import TokenService
from controlplane.bootstrap.genesis import MESH_REF
from controlplane.ca.keystore import open_authority
from controlplane.revocations import Revocations
from controlplane.store.boards import ConfigClock, StatusBoard
from controlplane.store.etcd import Store
from controlplane.store.lease_alarm import LeaseAlarm
from controlplane.store.ops import Put
from controlplane.store.requests import RequestWriter
from controlplane.store.status_writer import StatusWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict, Unauthenticated, Unavailable
from schemas.keys import EndpointRef, Keyspace
from schemas.names import ServiceRef, SpiffeId
from schemas.objects import Mesh
from schemas.records import Endpoint, Epoch, SealedKey, SidecarStatus, TrustBundle
from tests.controlplane.bootstrap.test_genesis import make
from tests.controlplane.lossy import Faults, opened
from tests.controlplane.replica import new_csr, new_id
from tests.spiffe.certificates import NOW

ROOT = Call(Caller(CallerKind.ROOT_LOCAL, "unix"), seconds=5)
HOST = Call(Caller(CallerKind.ANONYMOUS, "ipv4:10.0.0.1:5"), seconds=5)
ORDERS = Call(Caller(CallerKind.SIDECAR, "ipv4:10.0.0.1:5", SpiffeId("mesh.example", "/ns/shop/svc/orders")), seconds=5)


async def issuing() -> Issuing:
    """A CA in force without a replica around it."""
    plan, kek = await make(3)
    keyspace = Keyspace("/elsewhere/v1")
    values = dict(plan.puts)
    keys = [codec.decode(value, SealedKey, "key") for key, value in values.items() if key.startswith(keyspace.ca())]
    made = Issuing(Told(b"", (), (), (), "/mesh/v1"), lambda: NOW, os.urandom)
    made.in_force = InForce(
        await open_authority(keys, kek),
        codec.decode(values[keyspace.object(MESH_REF)], Mesh, "mesh"),
        codec.decode(values[keyspace.trust_bundle("mesh.example")], TrustBundle, "bundle"),
    )
    return made


def join_request(token: str) -> pb.JoinRequest:
    return pb.JoinRequest(token=token, csr=new_csr()[1], etcd_csr=new_csr()[1])


def token_service(store: Store, ca: Issuing) -> TokenService:
    return TokenService(store, RequestWriter(store), ca, Operators(store))


def identity_service(store: Store, ca: Issuing) -> IdentityService:
    possession = X509Possession(store, lambda: "mesh.example", ca.now, ca.random)
    return IdentityService(ca, {"token": JoinTokenAttestor(store, ca.now, ca.random)}, possession)


@asynccontextmanager
async def a_store(endpoint: str, prefix: str, faults: Faults | None = None) -> AsyncIterator[Store]:
    """With the epoch that `meshadm init` writes."""
    async with opened(endpoint, prefix, faults or Faults()) as store:
        await store.transact((), (Put(store.keyspace.epoch(), codec.encode(Epoch(id="e"))),))
        yield store


async def new_token(store: Store, ca: Issuing) -> str:
    request = pb.CreateTokenRequest(request_id=new_id(), namespace="shop", service="orders", ttl_seconds=600)
    return (await token_service(store, ca).create(request, ROOT)).token


@pytest.mark.parametrize("lost", ["answer lost", "request lost"])
async def test_a_token_and_its_use(etcd_endpoint: str, etcd_prefix: str, lost: str) -> None:
    faults, ca = Faults(), await issuing()
    async with a_store(etcd_endpoint, etcd_prefix, faults) as store:
        faults.plan = [lost]
        token = await new_token(store, ca)
        faults.plan = ["", "", lost]  # looked at twice, then used
        reply = await identity_service(store, ca).join(join_request(token), HOST)
        assert reply.spiffe_id == "spiffe://mesh.example/ns/shop/svc/orders"
        with pytest.raises(Unauthenticated, match="has been used"):
            await identity_service(store, ca).join(join_request(token), HOST)


async def test_no_identity_without_knowing_that_the_token_is_used_up(etcd_endpoint: str, etcd_prefix: str) -> None:
    faults, ca = Faults(), await issuing()
    async with a_store(etcd_endpoint, etcd_prefix, faults) as store:
        token = await new_token(store, ca)
        faults.plan = ["", "", *["request lost"] * 1000]
        with trio.fail_after(5), pytest.raises(Unavailable) as caught:
            await identity_service(store, ca).join(join_request(token), Call(HOST.caller, seconds=0.3))
        assert caught.value.outcome_unknown


@pytest.mark.parametrize("lost", ["answer lost", "request lost"])
async def test_a_registration(etcd_endpoint: str, etcd_prefix: str, lost: str) -> None:
    faults = Faults()
    async with a_store(etcd_endpoint, etcd_prefix, faults) as store:
        board, revocations = StatusBoard(store.keyspace), Revocations(store, None)
        sidecars = SidecarService(
            store, board, ConfigClock(), StatusWriter(store), revocations, LeaseAlarm(store, board)
        )
        status = SidecarStatus(
            service="orders", namespace="shop", instance="a", applied_revision=0, acked_revision=0, svid_expires=0
        )
        request = pb.RegisterRequest(
            instance="a",
            endpoint=codec.encode(Endpoint(address="10.0.0.1", ports={"http": 8080})),
            status=codec.encode(status),
        )
        faults.plan = ["", lost]  # the first transaction is the read
        reply = await sidecars.register(request, ORDERS)
        found = await store.get(store.keyspace.endpoint(EndpointRef(ServiceRef("shop", "orders"), "a")))
        assert found is not None
        assert (found.lease, found.mod_revision) == (reply.lease_id, reply.revision)


async def test_a_token_request_repeated_after_its_answer_was_lost(etcd_endpoint: str, etcd_prefix: str) -> None:
    ca = await issuing()
    request = pb.CreateTokenRequest(request_id=new_id(), namespace="shop", service="orders")
    async with a_store(etcd_endpoint, etcd_prefix) as store:
        service = token_service(store, ca)
        await service.create(request, ROOT)
        with pytest.raises(Conflict, match="shown once"):
            await service.create(request, ROOT)
