"""[edge] What this host can show when it joins, besides a token: an X.509 certificate that it has already.

The files are read anew at each attempt: whoever provisions the host renews them without asking us. And its own SVID,
once that has expired.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from dataplane.identity.material import Identity, chain_from_pem, key_matches
from schemas.api import mesh_pb2
from schemas.errors import InvalidInput, Problem
from schemas.names import ServiceRef
from spiffe import possession
from spiffe.possession import HostKey

MAX_BYTES = 256 * 1024  # a chain of RSA certificates in PEM is 20 KB

HostSource = Callable[[], "HostCertificate"]
"""The host's certificate as it is now. Raises InvalidInput."""


@dataclass(frozen=True, slots=True)
class HostCertificate:
    """`chain`: DER, the host's own first. `service`: what this host wants to be."""

    chain: tuple[bytes, ...]
    key: HostKey = field(repr=False)
    service: ServiceRef

    def proof(self, trust_domain: str, nonce: bytes, csr: bytes, etcd_csr: bytes) -> mesh_pb2.X509Possession:
        """The answer to a challenge, good for these requests only. Raises InvalidInput for a key of another type."""
        signed = possession.statement(
            trust_domain=trust_domain,
            nonce=nonce,
            namespace=self.service.namespace,
            service=self.service.name,
            csr=csr,
            etcd_csr=etcd_csr,
            leaf=self.chain[0],
        )
        return mesh_pb2.X509Possession(chain=self.chain, nonce=nonce, signature=possession.sign(self.key, signed))


def prove_expired(identity: Identity, nonce: bytes, csr: bytes, etcd_csr: bytes) -> mesh_pb2.ExpiredSvid:
    """The answer to a challenge with the key of an SVID that has expired, good for these requests only.

    Raises InvalidInput for a kept key or certificate that can't be read.
    """
    chain = chain_from_pem(identity.chain_pem, "the expired SVID")
    leaf = chain[0].public_bytes(Encoding.DER)
    signed = possession.expired_statement(
        trust_domain=identity.spiffe_id.trust_domain, nonce=nonce, csr=csr, etcd_csr=etcd_csr, leaf=leaf
    )
    private = load_pem_private_key(identity.key_pem, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):  # no other was ever made here
        raise InvalidInput(Problem("the expired SVID", "its key is not of an elliptic curve", remedy="join anew"))
    return mesh_pb2.ExpiredSvid(leaf=leaf, nonce=nonce, signature=possession.sign(private, signed))


def load_host_certificate(certificate: Path, key: Path, service: ServiceRef) -> HostCertificate:
    """Both PEM. Raises InvalidInput, which names the file and never shows what is in it."""
    try:
        chain = x509.load_pem_x509_certificates(_read(certificate))
    except ValueError as error:
        raise _bad(certificate, "holds no certificate in PEM") from error
    pem = _read(key)
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad(key, "holds no unencrypted private key in PEM") from error
    if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise _bad(key, "holds a key that proves nothing: neither RSA, nor of an elliptic curve, nor Ed25519")
    if not key_matches(pem, chain[0]):
        raise _bad(key, f"is not the key of {certificate}")
    return HostCertificate(tuple(one.public_bytes(Encoding.DER) for one in chain), private, service)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _bad(path, f"can't be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise _bad(path, f"is larger than {MAX_BYTES} bytes")
    return data


def _bad(path: Path, why: str) -> InvalidInput:
    return InvalidInput(Problem(f"host certificate: {path}", why, remedy="see attest.x509 in the sidecar's settings"))
