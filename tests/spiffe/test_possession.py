"""Proofs of possession: which keys and chains are believed, and that nothing but the very statement is."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidInput
from spiffe import possession
from spiffe.possession import InvalidProof
from tests.support.pki import Authority

CA = Authority.create("corp hosts")
HOST = CA.issue("db1", dns=["db1.example.org"])
RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    "rsa": RSA,
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
PARTS: dict[str, Any] = {
    "trust_domain": "example.org",
    "nonce": b"nonce",
    "namespace": "shop",
    "service": "orders",
    "csr": b"csr",
    "etcd_csr": b"etcd csr",
    "leaf": b"leaf",
}


def now() -> float:
    """Read when it is needed: what a test makes is not valid yet at the time when this module was imported."""
    return datetime.datetime.now(datetime.UTC).timestamp()


def certificate(
    key: Any,
    *,
    by: Authority = CA,
    ca: bool | None = None,
    usage: bool | None = None,
    purposes: list[x509.ObjectIdentifier] | None = None,
) -> x509.Certificate:
    """A host's, with what a test wants of extensions and nothing else."""
    moment = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "db1")]))
        .issuer_name(by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - datetime.timedelta(hours=1))
        .not_valid_after(moment + datetime.timedelta(hours=1))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if usage is not None:
        builder = builder.add_extension(
            x509.KeyUsage(usage, False, True, False, False, False, False, False, False), critical=True
        )
    if purposes is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(by.key, hashes.SHA256())


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key_signs_and_is_believed(kind: str) -> None:
    key = KEYS[kind]
    leaf = certificate(key)
    signature = possession.sign(key, b"statement")
    possession.check_signature(leaf, signature, b"statement")
    possession.check_host_chain([leaf], [CA.certificate], now())
    for bad in (b"", signature[:-1], bytes(len(signature))):
        with pytest.raises(InvalidProof):
            possession.check_signature(leaf, bad, b"statement")
    with pytest.raises(InvalidProof, match="was not signed"):
        possession.check_signature(leaf, signature, b"another statement")


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("other", KEYS)
def test_a_key_signs_for_its_own_certificate_only(kind: str, other: str) -> None:
    if kind != other:
        with pytest.raises(InvalidProof):
            possession.check_signature(certificate(KEYS[other]), possession.sign(KEYS[kind], b"s"), b"s")


# Made by the test, not when it is collected, which each worker does: a DSA key takes a third of a second.
@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate,
        lambda: dsa.generate_private_key(2048),
    ],
    ids=["secp256k1", "ed448", "dsa"],
)
def test_other_keys_prove_nothing(make: Callable[[], Any]) -> None:
    key = make()
    with pytest.raises(InvalidInput, match="proves nothing"):
        possession.sign(key, b"s")
    with pytest.raises(InvalidProof, match="none of RSA"):
        possession.check_signature(certificate(key), b"s", b"s")


@pytest.mark.fault(16)
def test_a_short_rsa_key_proves_nothing() -> None:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505  (weak on purpose)
    with pytest.raises(InvalidProof, match="2048"):
        possession.check_signature(certificate(key), possession.sign(key, b"s"), b"s")


@pytest.mark.parametrize("part", PARTS)
@given(st.data())
def test_every_part_of_the_statement_counts(part: str, data: st.DataObject) -> None:
    kind = st.text(max_size=20) if isinstance(PARTS[part], str) else st.binary(max_size=20)
    other = data.draw(kind.filter(lambda value: value != PARTS[part]))
    assert possession.statement(**PARTS) != possession.statement(**{**PARTS, part: other})


def test_parts_do_not_run_into_each_other() -> None:
    assert possession.statement(**{**PARTS, "namespace": "shopo", "service": "rders"}) != possession.statement(**PARTS)
    assert possession.statement(**PARTS).startswith(b"mesh.v1 proof of possession")


# -- chains


def test_an_intermediate_leads_to_the_authority() -> None:
    host = CA.intermediate("site").issue("db1")
    possession.check_host_chain([host.certificate, *host.intermediates], [CA.certificate], now())
    with pytest.raises(InvalidProof, match="not trusted"):
        possession.check_host_chain([host.certificate], [CA.certificate], now())


def test_another_authority_and_another_time() -> None:
    possession.check_host_chain([HOST.certificate], [Authority.create().certificate, CA.certificate], now())
    for authorities, at in (
        ([Authority.create("corp hosts").certificate], now()),
        ([], now()),
        ([CA.certificate], now() + 2 * 3600),
        ([CA.certificate], now() - 2 * 3600),
    ):
        with pytest.raises(InvalidProof):
            possession.check_host_chain([HOST.certificate], authorities, at)


def test_a_host_certificate_does_not_vouch_for_itself() -> None:
    with pytest.raises(InvalidProof, match="no authority"):
        possession.check_host_chain([HOST.certificate], [HOST.certificate], now())
    with pytest.raises(InvalidInput, match="no CA"):
        possession.check_authority(HOST.certificate)
    possession.check_authority(CA.certificate)


@pytest.mark.fault(16)
def test_certificates_that_are_no_hosts() -> None:
    key = KEYS["p256"]
    for _, bad in (
        ("a CA", certificate(key, ca=True)),
        ("no digital signature", certificate(key, usage=False)),
        ("for code", certificate(key, purposes=[ExtendedKeyUsageOID.CODE_SIGNING])),
        ("for mail", certificate(key, purposes=[ExtendedKeyUsageOID.EMAIL_PROTECTION])),
    ):
        with pytest.raises(InvalidProof):
            possession.check_host_chain([bad], [CA.certificate], now())
    for good in (
        certificate(key),
        certificate(key, ca=False, usage=True),
        certificate(key, purposes=[ExtendedKeyUsageOID.SERVER_AUTH]),
        certificate(key, purposes=[ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.CODE_SIGNING]),
    ):
        possession.check_host_chain([good], [CA.certificate], now())


def test_a_host_below_a_host_is_nobody() -> None:
    """The key of a host certificate signs another one."""
    key = ec.generate_private_key(ec.SECP256R1())
    host = CA.issue("db1", key=key)
    as_authority = Authority(host.certificate, key, (CA.certificate,))
    below = certificate(KEYS["p256"], by=as_authority)
    with pytest.raises(InvalidProof):
        possession.check_host_chain([below, host.certificate], [CA.certificate], now())


@pytest.mark.parametrize("chain", [[], [b""], [b"no certificate"], [b"\x30"] * 9, [b"\x30" * 100_000]])
def test_chains_that_are_none(chain: list[bytes]) -> None:
    with pytest.raises(InvalidProof):
        possession.parse_host_chain(chain)


@given(st.lists(st.binary(max_size=64), max_size=10))
def test_any_bytes_are_refused(chain: list[bytes]) -> None:
    with pytest.raises(InvalidProof):
        possession.parse_host_chain(chain)
