"""Operators and hosts with certificates of their own, against a real replica."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from schemas.api import mesh_pb2 as pb
from spiffe import possession
from spiffe.possession import HostKey
from tests.controlplane.replica import (
    TRUST_DOMAIN,
    Caller,
    Replica,
    bundle_pem,
    der_to_pem,
    key_pem,
    new_csr,
    new_id,
)
from tests.support.pki import Authority, Leaf


@dataclass
class Person:
    """An operator's identity, and calls with it."""

    replica: Replica
    name: str
    reply: pb.OperatorReply
    key: ec.EllipticCurvePrivateKey

    @asynccontextmanager
    async def calls(self) -> AsyncIterator[Caller]:
        chain = b"".join(der_to_pem(der) for der in self.reply.chain)
        ca = bundle_pem(self.reply.trust_bundle)
        async with self.replica.with_certificate(ca, chain, key_pem(self.key)) as caller:
            yield caller


async def login_token(
    replica: Replica, name: str, role: str = "", namespaces: Sequence[str] = ()
) -> pb.CreateTokenReply:
    request = pb.CreateTokenRequest(
        request_id=new_id(), operator=name, role=role, namespaces=namespaces, ttl_seconds=600
    )
    async with replica.admin() as admin:
        return await admin.call("Tokens/Create", request, pb.CreateTokenReply)


async def use_login_token(replica: Replica, name: str, token: pb.CreateTokenReply) -> Person:
    key, csr = new_csr()
    async with replica.stranger(token.trust_bundle) as stranger:
        request = pb.LoginRequest(token=token.token, csr=csr)
        reply = await stranger.call("Identity/Login", request, pb.OperatorReply)
    return Person(replica, name, reply, key)


async def log_in(replica: Replica, name: str, role: str = "", namespaces: Sequence[str] = ()) -> Person:
    return await use_login_token(replica, name, await login_token(replica, name, role, namespaces))


async def grant(replica: Replica, name: str, role: str, namespaces: Sequence[str] = ()) -> None:
    request = pb.GrantOperatorRequest(request_id=new_id(), name=name, role=role, namespaces=namespaces)
    async with replica.admin() as admin:
        await admin.call("Operators/Grant", request, pb.GrantOperatorReply)


async def revoke(replica: Replica, name: str) -> None:
    async with replica.admin() as admin:
        request = pb.RevokeOperatorRequest(request_id=new_id(), name=name)
        await admin.call("Operators/Revoke", request, pb.RevokeOperatorReply)


# -- host certificates


async def trust_hosts(replica: Replica, name: str, authority: Authority, **rules: str) -> None:
    """`rules`: match (with ``__`` for ``:``) to selector."""
    request = pb.PutAttestorRequest(
        request_id=new_id(),
        name=name,
        x509_authorities=[authority.certificate.public_bytes(Encoding.DER)],
        rules=[pb.HostRule(match=match.replace("__", ":"), selector=one) for match, one in rules.items()],
    )
    async with replica.admin() as admin:
        await admin.call("Attestors/Put", request, pb.PutAttestorReply)


async def forget_hosts(replica: Replica, name: str) -> None:
    async with replica.admin() as admin:
        request = pb.DeleteAttestorRequest(request_id=new_id(), name=name)
        await admin.call("Attestors/Delete", request, pb.DeleteAttestorReply)


async def where(replica: Replica) -> pb.WhereReply:
    async with replica.admin() as admin:
        return await admin.call("Attestors/Where", pb.WhereRequest(), pb.WhereReply)


def chain_of(leaf: Leaf) -> list[bytes]:
    return [one.public_bytes(Encoding.DER) for one in (leaf.certificate, *leaf.intermediates)]


async def challenge(stranger: Caller) -> bytes:
    return (await stranger.call("Identity/Challenge", pb.ChallengeRequest(), pb.ChallengeReply)).nonce


def proof_request(
    leaf: Leaf, nonce: bytes, namespace: str, service: str, *, key: HostKey | None = None
) -> pb.JoinRequest:
    """What a host sends; `key`: sign with another one than the certificate's."""
    csr, etcd_csr = new_csr()[1], new_csr()[1]
    chain = chain_of(leaf)
    signed = possession.statement(
        trust_domain=TRUST_DOMAIN,
        nonce=nonce,
        namespace=namespace,
        service=service,
        csr=csr,
        etcd_csr=etcd_csr,
        leaf=chain[0],
    )
    proof = pb.X509Possession(chain=chain, nonce=nonce, signature=possession.sign(key or leaf.key, signed))
    return pb.JoinRequest(csr=csr, etcd_csr=etcd_csr, namespace=namespace, service=service, x509=proof)


async def join_with_certificate(stranger: Caller, leaf: Leaf, namespace: str, service: str) -> pb.IdentityReply:
    request = proof_request(leaf, await challenge(stranger), namespace, service)
    return await stranger.call("Identity/Join", request, pb.IdentityReply)
