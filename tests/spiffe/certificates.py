"""Certificates of any shape, the wrong ones above all: vectors for what a validator must refuse."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = 1_800_000_000
HOUR = 3600
ID = "spiffe://td.example/ns/shop/svc/orders"
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

DIGITAL_SIGNATURE = "digital_signature"
CERT_SIGN = "key_cert_sign"
CRL_SIGN = "crl_sign"
_USAGES = (
    DIGITAL_SIGNATURE,
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    CERT_SIGN,
    CRL_SIGN,
    "encipher_only",
    "decipher_only",
)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Shape:
    """A correct leaf; a test changes the one thing that is to be wrong. None leaves an extension out."""

    common_name: str = ""
    uris: tuple[str, ...] = (ID,)
    dns: tuple[str, ...] = ()
    san_critical: bool = True
    ca: bool | None = False
    path_length: int | None = None
    usage: tuple[str, ...] | None = (DIGITAL_SIGNATURE,)
    usage_critical: bool = True
    purposes: tuple[x509.ObjectIdentifier, ...] | None = BOTH
    start: int = NOW - 60
    end: int = NOW + HOUR
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()


AUTHORITY = Shape(
    common_name="root",
    uris=("spiffe://td.example",),
    san_critical=False,
    ca=True,
    usage=(CERT_SIGN, CRL_SIGN),
    purposes=None,
)


@dataclass(frozen=True)
class Signer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def root(cls, shape: Shape = AUTHORITY) -> Signer:
        key = new_key()
        return cls(build(shape, key.public_key(), _name(shape.common_name), key), key)

    def below(self, shape: Shape) -> Signer:
        key = new_key()
        return Signer(self.issue(shape, key.public_key()), key)

    def issue(self, shape: Shape = Shape(), public_key: PublicKey | None = None) -> x509.Certificate:
        return build(shape, public_key or new_key().public_key(), self.certificate.subject, self.key)


def build(
    shape: Shape, public_key: PublicKey, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(shape.common_name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(shape.start, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(shape.end, datetime.UTC))
    )
    for value, critical in [*_extensions(shape), *shape.extra]:
        builder = builder.add_extension(value, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _extensions(shape: Shape) -> Sequence[tuple[x509.ExtensionType, bool]]:
    found: list[tuple[x509.ExtensionType, bool]] = []
    if shape.ca is not None:
        found.append((x509.BasicConstraints(shape.ca, shape.path_length), True))
    if shape.usage is not None:
        found.append((x509.KeyUsage(**{name: name in shape.usage for name in _USAGES}), shape.usage_critical))
    if shape.purposes is not None:
        found.append((x509.ExtendedKeyUsage(list(shape.purposes)), False))
    names: list[x509.GeneralName] = [
        *(x509.UniformResourceIdentifier(uri) for uri in shape.uris),
        *(x509.DNSName(name) for name in shape.dns),
    ]
    if names:
        found.append((x509.SubjectAlternativeName(names), shape.san_critical))
    return found


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
