from __future__ import annotations

import logging
from collections import Counter

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import trio_etcd
from controlplane.ca import tokens
from schemas.api import mesh_pb2 as pb
from spiffe.x509 import leaf_identity, parse_chain
from tests.controlplane.replica import TRUST_DOMAIN, Mesh, Replica, bundle_pem, der_to_pem, key_pem, new_csr, new_id
from tests.support.pki import Authority
from trio_grpc import TLS, RpcError, StatusCode


async def join(replica: Replica, token: pb.CreateTokenReply, csr: bytes | None = None) -> pb.IdentityReply:
    request = pb.JoinRequest(token=token.token, csr=csr or new_csr()[1], etcd_csr=new_csr()[1])
    async with replica.stranger(token.trust_bundle) as stranger:
        return await stranger.call("Identity/Join", request, pb.IdentityReply)


async def test_join_gives_the_tokens_service_and_read_access_to_etcd(
    replica: Replica, mesh: Mesh, namespace: str
) -> None:
    token = await replica.token("orders", namespace)
    assert (token.trust_domain, token.token.split(".")[0]) == (TRUST_DOMAIN, "mjt1")
    etcd_key, etcd_csr = new_csr()
    async with replica.stranger(token.trust_bundle) as stranger:
        request = pb.JoinRequest(token=token.token, csr=new_csr()[1], etcd_csr=etcd_csr)
        reply = await stranger.call("Identity/Join", request, pb.IdentityReply)
    assert reply.spiffe_id == f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/svc/orders"
    leaf, _ = parse_chain(reply.chain)
    assert str(leaf_identity(leaf)) == reply.spiffe_id
    assert reply.trust_bundle == token.trust_bundle
    assert (list(reply.etcd_endpoints), reply.key_prefix) == ([mesh.etcd.endpoint], "/mesh/v1")
    assert reply.expires == int(leaf.not_valid_after_utc.timestamp())
    tls = TLS(reply.etcd_ca, der_to_pem(reply.etcd_chain[0]), key_pem(etcd_key))
    async with trio_etcd.open_etcd(list(reply.etcd_endpoints), tls=tls) as etcd:
        assert await etcd.get(mesh.keyspace.epoch())
        with pytest.raises(trio_etcd.PermissionDenied):
            await etcd.put(mesh.keyspace.epoch(), b"x")
        with pytest.raises(trio_etcd.PermissionDenied):
            await etcd.list(mesh.keyspace.tokens())


async def test_fifty_uses_of_one_token_at_once(replica: Replica, second_replica: Replica, namespace: str) -> None:
    token = await replica.token("orders", namespace)
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
    assert outcomes == {"joined": 1, "refused": 49}


async def test_used_forged_and_malformed_tokens(
    replica: Replica, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = await replica.token("orders", namespace)
    good = token.token
    flipped = good[:-2] + ("A" if good[-2] != "A" else "B") + good[-1]
    unknown = tokens.make(bytes(range(tokens.RANDOM_BYTES))).text
    with caplog.at_level(logging.INFO):
        for text, told in ((flipped, "unknown"), (unknown, "unknown"), ("mjt1.x.y", "not a join token"), ("", "not a")):
            with pytest.raises(RpcError, match=told) as caught:
                await join(replica, pb.CreateTokenReply(token=text, trust_bundle=token.trust_bundle))
            assert caught.value.code is StatusCode.UNAUTHENTICATED
        await join(replica, token)
        with pytest.raises(RpcError, match="has been used"):
            await join(replica, token)
    lines = "\n".join(f"{record.getMessage()} {getattr(record, 'fields', '')}" for record in caplog.records)
    assert lines.count("refused") >= 5
    for secret in (good, flipped, unknown):
        assert secret.split(".")[2] not in lines


def greedy_csr() -> bytes:
    """Asks for all that it must not get."""
    names = [
        x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/operator/anna"),
        x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/control-plane"),
        x509.DNSName("control-plane.mesh.internal"),
    ]
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(
        serialization.Encoding.DER
    )


async def test_a_request_gives_its_key_and_nothing_else(replica: Replica, namespace: str) -> None:
    token = await replica.token("orders", namespace)
    async with replica.stranger(token.trust_bundle) as stranger:
        request = pb.JoinRequest(token=token.token, csr=greedy_csr(), etcd_csr=greedy_csr())
        reply = await stranger.call("Identity/Join", request, pb.IdentityReply)
    leaf = x509.load_der_x509_certificate(reply.chain[0])
    assert str(leaf_identity(leaf)) == f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/svc/orders"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert not names.get_values_for_type(x509.DNSName)
    etcd_leaf = x509.load_der_x509_certificate(reply.etcd_chain[0])
    assert etcd_leaf.subject.rfc4514_string() == "CN=mesh-sidecar"


async def test_a_bad_request_costs_no_token(replica: Replica, namespace: str) -> None:
    token = await replica.token("orders", namespace)
    with pytest.raises(RpcError) as caught:
        await join(replica, token, csr=b"not a request")
    assert caught.value.code is StatusCode.INVALID_ARGUMENT
    assert await join(replica, token)


async def test_renew_gives_the_same_identity_and_no_other(replica: Replica, namespace: str) -> None:
    joined = await replica.join("orders", namespace)
    async with joined.calls() as sidecar:
        request = pb.RenewRequest(csr=greedy_csr(), etcd_csr=new_csr()[1])
        reply = await sidecar.call("Identity/Renew", request, pb.IdentityReply)
    assert reply.spiffe_id == joined.reply.spiffe_id
    assert str(leaf_identity(x509.load_der_x509_certificate(reply.chain[0]))) == joined.reply.spiffe_id


async def test_the_doors_keep_callers_apart(replica: Replica, namespace: str) -> None:
    joined = await replica.join("orders", namespace)
    renew = pb.RenewRequest(csr=new_csr()[1], etcd_csr=new_csr()[1])
    async with (
        joined.calls() as sidecar,
        replica.stranger(joined.reply.trust_bundle) as stranger,
        replica.admin() as root,
    ):
        for caller, rpc, request in (
            (sidecar, "Config/List", pb.ListRequest()),
            (sidecar, "Tokens/Create", pb.CreateTokenRequest(request_id=new_id())),
            (stranger, "Config/List", pb.ListRequest()),
            (stranger, "Identity/Renew", renew),
            (root, "Identity/Renew", renew),
            (root, "Sidecars/Register", pb.RegisterRequest()),
        ):
            with pytest.raises(RpcError) as caught:
                await caller.call(rpc, request, pb.ListReply)
            assert caught.value.code is StatusCode.PERMISSION_DENIED
        with pytest.raises(RpcError) as caught:
            await root.call("Config/Destroy", pb.ListRequest(), pb.ListReply)
        assert caught.value.code is StatusCode.UNIMPLEMENTED


async def test_a_certificate_of_another_authority_gets_no_connection(replica: Replica, namespace: str) -> None:
    token = await replica.token("orders", namespace)
    forged = Authority.create().issue(uri=f"spiffe://{TRUST_DOMAIN}/operator/anna")
    async with replica.with_certificate(bundle_pem(token.trust_bundle), forged.chain_pem, forged.key_pem) as caller:
        with pytest.raises(RpcError) as caught:
            await caller.call("Config/List", pb.ListRequest(), pb.ListReply, seconds=3)
        assert caught.value.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)


async def test_a_token_is_made_once_for_a_request(replica: Replica, mesh: Mesh, namespace: str) -> None:
    request = pb.CreateTokenRequest(request_id=new_id(), namespace=namespace, service="orders", ttl_seconds=60)
    async with replica.admin() as admin, mesh.client() as etcd:
        token = await admin.call("Tokens/Create", request, pb.CreateTokenReply)
        with pytest.raises(RpcError, match="shown once") as caught:
            await admin.call("Tokens/Create", request, pb.CreateTokenReply)
        assert caught.value.code is StatusCode.ABORTED
        for bad in (
            pb.CreateTokenRequest(request_id=new_id(), namespace="A", service="orders"),
            pb.CreateTokenRequest(request_id=new_id(), namespace=namespace, service="orders", ttl_seconds=10**9),
        ):
            with pytest.raises(RpcError) as caught:
                await admin.call("Tokens/Create", bad, pb.CreateTokenReply)
            assert caught.value.code is StatusCode.INVALID_ARGUMENT
        secret = token.token.split(".")[2].encode()
        assert all(secret not in kv.value for kv in (await etcd.list(b"/mesh/v1/")).kvs)


async def test_a_batch_gives_each_key_the_callers_own_identity(replica: Replica, namespace: str) -> None:
    joined = await replica.join("orders", namespace)
    keys = [new_csr() for _ in range(3)]
    items = [pb.RenewRequest(csr=csr, etcd_csr=new_csr()[1]) for _, csr in keys]
    items.insert(1, pb.RenewRequest(csr=b"no request", etcd_csr=new_csr()[1]))
    items.append(pb.RenewRequest(csr=greedy_csr(), etcd_csr=greedy_csr()))
    async with joined.calls() as sidecar:
        reply = await sidecar.call("Identity/RenewBatch", pb.RenewBatchRequest(items=items), pb.RenewBatchReply)
    assert reply.common.spiffe_id == joined.reply.spiffe_id
    assert (reply.common.trust_bundle, reply.common.etcd_ca) == (joined.reply.trust_bundle, joined.reply.etcd_ca)
    refused = reply.items.pop(1)
    assert not refused.chain
    assert "not a readable request" in refused.refused.message
    issued = [parse_chain(item.chain)[0] for item in reply.items]
    assert len(issued) == 4
    assert {str(leaf_identity(leaf)) for leaf in issued} == {joined.reply.spiffe_id}
    assert [leaf.public_key() for leaf in issued[:3]] == [key.public_key() for key, _ in keys]
    assert len({leaf.serial_number for leaf in issued}) == 4
    for item in reply.items:
        etcd_leaf = x509.load_der_x509_certificate(item.etcd_chain[0])
        assert etcd_leaf.subject.rfc4514_string() == "CN=mesh-sidecar"
        assert item.expires >= reply.common.expires > 0


@pytest.mark.parametrize("count", [0, 101])
async def test_a_batch_is_bounded(replica: Replica, namespace: str, count: int) -> None:
    joined = await replica.join("orders", namespace)
    async with joined.calls() as sidecar:
        request = pb.RenewBatchRequest(items=[pb.RenewRequest()] * count)
        with pytest.raises(RpcError, match="expected 1 to 100") as caught:
            await sidecar.call("Identity/RenewBatch", request, pb.RenewBatchReply)
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


async def test_who_can_not_be_served_in_time_is_told_so_at_once(replica: Replica, namespace: str) -> None:
    """And when to come again, by gRPC's own name for it."""
    joined = await replica.join("orders", namespace)
    item = pb.RenewRequest(csr=new_csr()[1], etcd_csr=new_csr()[1])
    async with joined.calls() as sidecar:
        await sidecar.call("Identity/Renew", item, pb.IdentityReply)
        request = pb.RenewBatchRequest(items=[item] * 100)
        with pytest.raises(RpcError, match=r"nothing was issued: ask again in 0\.5 s") as caught:
            # A quarter of a second is left of it, and a replica that has hardly signed yet reckons with 5 ms a pair.
            await sidecar.call("Identity/RenewBatch", request, pb.RenewBatchReply, seconds=0.5)
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing)["grpc-retry-pushback-ms"] == "500"
