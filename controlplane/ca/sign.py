"""Template and public key in, certificate out. Pure but for the nonce that ECDSA draws inside OpenSSL."""

import datetime
import ipaddress
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.ca.template import Purpose, Template
from spiffe.key_ids import naming

_PURPOSES = {Purpose.SERVER: ExtendedKeyUsageOID.SERVER_AUTH, Purpose.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA's certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def self_signed(template: Template, key: ec.EllipticCurvePrivateKey, serial: int) -> x509.Certificate:
    """A root."""
    own = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return _sign(template, key.public_key(), subject_name(template), own, key, serial)


def signed(template: Template, public_key: ec.EllipticCurvePublicKey, issuer: Issuer, serial: int) -> x509.Certificate:
    """`serial`: positive, at most 20 octets (RFC 5280, 4.1.2.2), and unpredictable."""
    authority = naming(issuer.certificate)
    return _sign(template, public_key, issuer.certificate.subject, authority, issuer.key, serial)


def _sign(
    template: Template,
    public_key: ec.EllipticCurvePublicKey,
    issuer_name: x509.Name,
    authority: x509.AuthorityKeyIdentifier,
    issuer_key: ec.EllipticCurvePrivateKey,
    serial: int,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject_name(template))
        .issuer_name(issuer_name)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(_time(template.validity.not_before))
        .not_valid_after(_time(template.validity.not_after))
        .add_extension(x509.BasicConstraints(ca=template.is_ca, path_length=template.path_length), critical=True)
        .add_extension(key_usage(template), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(authority, critical=False)
    )
    if template.purposes:
        builder = builder.add_extension(extended_key_usage(template), critical=False)
    if names := subject_alternative_names(template):
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not template.common_name)
    return builder.sign(issuer_key, hashes.SHA256())  # the hash of P-256's strength


def serial_number(random: bytes) -> int:
    """20 random bytes as a serial number: positive and, in DER, at most 20 octets (RFC 5280, 4.1.2.2)."""
    if len(random) != 20:
        raise ValueError(f"{len(random)} random bytes, expected 20")
    return (int.from_bytes(random, "big") >> 1) | 1  # the top bit is the sign in DER; never zero


def subject_name(template: Template) -> x509.Name:
    if not template.common_name:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, template.common_name)])


def subject_alternative_names(template: Template) -> list[x509.GeneralName]:
    return [
        *(x509.UniformResourceIdentifier(uri) for uri in template.uris),
        *(x509.DNSName(name) for name in template.dns_names),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in template.addresses),
    ]


def key_usage(template: Template) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not template.is_ca,
        key_cert_sign=template.is_ca,
        crl_sign=template.is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def extended_key_usage(template: Template) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage([_PURPOSES[purpose] for purpose in Purpose if purpose in template.purposes])


def _time(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
