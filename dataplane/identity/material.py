"""The identity of a sidecar as a value: keys, certificates, what it trusts and where it finds etcd and the replicas.

Private keys are here, so no repr shows them; PEM and DER meet only in this module.
"""

import datetime
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from schemas.errors import InvalidInput, Problem
from schemas.names import SpiffeId
from schemas.records import TrustBundle
from spiffe.bundle import certificates
from spiffe.bundle import pem as to_pem
from spiffe.key_ids import authority_key_id


@dataclass(frozen=True, slots=True, repr=False)
class EtcdAccess:
    """How this sidecar reaches etcd, read-only. `endpoints` are host:port; all else is PEM, `cert_pem` leaf first."""

    endpoints: tuple[str, ...]
    ca_pem: bytes
    cert_pem: bytes
    key_pem: bytes
    expires: int
    """Seconds since 1970: the end of the client certificate."""

    def __repr__(self) -> str:
        return f"EtcdAccess(endpoints={self.endpoints!r}, expires={self.expires}, key_pem=[redacted])"


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """All that a replica gave at one join or renewal. Times are seconds since 1970 (UTC)."""

    spiffe_id: SpiffeId
    key_pem: bytes
    """PKCS #8, not encrypted."""
    chain_pem: bytes
    """Leaf first, then the issuing certificates, without the root."""
    bundle: TrustBundle
    etcd: EtcdAccess
    api_endpoints: tuple[str, ...]
    """Replicas, host:port, mTLS."""
    key_prefix: str
    """Of the mesh's keys in etcd."""
    not_before: int
    expires: int
    join_endpoints: tuple[str, ...] = ()
    """Replicas, host:port, without a client certificate. Empty: not told."""

    def __repr__(self) -> str:
        return (
            f"Identity({self.spiffe_id}, not_before={self.not_before}, expires={self.expires}, "
            f"bundle={self.bundle.trust_domain}#{self.bundle.sequence}, etcd={self.etcd!r}, key_pem=[redacted])"
        )

    @property
    def issuer(self) -> str:
        """The authority key identifier (hex) that the leaf names; empty where it names none."""
        return issuer_of(self.chain_pem)

    @property
    def usable_until(self) -> int:
        """Seconds since 1970: the end of whichever of the two certificates ends first."""
        return min(self.expires, self.etcd.expires)


# -- keys


def new_key() -> ec.EllipticCurvePrivateKey:
    """P-256: what the mesh CA accepts, and the cheapest curve that every TLS library has."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #10, DER, with no subject and no extension: it contributes a public key and proves its possession."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def key_matches(key_pem: bytes, certificate: x509.Certificate) -> bool:
    """Whether the certificate was issued to this key. False for bytes that are no key."""
    try:
        ours = serialization.load_pem_private_key(key_pem, password=None).public_key()
        return _spki(ours) == _spki(certificate.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _spki(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]  # every public key type has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


# -- certificates


@lru_cache(maxsize=2)  # asked after every change, about the same certificate
def issuer_of(chain_pem: bytes) -> str:
    """The authority key identifier (hex) that the leaf of a chain names; empty where it names none."""
    return authority_key_id(x509.load_pem_x509_certificate(chain_pem))


def chain_from_pem(pem: bytes, subject: str) -> tuple[x509.Certificate, ...]:
    """Raises InvalidInput, naming `subject`, where there is no certificate."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise InvalidInput(Problem(subject, f"not PEM certificates: {error}")) from error


def roots_pem(bundle: TrustBundle) -> bytes:
    """The bundle's certificates as PEM, empty for an empty bundle, which trusts nobody. Raises Corrupt."""
    return to_pem(certificates(bundle))


def seconds(moment: datetime.datetime) -> int:
    """Seconds since 1970."""
    return int(moment.timestamp())
