"""Which key signed a certificate: its identifiers (RFC 5280, 4.2.1.1 and 4.2.1.2) as lower-case hex. Pure."""

from cryptography import x509

from spiffe.x509 import UNREADABLE


def authority_key_id(certificate: x509.Certificate) -> str:
    """Of the key that signed `certificate`; empty where it does not say."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, *UNREADABLE):
        return ""
    return found.hex() if found else ""


def subject_key_id(certificate: x509.Certificate) -> str:
    """Of the certificate's own key: what its leaves name as their authority's."""
    return _of_subject(certificate).digest.hex()


def naming(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """What a certificate signed by `issuer` says of its authority. A foreign CA chooses identifiers in its own way."""
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(_of_subject(issuer))


def _of_subject(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
