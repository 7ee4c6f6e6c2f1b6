"""What becomes of a bundle document of another trust domain: taken, nothing new, or refused. Pure.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md, sections 4.1.2 to 4.2
"""

from collections.abc import Collection
from dataclasses import dataclass

import msgspec
from cryptography import x509

from schemas.errors import InvalidInput, Problem
from schemas.names import SpiffeId
from schemas.records import TrustBundle
from spiffe.jwks import Document, InvalidBundle
from spiffe.x509 import UNREADABLE

# etcd's MessagePack holds integers of 64 bits.
MAX_SEQUENCE = 2**63 - 1
DEFAULT_HINT_SECONDS = 300  # SPIFFE Federation 4.2: poll every five minutes where the bundle does not say
# A hint is theirs to give, and our replicas follow it: not more often than this, and at least once a day.
MIN_HINT_SECONDS, MAX_HINT_SECONDS = 10, 24 * 3600


@dataclass(frozen=True, slots=True)
class Taken:
    """`record` is what is in force from now on; equal to the one before where nothing is new."""

    record: TrustBundle
    served_sequence: int | None
    """spiffe_sequence as the document had it."""


def take(
    document: Document,
    trust_domain: str,
    before: TrustBundle | None,
    served_sequence: int | None,
    own_authorities: Collection[bytes],
    *,
    start_over: bool = False,
) -> Taken:
    """The document in place of `before`, which was served with `served_sequence`.

    own_authorities: DER certificates of our own trust domain. start_over: an operator gives it; what was served before
    does not bind. The record's own sequence grows with each change in any case. Raises InvalidBundle.
    """
    check_authorities(document, trust_domain)
    shared = set(document.x509_authorities) & set(own_authorities)
    if shared:
        raise _refused(
            trust_domain,
            "holds an authority of our own trust domain: whoever it signs could be of either",
            "serve the bundle of that trust domain, from authorities of its own",
        )
    said = document.sequence
    if said is not None and said > MAX_SEQUENCE:
        raise _refused(trust_domain, f"spiffe_sequence {said} is above {MAX_SEQUENCE}", "serve a smaller number")
    changed = before is None or not _same(document, before)
    if not start_over and served_sequence is not None:
        _check_sequence(trust_domain, said, served_sequence, changed=changed)
    least = (before.sequence + changed) if before is not None else 1
    hint = document.refresh_hint_seconds
    record = TrustBundle(
        trust_domain=trust_domain,
        sequence=max(least, said or 0),
        refresh_hint_seconds=min(
            max(DEFAULT_HINT_SECONDS if hint is None else hint, MIN_HINT_SECONDS), MAX_HINT_SECONDS
        ),
        x509_authorities=tuple(sorted(document.x509_authorities)),
        jwt_authorities=tuple(sorted(document.jwt_authorities, key=lambda one: one.kid)),
    )
    return Taken(record, said)


def check_authorities(document: Document, trust_domain: str) -> None:
    """Each X.509 authority is a CA, and of that trust domain where it says of which (X509-SVID 3, 4.1).

    Raises InvalidBundle.
    """
    for der in document.x509_authorities:
        try:
            names, is_ca = _names_and_ca(x509.load_der_x509_certificate(der))
        except UNREADABLE as error:
            raise _refused(trust_domain, f"holds a certificate that can't be read: {error}", "leave it out") from error
        if not is_ca:
            raise _refused(trust_domain, "holds an X.509 authority that is no CA", "serve CA certificates only")
        for name in names:
            if name.lower().startswith("spiffe://") and _trust_domain(name) != trust_domain:
                raise _refused(
                    trust_domain,
                    f"holds the authority of another trust domain, {name[:80]!r}",
                    "correct the URL, or have the server corrected: this is another's bundle",
                )


def _check_sequence(trust_domain: str, said: int | None, served: int, *, changed: bool) -> None:
    if said is None:
        raise _refused(trust_domain, f"has no spiffe_sequence, after one with {served}", "serve the newest bundle")
    if said < served:
        raise _refused(
            trust_domain,
            f"is older than what is known: spiffe_sequence {said}, after {served}",
            "serve the newest bundle",
        )
    if said == served and changed:
        raise _refused(
            trust_domain,
            f"has other keys than before, and the same spiffe_sequence, {said}",
            "raise spiffe_sequence with each change",
        )


def _same(document: Document, record: TrustBundle) -> bool:
    return set(document.x509_authorities) == set(record.x509_authorities) and set(document.jwt_authorities) == {
        msgspec.structs.replace(one, not_after=None) for one in record.jwt_authorities
    }


def _names_and_ca(certificate: x509.Certificate) -> tuple[list[str], bool]:
    names: list[str] = []
    is_ca = False
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
        elif isinstance(extension.value, x509.BasicConstraints):
            is_ca = extension.value.ca
    return names, is_ca


def _trust_domain(name: str) -> str | None:
    try:
        return SpiffeId.parse(name).trust_domain
    except InvalidInput:
        return None


def _refused(trust_domain: str, why: str, remedy: str) -> InvalidBundle:
    return InvalidBundle(Problem(f"bundle of {trust_domain}", why, remedy=remedy))
