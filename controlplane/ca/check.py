"""The last look before a certificate leaves: is it what was asked for, and nothing more? Pure.

Reads the finished bytes back and compares every field, so that neither a defect of ours nor one of the library can put
a wider certificate into the world than its template says.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controlplane.ca import sign
from controlplane.ca.errors import Miscreated
from controlplane.ca.template import Template
from schemas.names import SpiffeId
from spiffe.x509 import UNREADABLE, InvalidSvid, leaf_identity


def checked(
    certificate: x509.Certificate,
    template: Template,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate | None,
) -> x509.Certificate:
    """`certificate`, read back and found to be what `template` says, signed by `issuer` (None: by itself).

    Raises Miscreated, naming the first difference.
    """
    certificate = x509.load_der_x509_certificate(certificate.public_bytes(Encoding.DER))
    issuer = issuer or certificate
    _same("subject", certificate.subject, sign.subject_name(template))
    _same("public key", _spki(certificate.public_key()), _spki(public_key))
    _same("version", certificate.version, x509.Version.v3)
    _same("not before", int(certificate.not_valid_before_utc.timestamp()), template.validity.not_before)
    _same("not after", int(certificate.not_valid_after_utc.timestamp()), template.validity.not_after)
    _check_extensions(certificate, template)
    if template.is_ca:
        _check_authority(template)
    elif template.uris:
        _check_svid(certificate, template)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*UNREADABLE, InvalidSignature) as error:
        raise Miscreated(f"a certificate was not signed by its issuer: {error}") from error
    if certificate.not_valid_after_utc > issuer.not_valid_after_utc:
        raise Miscreated("a certificate would outlive its issuer")
    return certificate


def _check_extensions(certificate: x509.Certificate, template: Template) -> None:
    found = {extension.oid: extension for extension in certificate.extensions}
    expected: dict[x509.ObjectIdentifier, tuple[bool, x509.ExtensionType]] = {
        x509.BasicConstraints.oid: (True, x509.BasicConstraints(template.is_ca, template.path_length)),
        x509.KeyUsage.oid: (True, sign.key_usage(template)),
    }
    if template.purposes:
        expected[x509.ExtendedKeyUsage.oid] = (False, sign.extended_key_usage(template))
    if names := sign.subject_alternative_names(template):
        critical = not certificate.subject.rdns  # RFC 5280, 4.2.1.6
        expected[x509.SubjectAlternativeName.oid] = (critical, x509.SubjectAlternativeName(names))
    key_identifiers = {x509.SubjectKeyIdentifier.oid, x509.AuthorityKeyIdentifier.oid}
    _same("set of extensions", set(found), expected.keys() | key_identifiers)
    for oid, (critical, value) in expected.items():
        _same(f"extension {oid.dotted_string}", (found[oid].critical, found[oid].value), (critical, value))


def _check_authority(template: Template) -> None:
    for uri in template.uris:
        if SpiffeId.parse(uri).path:
            raise Miscreated(f"a CA certificate may name a trust domain only, not {uri}")


def _check_svid(certificate: x509.Certificate, template: Template) -> None:
    try:
        identity = leaf_identity(certificate)
    except InvalidSvid as error:
        raise Miscreated(str(error)) from error
    _same("SPIFFE ID", (str(identity),), template.uris)


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Miscreated(f"a certificate carries a key of type {type(key).__name__}")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Miscreated(f"{what} of a new certificate is {found!r}, its template says {expected!r}")
