"""PEM files ▸ a certificate chain with its key, or why it is none. Pure: the time is passed in."""

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from dataplane.compile.workload import KeyPair
from spiffe.x509 import UNREADABLE


class BadCertificate(Exception):
    """What is wrong with the files, in words; says nothing of what is in the key."""


@dataclass(frozen=True, slots=True)
class Checked:
    pair: KeyPair
    expires: datetime.datetime
    """UTC."""
    lifetime: datetime.timedelta


def check(certificate: bytes, key: bytes, now: datetime.datetime) -> Checked:
    """Raises BadCertificate for what Envoy would refuse, and for what no client would take."""
    try:
        chain = x509.load_pem_x509_certificates(certificate)
    except UNREADABLE as error:
        raise BadCertificate("the certificate file holds no PEM certificates") from error
    try:
        private = load_pem_private_key(key, password=None)
    except UNREADABLE as error:
        raise BadCertificate("the key file holds no private key in PEM that is not encrypted") from error
    try:
        return _checked(chain[0], private, certificate, key, now)
    except UNREADABLE as error:  # parts of a certificate are parsed when they are asked for
        raise BadCertificate(f"the certificate can't be read: {error}") from error


def _checked(
    leaf: x509.Certificate, private: PrivateKeyTypes, certificate: bytes, key: bytes, now: datetime.datetime
) -> Checked:
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise BadCertificate("certificate and key do not belong together")
    if leaf.not_valid_after_utc <= now:
        raise BadCertificate(f"the certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if leaf.not_valid_before_utc > now:
        raise BadCertificate(f"the certificate is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    return Checked(KeyPair(certificate, key, names_of(leaf)), leaf.not_valid_after_utc, lifetime)


def names_of(leaf: x509.Certificate) -> tuple[str, ...]:
    """DNS names in lower case and IP addresses; what stands only in the subject is no name (RFC 9525)."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    dns = (name.lower() for name in names.get_values_for_type(x509.DNSName))
    return (*dns, *map(str, names.get_values_for_type(x509.IPAddress)))
