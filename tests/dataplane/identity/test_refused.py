"""What a sidecar does not take for its identity, from a replica or from its own disk."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from dataplane.identity.store import encode
from schemas import codec
from schemas.api import mesh_pb2
from spiffe.bundle import record
from tests.dataplane.identity.fake_replica import HOUR, SPIFFE_ID, TRUST_DOMAIN, der, sign
from tests.dataplane.identity.host import Host, let_pass
from tests.support.net import eventually
from tests.support.pki import Authority


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
        await let_pass(host, keeper, HOUR * 0.6)
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
