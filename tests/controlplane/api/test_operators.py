"""Operators through a real replica: log in, what each role may, and that a change of role counts at once."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest
import trio

from controlplane.api import change_set, convert
from controlplane.api.authorize import ALLOWED, Role
from controlplane.api.caller import Caller as ApiCaller
from controlplane.api.caller import CallerKind
from controlplane.api.operator_service import OPERATOR_SECONDS
from controlplane.api.operators import Operators
from controlplane.store.etcd import Store
from controlplane.store.requests import Request, RequestWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict, PermissionDenied
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, SpiffeId
from schemas.objects import Service
from schemas.objects.common import Metadata
from schemas.objects.service import ServicePort, ServiceSpec
from schemas.records import Operator
from spiffe.x509 import leaf_identity, parse_chain
from tests.controlplane.access import Person, grant, log_in, login_token, revoke, use_login_token
from tests.controlplane.replica import TRUST_DOMAIN, Caller, Mesh, Replica, new_csr, new_id, running_replica
from trio_grpc import RpcError, StatusCode


@pytest.fixture
def name() -> str:
    return f"anna-{secrets.token_hex(4)}"


def put(namespace: str, name: str = "orders", port: int = 8080) -> pb.Change:
    value = Service(
        api_version="mesh/v1",
        metadata=Metadata(name=name, namespace=namespace),
        spec=ServiceSpec(ports=(ServicePort(name="http", port=port, protocol="http"),)),
    )
    return pb.Change(put=codec.encode(value))


async def refused(caller: Caller, rpc: str, request: object, code: StatusCode, match: str | None = None) -> None:
    with pytest.raises(RpcError, match=match) as caught:
        await caller.call(rpc, request, pb.ReportReply)  # type: ignore[arg-type]  # any message
    assert caught.value.code is code, caught.value


# -- who they are


async def test_a_login_token_makes_an_operator_for_half_a_day(replica: Replica, name: str) -> None:
    person = await log_in(replica, name, "admin")
    assert person.reply.spiffe_id == f"spiffe://{TRUST_DOMAIN}/operator/{name}"
    leaf, _ = parse_chain(person.reply.chain)
    assert str(leaf_identity(leaf)) == person.reply.spiffe_id
    lifetime = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()
    assert OPERATOR_SECONDS <= lifetime <= OPERATOR_SECONDS + 120
    async with person.calls() as caller:
        await caller.call("Config/List", pb.ListRequest(), pb.ListReply)


async def test_a_login_token_is_good_once_and_for_nothing_else(replica: Replica, name: str) -> None:
    token = await login_token(replica, name, "admin")
    async with replica.stranger(token.trust_bundle) as stranger:
        join = pb.JoinRequest(token=token.token, csr=new_csr()[1], etcd_csr=new_csr()[1])
        await refused(stranger, "Identity/Join", join, StatusCode.UNAUTHENTICATED, "not a join token")
        bad = pb.LoginRequest(token=token.token, csr=b"no request")
        await refused(stranger, "Identity/Login", bad, StatusCode.INVALID_ARGUMENT)
    await use_login_token(replica, name, token)
    with pytest.raises(RpcError, match="has been used"):
        await use_login_token(replica, name, token)
    joining = await replica.token("orders", "shop")
    with pytest.raises(RpcError, match="not a login token"):
        await use_login_token(replica, name, joining)


async def test_fifty_logins_with_one_token(replica: Replica, name: str) -> None:
    token = await login_token(replica, name, "viewer")
    outcomes: list[str] = []

    async def attempt() -> None:
        try:
            await use_login_token(replica, name, token)
            outcomes.append("in")
        except RpcError as error:
            outcomes.append(error.code.name)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(attempt)
    assert sorted(outcomes) == ["UNAUTHENTICATED"] * 49 + ["in"]


async def test_renewing_gives_the_same_operator(replica: Replica, name: str) -> None:
    person = await log_in(replica, name, "viewer")
    key, csr = new_csr()
    async with person.calls() as caller:
        reply = await caller.call("Identity/RenewLogin", pb.RenewLoginRequest(csr=csr), pb.OperatorReply)
    assert reply.spiffe_id == person.reply.spiffe_id
    async with Person(replica, name, reply, key).calls() as caller:
        await caller.call("Config/List", pb.ListRequest(), pb.ListReply)


async def test_a_certificate_without_a_role_is_worth_nothing(replica: Replica, mesh: Mesh, name: str) -> None:
    person = await log_in(replica, name, "admin")
    async with mesh.client() as etcd:
        await etcd.delete(mesh.keyspace.operator(name))
    async with person.calls() as caller:
        for path in sorted(ALLOWED):
            rpc = path.removeprefix("/mesh.v1.")
            if rpc in ("Config/Watch", "Sidecars/Wait", "Authority/Follow"):
                continue
            await refused(caller, rpc, pb.ListRequest(), StatusCode.PERMISSION_DENIED, "no role here")


async def test_a_record_that_is_malformed_gives_no_role(replica: Replica, mesh: Mesh, name: str) -> None:
    person = await log_in(replica, name, "admin")
    async with mesh.client() as etcd:
        for value in (b"\xc1", codec.encode(Operator(name=name, role="admin", since=0, granted_by="x"))[:-3]):
            await etcd.put(mesh.keyspace.operator(name), value)
            async with person.calls() as caller:
                await refused(caller, "Config/List", pb.ListRequest(), StatusCode.DATA_LOSS)
    await grant(replica, name, "viewer")  # what mends it
    async with (await log_in(replica, name)).calls() as caller:
        await caller.call("Config/List", pb.ListRequest(), pb.ListReply)


async def test_a_record_that_was_mended_counts_for_nobody_from_before(
    replica: Replica, mesh: Mesh, tmp_path: Path, name: str
) -> None:
    """It may have said that they were revoked: nobody knows."""
    person = await log_in(replica, name, "admin")
    unused = await login_token(replica, name)
    async with mesh.client() as etcd:
        await etcd.put(mesh.keyspace.operator(name), b"\xc1")
    async with running_replica(mesh, tmp_path / "later", now=lambda: time.time() + 2) as later:
        await grant(later, name, "admin")  # in a later second than that of which certificate and token are
    async with person.calls() as caller:
        await refused(caller, "Config/List", pb.ListRequest(), StatusCode.UNAUTHENTICATED, "before a revocation")
    with pytest.raises(RpcError, match="before"):
        await use_login_token(replica, name, unused)


# -- what they may


async def test_every_role_and_every_rpc(replica: Replica, name: str) -> None:
    """By the wire: what the table refuses is refused before anything is looked at, and what it allows is not."""
    people = {
        Role.ADMIN: await log_in(replica, f"{name}-a", "admin"),
        Role.EDITOR: await log_in(replica, f"{name}-e", "editor", ["nowhere"]),
        Role.VIEWER: await log_in(replica, f"{name}-v", "viewer"),
    }
    for role, person in people.items():
        async with person.calls() as caller:
            for path, roles in sorted(ALLOWED.items()):
                rpc = path.removeprefix("/mesh.v1.")
                if role in roles:
                    continue  # driven by the tests of the services
                with pytest.raises(RpcError) as caught:
                    await caller.call(rpc, pb.ListRequest(), pb.ListReply)
                assert caught.value.code is StatusCode.PERMISSION_DENIED, (role, rpc, caught.value)


async def test_an_editor_writes_in_its_own_namespaces_and_the_whole_change_set_counts(
    replica: Replica, namespace: str, name: str
) -> None:
    other = f"{namespace}-2"
    editor = await log_in(replica, name, "editor", [namespace])
    async with editor.calls() as caller, replica.admin() as admin:
        assert (await caller.apply(put(namespace))).revision
        for changes in (
            (put(other),),
            (put(namespace, "a"), put(other)),
            (pb.Change(delete=pb.ObjectKey(kind="Service", namespace=other, name="orders")),),
            (pb.Change(delete=pb.ObjectKey(kind="Mesh", namespace=SYSTEM_NAMESPACE, name="mesh")),),
        ):
            for dry_run in (False, True):
                with pytest.raises(RpcError, match=f"is editor of {namespace}") as caught:
                    await caller.apply(*changes, dry_run=dry_run)
                assert caught.value.code is StatusCode.PERMISSION_DENIED
        listed = await admin.call("Config/List", pb.ListRequest(kind="Service"), pb.ListReply)
        mine = {(one.key.namespace, one.key.name) for one in listed.objects}
        assert (namespace, "orders") in mine
        assert not {(namespace, "a"), (other, "orders")} & mine
        # Reading is for all of the mesh.
        await caller.call("Config/List", pb.ListRequest(namespace=other), pb.ListReply)


async def test_an_editor_makes_join_tokens_for_its_own_namespaces(replica: Replica, namespace: str, name: str) -> None:
    editor = await log_in(replica, name, "editor", [namespace])
    foreign = await replica.token("orders", f"{namespace}-2")
    async with editor.calls() as caller:
        for service in ("orders", "*"):
            request = pb.CreateTokenRequest(request_id=new_id(), namespace=namespace, service=service, ttl_seconds=60)
            token = await caller.call("Tokens/Create", request, pb.CreateTokenReply)
        revoking = pb.RevokeTokenRequest(request_id=new_id(), id=token.id)
        await caller.call("Tokens/Revoke", revoking, pb.RevokeTokenReply)
        for request in (
            pb.CreateTokenRequest(request_id=new_id(), namespace=f"{namespace}-2", service="orders"),
            pb.CreateTokenRequest(request_id=new_id(), operator="mallory", role="admin"),
            pb.CreateTokenRequest(request_id=new_id(), operator=name),
        ):
            await refused(caller, "Tokens/Create", request, StatusCode.PERMISSION_DENIED)
        revoking = pb.RevokeTokenRequest(request_id=new_id(), id=foreign.id)
        await refused(caller, "Tokens/Revoke", revoking, StatusCode.PERMISSION_DENIED)


@pytest.mark.parametrize(
    ("role", "namespaces"),
    [
        ("owner", ()), ("", ()), ("Admin", ()), ("editor", ()), ("editor", (SYSTEM_NAMESPACE,)), ("editor", ("*",)),
        ("viewer", ("shop",)), ("admin", ("shop",)),
    ],
)  # fmt: skip
async def test_roles_that_are_none(replica: Replica, name: str, role: str, namespaces: tuple[str, ...]) -> None:
    request = pb.GrantOperatorRequest(request_id=new_id(), name=name, role=role, namespaces=namespaces)
    async with replica.admin() as admin:
        await refused(admin, "Operators/Grant", request, StatusCode.INVALID_ARGUMENT)
        listed = await admin.call("Operators/List", pb.ListOperatorsRequest(), pb.ListOperatorsReply)
    assert name not in {one.name for one in listed.operators}


async def test_a_token_gives_no_other_role_to_who_has_one(replica: Replica, name: str) -> None:
    await grant(replica, name, "viewer")
    with pytest.raises(RpcError, match="viewer already") as caught:
        await login_token(replica, name, "admin")
    assert caught.value.code is StatusCode.ABORTED
    assert (await log_in(replica, name)).reply.operator.role == "viewer"
    assert (await log_in(replica, name, "viewer")).reply.operator.role == "viewer"


# -- at once


async def test_a_change_of_role_counts_from_the_next_call_on(
    replica: Replica, second_replica: Replica, namespace: str, name: str
) -> None:
    person = await log_in(replica, name, "viewer")
    async with person.calls() as caller:
        with pytest.raises(RpcError, match="role viewer"):
            await caller.apply(put(namespace))
        await grant(second_replica, name, "editor", [namespace])
        assert (await caller.apply(put(namespace))).revision
        await grant(second_replica, name, "viewer")
        with pytest.raises(RpcError, match="role viewer"):
            await caller.apply(put(namespace, "b"))


@pytest.mark.fault(24)
async def test_who_is_revoked_may_nothing_from_then_on_for_good(replica: Replica, name: str) -> None:
    person = await log_in(replica, name, "admin")
    unused = await login_token(replica, name)
    await revoke(replica, name)
    async with person.calls() as caller:
        for rpc in ("Config/List", "Operators/List", "Identity/RenewLogin"):
            await refused(caller, rpc, pb.ListRequest(), StatusCode.PERMISSION_DENIED, "was revoked")
    with pytest.raises(RpcError, match="was revoked"):
        await use_login_token(replica, name, unused)
    with pytest.raises(RpcError, match="was revoked"):
        await login_token(replica, name)
    # The name again, for somebody else perhaps: neither the old certificate nor the old token counts.
    await grant(replica, name, "admin")
    async with person.calls() as caller:
        await refused(caller, "Config/List", pb.ListRequest(), StatusCode.UNAUTHENTICATED, "before a revocation")
    with pytest.raises(RpcError, match="before"):
        await use_login_token(replica, name, unused)
    # What is made now counts at once.
    again = await log_in(replica, name)
    async with again.calls() as caller:
        await caller.call("Operators/List", pb.ListOperatorsRequest(), pb.ListOperatorsReply)


async def test_a_token_with_a_role_brings_back_who_was_revoked(replica: Replica, name: str) -> None:
    await log_in(replica, name, "admin")
    await revoke(replica, name)
    again = await log_in(replica, name, "viewer")
    assert again.reply.operator.role == "viewer"
    async with again.calls() as caller:
        await caller.call("Config/List", pb.ListRequest(), pb.ListReply)


async def test_an_open_stream_ends_with_the_role(replica: Replica, name: str) -> None:
    person = await log_in(replica, name, "viewer")
    async with person.calls() as caller, caller.stream("Config/Watch", pb.WatchRequest(), pb.WatchEvent) as following:
        async with trio.open_nursery() as nursery:
            ended: list[RpcError] = []

            async def follow() -> None:
                try:
                    while True:
                        await following()
                except RpcError as error:
                    ended.append(error)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(follow)
            async with person.calls() as other:  # the stream is open before the role goes
                await other.call("Config/List", pb.ListRequest(), pb.ListReply)
            await revoke(replica, name)
            with trio.fail_after(8):
                await trio.sleep_forever()
    assert ended[0].code is StatusCode.PERMISSION_DENIED
    assert "was revoked" in ended[0].details


async def test_a_stream_goes_on_through_a_change_that_leaves_it_allowed(
    replica: Replica, namespace: str, name: str
) -> None:
    person = await log_in(replica, name, "viewer")
    async with person.calls() as caller, caller.stream("Config/Watch", pb.WatchRequest(), pb.WatchEvent) as following:
        await grant(replica, name, "admin")
        seen: set[str] = set()

        async def write_until_seen() -> None:
            # The stream starts at some revision from now on: write until it shows one.
            number = 0
            while True:
                number += 1
                async with replica.admin() as admin:
                    await admin.apply(put(namespace, port=8000 + number))
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_until_seen)
            with trio.fail_after(8):
                while not any(namespace in key for key in seen):
                    seen.add((await following()).key)
            nursery.cancel_scope.cancel()


async def test_a_write_under_way_is_refused_when_the_role_goes(
    replica: Replica, mesh: Mesh, namespace: str, name: str
) -> None:
    """The role is a guard of the transaction: between the check and the write, nobody slips through."""
    await grant(replica, name, "editor", [namespace])
    async with mesh.client() as etcd:
        store = Store(etcd, mesh.keyspace)
        operators = Operators(store)
        identity = SpiffeId(TRUST_DOMAIN, f"/operator/{name}")
        caller = await operators.known(ApiCaller(CallerKind.OPERATOR, "here", identity, issued=4_000_000_000))
        await revoke(replica, name)
        changes = convert.changes_from(pb.ApplyRequest(changes=[put(namespace)]))
        request = Request(new_id(), b"f" * 32)
        with pytest.raises(Conflict):
            await change_set.apply(
                store, RequestWriter(store), request, changes, dry_run=False, seconds=5, now=0, guards=caller.guards
            )
        assert await etcd.get(mesh.keyspace.object(ObjectRef("Service", namespace, "orders"))) is None
        with pytest.raises(PermissionDenied, match="was revoked"):
            await operators.known(caller)
