"""Proof of possession of a host's X.509 certificate, or of an expired SVID: what is signed, when it is believed. Pure.

The host signs a statement that holds the replica's challenge, what it asks for, and the requests for its new keys. So a
proof that somebody overhears is of no use: it is good for one challenge and yields certificates for those keys only.
The statement starts with words of its own (as RFC 8446, 4.4.3, does), so that no other protocol's signature fits.
"""

import datetime
import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from schemas.errors import InvalidInput, Problem, Unauthenticated
from spiffe.x509 import MAX_CHAIN_LENGTH, UNREADABLE

HostKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_CONTEXT = b"mesh.v1 proof of possession of a host certificate\x00"
_EXPIRED_CONTEXT = b"mesh.v1 proof of possession of an expired SVID\x00"
_MIN_RSA_BITS = 2048  # NIST SP 800-131A: shorter is disallowed
_MAX_RSA_BITS = 8192  # verifying costs with the square of the size, and a stranger chooses it
# The hash of the curve's strength (FIPS 186-5).
_CURVES: dict[str, hashes.HashAlgorithm] = {
    ec.SECP256R1.name: hashes.SHA256(),
    ec.SECP384R1.name: hashes.SHA384(),
    ec.SECP521R1.name: hashes.SHA512(),
}
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)  # RFC 8017, 9.1
# A certificate is 1 to 2 KB; what a stranger sends must be bounded before it is parsed.
MAX_CERTIFICATE_BYTES = 16 * 1024
_PURPOSES = (
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
)


class InvalidProof(Unauthenticated):
    """A proof that is not believed. The text names the broken rule."""


def statement(
    *, trust_domain: str, nonce: bytes, namespace: str, service: str, csr: bytes, etcd_csr: bytes, leaf: bytes
) -> bytes:
    """What is signed. `leaf`: the host's certificate, DER."""
    parts = trust_domain.encode(), nonce, namespace.encode(), service.encode(), csr, etcd_csr, leaf
    return _CONTEXT + _digest(parts)


def expired_statement(*, trust_domain: str, nonce: bytes, csr: bytes, etcd_csr: bytes, leaf: bytes) -> bytes:
    """What is signed with the key of an SVID that has expired. `leaf`: that SVID, DER."""
    return _EXPIRED_CONTEXT + _digest((trust_domain.encode(), nonce, csr, etcd_csr, leaf))


def _digest(parts: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def sign(key: HostKey, data: bytes) -> bytes:
    """RSA-PSS with SHA-256, ECDSA with the hash of its curve, or Ed25519. Raises InvalidInput for any other key."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, _PSS, hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key.sign(data, ec.ECDSA(_CURVES[key.curve.name]))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    remedy = "use RSA, P-256, P-384, P-521 or Ed25519"
    raise InvalidInput(Problem("host key", f"of a type that proves nothing here ({type(key).__name__})", remedy=remedy))


def check_signature(leaf: x509.Certificate, signature: bytes, data: bytes) -> None:
    """That the holder of the certificate's key signed `data`. Raises InvalidProof."""
    try:
        key = leaf.public_key()
        if isinstance(key, rsa.RSAPublicKey) and _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
            key.verify(signature, data, _PSS, hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
            key.verify(signature, data, ec.ECDSA(_CURVES[key.curve.name]))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            raise InvalidProof("the certificate's key is none of RSA (2048 to 8192 bits), P-256/384/521, Ed25519")
    except (InvalidSignature, *UNREADABLE) as error:
        raise InvalidProof("the challenge was not signed with the certificate's key") from error


def parse_host_chain(chain: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """DER, the host's own first. Raises InvalidProof."""
    if not 0 < len(chain) <= MAX_CHAIN_LENGTH:
        raise InvalidProof(f"a chain of {len(chain)} certificates, expected 1 to {MAX_CHAIN_LENGTH}")
    if any(len(der) > MAX_CERTIFICATE_BYTES for der in chain):
        raise InvalidProof(f"a certificate above {MAX_CERTIFICATE_BYTES} bytes")
    try:
        return tuple(x509.load_der_x509_certificate(der) for der in chain)
    except UNREADABLE as error:
        raise InvalidProof("the host certificate can't be read: it is no DER") from error


def check_host_chain(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], now: float) -> None:
    """That one of `authorities` vouches for the host's certificate at `now` (RFC 5280, 6). Raises InvalidProof.

    Names are the caller's to look at. A certificate that may sign others, or that is for other purposes than TLS
    (as for signing code or mail), is no host's.
    """
    leaf, *intermediates = chain
    anchors = [one for one in authorities if _is_authority(one)]
    if not anchors:
        raise InvalidProof("there is no authority that could vouch for the host certificate")
    verifier = (
        PolicyBuilder()
        .store(Store(anchors))
        .time(datetime.datetime.fromtimestamp(now, datetime.UTC))
        .max_chain_depth(MAX_CHAIN_LENGTH)
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, intermediates)
    except (VerificationError, *UNREADABLE) as error:
        raise InvalidProof(f"the host certificate is not trusted: {error}") from error


def check_authority(certificate: x509.Certificate) -> None:
    """That a certificate can serve as an authority of hosts. Raises InvalidInput."""
    name = _subject(certificate)
    if not _is_authority(certificate):
        remedy = "give the certificate of the CA that signs the hosts' certificates"
        raise InvalidInput(Problem(f"host authority {name}", "it is no CA (basic constraints)", remedy=remedy))
    try:
        key = certificate.public_key()
    except UNREADABLE:
        key = None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise InvalidInput(Problem(f"host authority {name}", "its key is neither RSA nor of an elliptic curve of NIST"))


def _subject(certificate: x509.Certificate) -> str:
    try:
        return certificate.subject.rfc4514_string() or "without a subject"
    except UNREADABLE:
        return "with an unreadable subject"


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False


def _no_authority(policy: Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints | None) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("a CA's certificate is no host's")


def _may_sign_a_challenge(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.digital_signature:
        raise ValueError("its key usage excludes digitalSignature")


def _may_sign_certificates(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("a CA certificate's key usage excludes keyCertSign")


def _for_tls(policy: Policy, certificate: x509.Certificate, purposes: x509.ExtendedKeyUsage | None) -> None:
    if purposes is not None and not any(one in purposes for one in _PURPOSES):
        raise ValueError("its extended key usage is for other things than TLS")


_CA_POLICY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign_certificates)
)
_LEAF_POLICY = (
    ExtensionPolicy.permit_all()
    .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _no_authority)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign_a_challenge)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _for_tls)
)
