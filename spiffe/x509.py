"""X.509-SVIDs: whose certificate is this, and may it be believed. Pure: the time is passed in.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md (sections 2 to 5) and RFC 5280, section 6. Paths
and signatures are the work of `cryptography.x509.verification`; what SPIFFE adds to RFC 5280 stands here as rules.
Times are seconds since 1970 (UTC).
"""

import datetime
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
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
from schemas.names import SpiffeId

Extension = TypeVar("Extension", bound=x509.ExtensionType)

# A chain is a leaf and one or two intermediates of about 600 bytes each. Path building tries combinations, so what a
# stranger sends must be bounded: 8 is more than any CA hierarchy in use.
MAX_CHAIN_LENGTH = 8

# A P-384 request is 400 bytes; the rest is room for attributes, which are read by nobody.
MAX_CSR_BYTES = 8 * 1024

_CURVES = (ec.SECP256R1, ec.SECP384R1)  # what every TLS stack we meet (BoringSSL, OpenSSL, Go) takes for certificates
_MIN_RSA_BITS = 2048  # NIST SP 800-131A: shorter is disallowed
# What `cryptography` raises for DER that it can't make sense of, when loading and, since it parses lazily, when asked.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class InvalidSvid(Unauthenticated):
    """A certificate that is not an X.509-SVID, or that no bundle vouches for. The text names the broken rule."""


# -- the leaf


def leaf_identity(certificate: x509.Certificate) -> SpiffeId:
    """The SPIFFE ID that a leaf names, if it keeps every rule for leaves (X509-SVID 2, 3.1, 4.1 to 4.4, 5.2).

    Says nothing about who signed it: `verify_chain` does. Raises InvalidSvid.
    """
    names = _required(certificate, x509.SubjectAlternativeName, "no subject alternative name")
    uris = [name.value for name in names.value if isinstance(name, x509.UniformResourceIdentifier)]
    if len(uris) != 1:
        raise InvalidSvid(f"not an X.509-SVID: {len(uris)} URI SANs, expected exactly one")
    if not names.critical and _has_empty_subject(certificate):
        raise InvalidSvid("not an X.509-SVID: the subject is empty and the SAN extension is not critical")
    _check_leaf_usage(certificate)
    _check_public_key(certificate)
    try:
        identity = SpiffeId.parse(uris[0])
    except InvalidInput as error:
        raise InvalidSvid(f"not an X.509-SVID: {error}") from error
    if not identity.path:
        raise InvalidSvid(f"not a leaf: {identity} names a trust domain, not a workload")
    return identity


def _has_empty_subject(certificate: x509.Certificate) -> bool:
    try:
        return not certificate.subject.rdns
    except UNREADABLE as error:
        raise InvalidSvid(f"its subject can't be read: {error}") from error


def _check_leaf_usage(certificate: x509.Certificate) -> None:
    constraints = _optional(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise InvalidSvid("not a leaf: cA is true")
    usage = _required(certificate, x509.KeyUsage, "no key usage")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise InvalidSvid("not a leaf: its key usage includes keyCertSign or cRLSign")
    if not usage.critical or not usage.value.digital_signature:
        raise InvalidSvid("not an X.509-SVID: key usage must be critical and include digitalSignature")
    purposes = _required(certificate, x509.ExtendedKeyUsage, "no extended key usage")
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(purposes.value):
        raise InvalidSvid("not an X.509-SVID: extended key usage must include serverAuth and clientAuth")


def _check_public_key(certificate: x509.Certificate) -> None:
    try:
        key = certificate.public_key()
    except UNREADABLE as error:
        raise InvalidSvid(f"its public key can't be read: {error}") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return
    raise InvalidSvid(f"its public key is neither P-256, P-384 nor RSA of {_MIN_RSA_BITS} bits or more")


def _optional(certificate: x509.Certificate, kind: type[Extension]) -> x509.Extension[Extension] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
    except UNREADABLE as error:
        raise InvalidSvid(f"its extensions can't be read: {error}") from error


def _required(certificate: x509.Certificate, kind: type[Extension], missing: str) -> x509.Extension[Extension]:
    extension = _optional(certificate, kind)
    if extension is None:
        raise InvalidSvid(f"not an X.509-SVID: {missing}")
    return extension


# -- the authority


def authority_trust_domain(certificate: x509.Certificate) -> str | None:
    """The trust domain that a CA certificate speaks for (X509-SVID 3.2: an ID without a path); None: it names none."""
    names = _optional(certificate, x509.SubjectAlternativeName)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    try:
        identity = SpiffeId.parse(uris[0]) if len(uris) == 1 else None
    except InvalidInput:
        return None
    return identity.trust_domain if identity is not None and not identity.path else None


# -- the chain


def parse_chain(chain: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """DER certificates, leaf first. Raises InvalidSvid for none, too many, and for bytes that are no certificate."""
    if not 0 < len(chain) <= MAX_CHAIN_LENGTH:
        raise InvalidSvid(f"a chain of {len(chain)} certificates, expected 1 to {MAX_CHAIN_LENGTH}")
    try:
        return tuple(x509.load_der_x509_certificate(der) for der in chain)
    except UNREADABLE as error:
        raise InvalidSvid(f"not a DER certificate: {error}") from error


def verify_chain(
    chain: Sequence[x509.Certificate], bundles: Mapping[str, Sequence[x509.Certificate]], now: float
) -> SpiffeId:
    """Who presents this chain, once it is proven (X509-SVID 5; RFC 5280, 6).

    chain: leaf first, then intermediates in any order; a root in it is not trusted for being there.
    bundles: trust domain to its X.509 authorities. Only the bundle of the leaf's own trust domain is looked at; none,
    or an empty one, means untrusted. now: seconds since 1970.

    That the peer holds the leaf's private key is the TLS handshake's to prove. Raises InvalidSvid.
    """
    if not 0 < len(chain) <= MAX_CHAIN_LENGTH:
        raise InvalidSvid(f"a chain of {len(chain)} certificates, expected 1 to {MAX_CHAIN_LENGTH}")
    leaf, *intermediates = chain
    identity = leaf_identity(leaf)
    for intermediate in intermediates:
        _check_public_key(intermediate)
    # An anchor that is no CA would vouch for itself by being equal to the leaf.
    anchors = [anchor for anchor in bundles.get(identity.trust_domain, ()) if _may_sign(anchor)]
    if not anchors:
        raise InvalidSvid(f"{identity} is not trusted: there is no bundle for trust domain {identity.trust_domain}")
    verifier = (
        PolicyBuilder()
        .store(Store(anchors))
        .time(datetime.datetime.fromtimestamp(now, datetime.UTC))
        .max_chain_depth(MAX_CHAIN_LENGTH)
        .extension_policies(ca_policy=_ca_policy(), ee_policy=_leaf_policy())
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, intermediates)
    except VerificationError as error:
        raise InvalidSvid(f"{identity} is not trusted: {error}") from error
    except UNREADABLE as error:
        raise InvalidSvid(f"{identity} is not trusted: a certificate of the chain can't be read: {error}") from error
    return identity


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        constraints = _optional(certificate, x509.BasicConstraints)
    except InvalidSvid:
        return False
    return constraints is not None and constraints.value.ca


def _require_signing_usage(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage) -> None:
    if not usage.key_cert_sign:
        raise ValueError("a CA certificate's key usage must include keyCertSign")


def _require_both_purposes(
    policy: Policy, certificate: x509.Certificate, purposes: x509.ExtendedKeyUsage | None
) -> None:
    """An extended key usage in a CA limits what is below it; RFC 5280 leaves that open, TLS stacks enforce it."""
    wanted = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if purposes is None or wanted <= set(purposes) or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in purposes:
        return
    raise ValueError("a CA certificate's extended key usage excludes serverAuth or clientAuth")


@cache
def _ca_policy() -> ExtensionPolicy:
    # The Web PKI's rules would refuse CAs that SPIFFE allows, so these are X509-SVID's own (4.1 to 4.4). cA, validity,
    # path length, name constraints and unknown critical extensions are the verifier's, whatever the policy says.
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.CRITICAL, None)
        .require_present(x509.KeyUsage, Criticality.CRITICAL, _require_signing_usage)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _require_both_purposes)
    )


@cache
def _leaf_policy() -> ExtensionPolicy:
    # The rules of `leaf_identity` came first; the SAN is named because the verifier insists on a policy that has one.
    return ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)


# -- the request


def csr_public_key(der: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a PKCS#10 request (RFC 2986) whose sender holds the private key; nothing else of it is read.

    P-256 or P-384: what every sidecar makes; each further algorithm would be one more that all verifiers must keep.
    Raises InvalidInput.
    """

    def refuse(why: str, remedy: str = "send a DER-encoded PKCS#10 request with a new P-256 key") -> InvalidInput:
        return InvalidInput(Problem("certificate request", why, remedy=remedy))

    if len(der) > MAX_CSR_BYTES:
        raise refuse(f"{len(der)} bytes, above the limit of {MAX_CSR_BYTES}")
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
            raise refuse("its key is neither P-256 nor P-384")
        if not isinstance(request.signature_hash_algorithm, _HASHES):
            raise refuse("it is not signed with SHA-256, SHA-384 or SHA-512")
        signed = request.is_signature_valid
    except UNREADABLE as error:
        raise refuse(f"not a readable request: {error}") from error
    if not signed:
        raise refuse("its signature does not match its key, so the sender may not hold the private key")
    return key
