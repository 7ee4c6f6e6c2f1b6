"""Who gets which identity, through a real replica: tokens for several hosts, host certificates, and what is refused."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.records import Epoch
from tests.controlplane.access import (
    challenge,
    forget_hosts,
    join_with_certificate,
    proof_request,
    trust_hosts,
    where,
)
from tests.controlplane.replica import TRUST_DOMAIN, Caller, Mesh, Replica, new_csr, new_id
from tests.support.pki import Authority
from trio_grpc import RpcError, StatusCode

CORP = Authority.create("corp hosts")


def spiffe_id(namespace: str, service: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/svc/{service}"


async def make_token(replica: Replica, namespace: str, service: str, uses: int = 1) -> pb.CreateTokenReply:
    request = pb.CreateTokenRequest(
        request_id=new_id(), namespace=namespace, service=service, uses=uses, ttl_seconds=600
    )
    async with replica.admin() as admin:
        return await admin.call("Tokens/Create", request, pb.CreateTokenReply)


async def join(
    replica: Replica, token: pb.CreateTokenReply, namespace: str = "", service: str = ""
) -> pb.IdentityReply:
    request = pb.JoinRequest(
        token=token.token, csr=new_csr()[1], etcd_csr=new_csr()[1], namespace=namespace, service=service
    )
    async with replica.stranger(token.trust_bundle) as stranger:
        return await stranger.call("Identity/Join", request, pb.IdentityReply)


async def info(replica: Replica, token: pb.CreateTokenReply) -> pb.TokenInfo:
    async with replica.admin() as admin:
        reply = await admin.call("Tokens/List", pb.ListTokensRequest(), pb.ListTokensReply)
    return next(one for one in reply.tokens if one.id == token.id)


async def revoke(replica: Replica, token_id: str) -> pb.RevokeTokenReply:
    async with replica.admin() as admin:
        request = pb.RevokeTokenRequest(request_id=new_id(), id=token_id)
        return await admin.call("Tokens/Revoke", request, pb.RevokeTokenReply)


# -- tokens


@pytest.mark.fault(17)
async def test_of_fifty_hosts_as_many_join_as_a_token_has_uses(
    replica: Replica, second_replica: Replica, namespace: str
) -> None:
    token = await make_token(replica, namespace, "orders", uses=7)
    outcomes: Counter[str] = Counter()

    async def attempt(one: Replica) -> None:
        try:
            await join(one, token)
            outcomes["joined"] += 1
        except RpcError as error:
            outcomes["refused" if error.code is StatusCode.UNAUTHENTICATED else str(error)] += 1

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(attempt, (replica, second_replica)[number % 2])
    assert outcomes == {"joined": 7, "refused": 43}
    told = await info(replica, token)
    assert (told.uses, told.uses_left, len(told.used)) == (7, 0, 7)
    assert {use.identity for use in told.used} == {spiffe_id(namespace, "orders")}


async def test_a_token_for_a_namespace_gives_what_the_host_names_of_it(replica: Replica, namespace: str) -> None:
    token = await make_token(replica, namespace, "*", uses=2)
    for wanted, code in (
        (("", ""), StatusCode.INVALID_ARGUMENT),
        ((namespace, ""), StatusCode.INVALID_ARGUMENT),
        ((namespace, "*"), StatusCode.INVALID_ARGUMENT),
        ((namespace, "a/b"), StatusCode.INVALID_ARGUMENT),
        ((f"{namespace}-2", "orders"), StatusCode.PERMISSION_DENIED),
        (("mesh-system", "orders"), StatusCode.PERMISSION_DENIED),
    ):
        with pytest.raises(RpcError) as caught:
            await join(replica, token, *wanted)
        assert caught.value.code is code, (wanted, caught.value)
    for service in ("orders", "payments"):
        assert (await join(replica, token, namespace, service)).spiffe_id == spiffe_id(namespace, service)
    with pytest.raises(RpcError, match="has been used 2 times"):
        await join(replica, token, namespace, "orders")


async def test_a_token_for_a_service_gives_no_other(replica: Replica, namespace: str) -> None:
    token = await make_token(replica, namespace, "orders")
    with pytest.raises(RpcError, match="not for") as caught:
        await join(replica, token, namespace, "payments")
    assert caught.value.code is StatusCode.PERMISSION_DENIED
    assert (await join(replica, token, namespace, "orders")).spiffe_id == spiffe_id(namespace, "orders")


async def test_the_list_says_all_but_the_secret(replica: Replica, namespace: str) -> None:
    token = await make_token(replica, namespace, "orders", uses=3)
    await join(replica, token)
    told = await info(replica, token)
    assert (told.bound_to, told.uses, told.uses_left) == (f"{namespace}/orders", 3, 2)
    assert (told.created_by, told.expires, told.revoked) == ("root-local", token.expires, 0)
    assert "127.0.0.1" in told.used[0].by
    async with replica.admin() as admin:
        reply = await admin.call("Tokens/List", pb.ListTokensRequest(), pb.ListTokensReply)
    assert token.token.split(".")[2].encode() not in reply.SerializeToString()


async def test_a_revoked_token_lets_nobody_in_and_takes_nothing_back(replica: Replica, namespace: str) -> None:
    token = await make_token(replica, namespace, "orders", uses=3)
    await join(replica, token)
    assert (await revoke(replica, token.id)).revision > 0
    with pytest.raises(RpcError, match="was revoked") as caught:
        await join(replica, token)
    assert caught.value.code is StatusCode.UNAUTHENTICATED
    told = await info(replica, token)
    assert (told.uses_left, len(told.used), told.revoked_by) == (0, 1, "root-local")
    for token_id, code in ((token.id, StatusCode.ABORTED), ("0" * 16, StatusCode.NOT_FOUND)):
        with pytest.raises(RpcError) as caught:
            await revoke(replica, token_id)
        assert caught.value.code is code


async def test_revoking_again_with_the_same_request_is_the_same(replica: Replica, namespace: str) -> None:
    token = await make_token(replica, namespace, "orders")
    request = pb.RevokeTokenRequest(request_id=new_id(), id=token.id)
    async with replica.admin() as admin:
        first = await admin.call("Tokens/Revoke", request, pb.RevokeTokenReply)
        again = await admin.call("Tokens/Revoke", request, pb.RevokeTokenReply)
    assert first == again


async def test_a_whole_token_in_place_of_its_id_is_not_repeated(
    replica: Replica, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = await make_token(replica, namespace, "orders")
    with pytest.raises(RpcError) as caught:
        await revoke(replica, token.token)
    assert caught.value.code is StatusCode.INVALID_ARGUMENT
    secret = token.token.split(".")[2]
    assert secret not in str(caught.value)
    assert secret not in "".join(f"{one.getMessage()}{getattr(one, 'fields', '')}" for one in caplog.records)


@pytest.mark.fault(17)
@pytest.mark.fault(5)
async def test_after_a_restore_of_etcd_tokens_from_before_are_worth_nothing(
    replica: Replica, mesh: Mesh, namespace: str
) -> None:
    token = await make_token(replica, namespace, "orders", uses=2)
    await join(replica, token)
    key = mesh.keyspace.epoch()
    async with mesh.client() as etcd:
        before = await etcd.get(key)
        assert before is not None
        await etcd.put(key, codec.encode(Epoch(id=f"restored-{new_id()}")))
        try:
            with pytest.raises(RpcError, match="before etcd was restored"):
                await join(replica, token)
            assert (await info(replica, token)).uses_left == 0
            fresh = await make_token(replica, namespace, "orders")
            assert await join(replica, fresh)
        finally:
            await etcd.put(key, before.value)


async def test_no_evidence_is_no_identity(replica: Replica, namespace: str) -> None:
    token = await make_token(replica, namespace, "orders")
    async with replica.stranger(token.trust_bundle) as stranger:
        request = pb.JoinRequest(csr=new_csr()[1], etcd_csr=new_csr()[1], namespace=namespace, service="orders")
        with pytest.raises(RpcError, match="no evidence") as caught:
            await stranger.call("Identity/Join", request, pb.IdentityReply)
    assert caught.value.code is StatusCode.UNAUTHENTICATED


# -- host certificates


@pytest.fixture
async def stranger(replica: Replica, namespace: str) -> AsyncIterator[Caller]:
    """Hosts of `CORP` with a name below `<namespace>.example.org` may be any service of the namespace."""
    await trust_hosts(replica, namespace, CORP, **{f"dns:*.{namespace}.example.org": f"{namespace}/*"})
    async with replica.stranger((await where(replica)).trust_bundle) as caller:
        yield caller
    await forget_hosts(replica, namespace)


async def test_a_host_with_a_certificate_joins_as_often_as_it_likes(stranger: Caller, namespace: str) -> None:
    host = CORP.issue("db1", dns=[f"db1.{namespace}.example.org"])
    for service in ("orders", "payments", "orders"):
        reply = await join_with_certificate(stranger, host, namespace, service)
        assert reply.spiffe_id == spiffe_id(namespace, service)


async def test_an_intermediate_of_the_authority(stranger: Caller, namespace: str) -> None:
    host = CORP.intermediate("site 1").issue("db1", dns=[f"db1.{namespace}.example.org"])
    assert host.intermediates
    assert await join_with_certificate(stranger, host, namespace, "orders")


@pytest.mark.parametrize(
    ("names", "service", "code"),
    [
        (["db1.{}.example.org"], "other/orders", StatusCode.PERMISSION_DENIED),
        (["db1.{}.example.org"], "{}2/orders", StatusCode.PERMISSION_DENIED),
        (["{}.example.org"], "{}/orders", StatusCode.UNAUTHENTICATED),
        (["a.db1.{}.example.org"], "{}/orders", StatusCode.UNAUTHENTICATED),
        (["*.{}.example.org"], "{}/orders", StatusCode.UNAUTHENTICATED),
        (["db1.{}.example.org.evil.org"], "{}/orders", StatusCode.UNAUTHENTICATED),
        ([], "{}/orders", StatusCode.UNAUTHENTICATED),
    ],
)
async def test_the_rules_bound_what_a_certificate_is_worth(
    stranger: Caller, namespace: str, names: list[str], service: str, code: StatusCode
) -> None:
    host = CORP.issue("db1", dns=[name.format(namespace) for name in names])
    wanted = service.format(namespace).split("/")
    with pytest.raises(RpcError) as caught:
        await join_with_certificate(stranger, host, wanted[0], wanted[1])
    assert caught.value.code is code, caught.value


async def test_certificates_of_others_and_of_before(stranger: Caller, namespace: str) -> None:
    name = f"db1.{namespace}.example.org"
    for host in (
        Authority.create("corp hosts").issue("db1", dns=[name]),
        CORP.issue("db1", dns=[name], lifetime=datetime.timedelta(minutes=-1)),
    ):
        with pytest.raises(RpcError, match="no host authority vouches") as caught:
            await join_with_certificate(stranger, host, namespace, "orders")
        assert caught.value.code is StatusCode.UNAUTHENTICATED


async def test_a_proof_is_good_once_and_only_for_what_it_was_made_for(stranger: Caller, namespace: str) -> None:
    host = CORP.issue("db1", dns=[f"db1.{namespace}.example.org"])

    async def send(request: pb.JoinRequest) -> pb.IdentityReply:
        return await stranger.call("Identity/Join", request, pb.IdentityReply)

    good = proof_request(host, await challenge(stranger), namespace, "orders")
    assert await send(good)
    with pytest.raises(RpcError, match="answered already"):
        await send(good)
    # A challenge that was overheard, answered for something else than was signed.
    for field, value in (
        ("csr", new_csr()[1]),
        ("etcd_csr", new_csr()[1]),
        ("service", "payments"),
    ):
        changed = proof_request(host, await challenge(stranger), namespace, "orders")
        setattr(changed, field, value)
        with pytest.raises(RpcError, match="was not signed") as caught:
            await send(changed)
        assert caught.value.code is StatusCode.UNAUTHENTICATED
    # Somebody else's certificate, which everybody can see, without its key.
    thief = ec.generate_private_key(ec.SECP256R1())
    stolen = proof_request(host, await challenge(stranger), namespace, "orders", key=thief)
    with pytest.raises(RpcError, match="was not signed"):
        await send(stolen)


async def test_a_challenge_of_one_replica_is_nothing_at_another(
    stranger: Caller, second_replica: Replica, namespace: str
) -> None:
    host = CORP.issue("db1", dns=[f"db1.{namespace}.example.org"])
    request = proof_request(host, await challenge(stranger), namespace, "orders")
    async with second_replica.stranger((await where(second_replica)).trust_bundle) as other:
        with pytest.raises(RpcError, match="not of this replica"):
            await other.call("Identity/Join", request, pb.IdentityReply)


async def test_a_proof_sent_fifty_times_at_once_counts_once(stranger: Caller, namespace: str) -> None:
    host = CORP.issue("db1", dns=[f"db1.{namespace}.example.org"])
    request = proof_request(host, await challenge(stranger), namespace, "orders")
    outcomes: Counter[str] = Counter()

    async def attempt() -> None:
        try:
            await stranger.call("Identity/Join", request, pb.IdentityReply)
            outcomes["joined"] += 1
        except RpcError as error:
            outcomes[error.code.name] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(attempt)
    # A connection has at most 32 calls at once; who is beyond that is told to come again, and joins nothing either.
    assert outcomes["joined"] == 1
    assert set(outcomes) <= {"joined", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert outcomes["UNAUTHENTICATED"] > 0


async def test_an_authority_that_was_removed_counts_no_more(replica: Replica, namespace: str) -> None:
    await trust_hosts(replica, namespace, CORP, any=f"{namespace}/orders")
    async with replica.stranger((await where(replica)).trust_bundle) as stranger:
        host = CORP.issue("db1")
        assert (await join_with_certificate(stranger, host, "", "")).spiffe_id == spiffe_id(namespace, "orders")
        await forget_hosts(replica, namespace)
        with pytest.raises(RpcError, match="no host authority"):
            await join_with_certificate(stranger, host, namespace, "orders")


async def test_an_authority_that_is_malformed_in_etcd_vouches_for_nobody(
    replica: Replica, mesh: Mesh, stranger: Caller, namespace: str
) -> None:
    host = CORP.issue("db1", dns=[f"db1.{namespace}.example.org"])
    async with mesh.client() as etcd:
        key = mesh.keyspace.attestor(f"{namespace}-broken")
        await etcd.put(key, b"\xc1")
        try:
            assert await join_with_certificate(stranger, host, namespace, "orders")
        finally:
            await etcd.delete(key)


async def test_what_is_no_authority_is_refused(replica: Replica) -> None:
    leaf = CORP.issue("db1", dns=["db1.example.org"])
    good = pb.HostRule(match="any", selector="shop/*")
    der = CORP.certificate.public_bytes(Encoding.DER)
    bad = (
        pb.PutAttestorRequest(name="x", x509_authorities=[leaf.certificate.public_bytes(Encoding.DER)], rules=[good]),
        pb.PutAttestorRequest(name="x", x509_authorities=[b"no certificate"], rules=[good]),
        pb.PutAttestorRequest(name="x", x509_authorities=[], rules=[good]),
        pb.PutAttestorRequest(name="x", x509_authorities=[der], rules=[]),
        pb.PutAttestorRequest(name="x", x509_authorities=[der], rules=[pb.HostRule(match="any", selector="*/*")]),
        pb.PutAttestorRequest(name="x", x509_authorities=[der], rules=[pb.HostRule(match="dns:*", selector="a/*")]),
        pb.PutAttestorRequest(name="../x", x509_authorities=[der], rules=[good]),
    )
    async with replica.admin() as admin:
        for request in bad:
            request.request_id = new_id()
            with pytest.raises(RpcError) as caught:
                await admin.call("Attestors/Put", request, pb.PutAttestorReply)
            assert caught.value.code is StatusCode.INVALID_ARGUMENT, request
