"""A small certificate authority for tests: P-256, everything in memory until written.

It also issues what a real authority must refuse (no names, expired, any URI), so that tests can show the refusal.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BACKDATE = datetime.timedelta(minutes=5)  # as authorities do, for verifiers whose clock is a little behind
_CA_LIFETIME = datetime.timedelta(days=30)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class TlsPaths:
    """Files as servers and clients want them: certificate chain, private key, and the root to trust."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class Leaf:
    """An end-entity certificate with its key and the intermediates below the root."""

    certificate: x509.Certificate
    key: Key = field(repr=False)
    intermediates: tuple[x509.Certificate, ...]
    root: x509.Certificate

    @property
    def chain_pem(self) -> bytes:
        """The leaf first, then the intermediates; the root is left out."""
        return b"".join(pem(certificate) for certificate in (self.certificate, *self.intermediates))

    @property
    def key_pem(self) -> bytes:
        """PKCS #8, not encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def write(self, directory: Path, name: str) -> TlsPaths:
        """Write ``<name>.crt``, ``<name>.key`` (mode 0600) and ``<name>.ca.crt`` into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        paths = TlsPaths(directory / f"{name}.crt", directory / f"{name}.key", directory / f"{name}.ca.crt")
        paths.cert.write_bytes(self.chain_pem)
        paths.key.touch(mode=0o600)
        paths.key.write_bytes(self.key_pem)
        paths.ca.write_bytes(pem(self.root))
        return paths


@dataclass(frozen=True)
class Authority:
    """A root or an intermediate that can issue."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    above: tuple[x509.Certificate, ...] = ()
    """The certificates from this one's issuer up to the root; empty for a root."""

    @classmethod
    def create(cls, common_name: str = "test root") -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_ca_certificate(common_name, key, _name(common_name), key, path_length=None), key)

    def intermediate(self, common_name: str = "test intermediate") -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _ca_certificate(common_name, key, self.certificate.subject, self.key, path_length=0)
        return Authority(certificate, key, (self.certificate, *self.above))

    @property
    def root(self) -> x509.Certificate:
        return self.above[-1] if self.above else self.certificate

    @property
    def pem(self) -> bytes:
        return pem(self.certificate)

    def issue(
        self,
        common_name: str = "",
        *,
        uri: str | Sequence[str] = (),
        dns: Sequence[str] = (),
        ip: Sequence[str] = (),
        server: bool = True,
        client: bool = True,
        lifetime: datetime.timedelta = datetime.timedelta(hours=1),
        key: Key | None = None,
    ) -> Leaf:
        """A leaf with a new key unless `key` is given. A negative `lifetime` gives one that has already expired."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = [
            *(x509.UniformResourceIdentifier(one) for one in ([uri] if isinstance(uri, str) else uri)),
            *(x509.DNSName(one) for one in dns),
            *(x509.IPAddress(ipaddress.ip_address(one)) for one in ip),
        ]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + lifetime) - _BACKDATE)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:  # RFC 5280, 4.2.1.6: critical when the subject is empty
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common_name)
        below_root = (self.certificate, *self.above)[:-1]
        return Leaf(builder.sign(self.key, hashes.SHA256()), key, below_root, self.root)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _ca_certificate(
    common_name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    path_length: int | None,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
