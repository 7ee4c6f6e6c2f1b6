"""A certificate request gives a public key, or is refused."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidInput
from spiffe.x509 import MAX_CSR_BYTES, csr_public_key
from tests.spiffe.certificates import new_key

_PLAIN = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
_REQUEST = _PLAIN.sign(new_key(), hashes.SHA256())
_VALID = _REQUEST.public_bytes(Encoding.DER)
_SIGNED = _REQUEST.tbs_certrequest_bytes


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=["P-256", "P-384"])
def test_its_public_key_is_taken(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    der = _PLAIN.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    assert csr_public_key(der) == key.public_key()


@pytest.mark.fault(16)
def test_names_and_extensions_in_it_are_read_by_nobody() -> None:
    key = new_key()
    names = [x509.UniformResourceIdentifier("spiffe://td/control-plane"), x509.UniformResourceIdentifier("spiffe://td")]
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    assert csr_public_key(greedy.public_bytes(Encoding.DER)) == key.public_key()


@pytest.mark.fault(16)
def test_keys_of_other_kinds_are_refused() -> None:
    others: list[rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = [
        rsa.generate_private_key(65537, 1024),  # noqa: S505 -- what must be refused
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP224R1()),
    ]
    for key in others:
        with pytest.raises(InvalidInput, match="neither P-256 nor P-384"):
            csr_public_key(_PLAIN.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
    with pytest.raises(InvalidInput, match="neither P-256 nor P-384"):
        csr_public_key(_PLAIN.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(Encoding.DER))


@pytest.mark.fault(16)
def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    mine, theirs = (_PLAIN.sign(new_key(), hashes.SHA256()) for _ in range(2))
    # The victim's public key under my signature: everything before the signature is theirs.
    body = theirs.tbs_certrequest_bytes
    der = mine.public_bytes(Encoding.DER).replace(mine.tbs_certrequest_bytes, body)
    assert x509.load_der_x509_csr(der).public_key() == theirs.public_key()
    with pytest.raises(InvalidInput, match="signature"):
        csr_public_key(der)


@given(st.integers(0, len(_SIGNED) * 8 - 1))
@pytest.mark.fault(16)
def test_any_flipped_bit_of_what_is_signed_is_refused(position: int) -> None:
    changed = bytearray(_SIGNED)
    changed[position // 8] ^= 1 << position % 8
    with pytest.raises(InvalidInput):
        csr_public_key(_VALID.replace(_SIGNED, bytes(changed)))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        csr_public_key(data)


def test_trailing_bytes_and_oversize_are_refused() -> None:
    with pytest.raises(InvalidInput, match="readable"):
        csr_public_key(_VALID + b"\0")
    with pytest.raises(InvalidInput, match="limit"):
        csr_public_key(_VALID + bytes(MAX_CSR_BYTES))
