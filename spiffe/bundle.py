"""Trust bundles: record <-> certificates <-> PEM. Pure."""

from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from schemas.errors import Corrupt, Problem
from schemas.records import JwtAuthority, TrustBundle
from spiffe.jwt import InvalidKey, PublicKey, load_public_key
from spiffe.x509 import UNREADABLE


def record(
    trust_domain: str,
    authorities: Iterable[x509.Certificate],
    sequence: int,
    jwt_authorities: Iterable[JwtAuthority] = (),
) -> TrustBundle:
    """The authorities once each, in an order that does not depend on theirs: equal sets have equal bytes."""
    ders = sorted({certificate.public_bytes(Encoding.DER) for certificate in authorities})
    return TrustBundle(
        trust_domain=trust_domain,
        sequence=sequence,
        x509_authorities=tuple(ders),
        jwt_authorities=tuple(sorted(set(jwt_authorities), key=lambda one: one.kid)),
    )


def certificates(bundle: TrustBundle) -> tuple[x509.Certificate, ...]:
    """Raises Corrupt if one of them is no certificate: a bundle is believed whole or not at all."""
    try:
        return tuple(x509.load_der_x509_certificate(der) for der in bundle.x509_authorities)
    except UNREADABLE as error:
        problem = Problem(f"TrustBundle {bundle.trust_domain}", f"holds what is no DER certificate: {error}")
        raise Corrupt(problem) from error


def by_trust_domain(bundles: Iterable[TrustBundle]) -> dict[str, tuple[x509.Certificate, ...]]:
    """What `spiffe.x509.verify_chain` takes. Bundles are never merged: a trust domain named twice raises Corrupt."""
    result: dict[str, tuple[x509.Certificate, ...]] = {}
    for bundle in bundles:
        if bundle.trust_domain in result:
            raise Corrupt(Problem(f"TrustBundle {bundle.trust_domain}", "there are two of them"))
        result[bundle.trust_domain] = certificates(bundle)
    return result


def jwt_keys(bundles: Iterable[TrustBundle]) -> dict[str, dict[str, PublicKey]]:
    """What `spiffe.jwt.verify` takes: trust domain to key id to key.

    Raises Corrupt for what is no public key, for a key id or a trust domain that is there twice.
    """
    result: dict[str, dict[str, PublicKey]] = {}
    for bundle in bundles:
        subject = f"TrustBundle {bundle.trust_domain}"
        if bundle.trust_domain in result:
            raise Corrupt(Problem(subject, "there are two of them"))
        keys = result[bundle.trust_domain] = {}
        for authority in bundle.jwt_authorities:
            if authority.kid in keys:
                raise Corrupt(Problem(subject, f"holds two JWT keys with the id {authority.kid!r}"))
            try:
                keys[authority.kid] = load_public_key(authority.public_key)
            except InvalidKey as error:
                raise Corrupt(Problem(subject, f"its JWT key {authority.kid!r} can't be used: {error}")) from error
    return result


def pem(authorities: Sequence[x509.Certificate]) -> bytes:
    """All of them one after the other, as TLS stacks read trusted CAs."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in authorities)
