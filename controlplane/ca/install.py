"""What an external CA has signed for us: is it a chain that the mesh can issue with? Pure: the time is passed in.

The proof is a probe: a leaf as the mesh would issue it, verified as every peer would verify it, against the root alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.ca import template as templates
from controlplane.ca.sign import Issuer, serial_number, signed
from controlplane.ca.template import DAY, Validity
from schemas.errors import InvalidInput, Problem
from schemas.names import ServiceRef
from spiffe.x509 import InvalidSvid, authority_trust_domain, parse_chain, verify_chain

# A chain that ends sooner would have to be replaced before anybody has looked after it.
MIN_LIFE_SECONDS = 2 * DAY


@dataclass(frozen=True, slots=True)
class External:
    """`chain`: the issuing certificate and the intermediates above it; `root` vouches for them."""

    chain: tuple[x509.Certificate, ...]
    root: x509.Certificate

    @property
    def not_after(self) -> int:
        """Of whichever certificate ends first."""
        return min(int(one.not_valid_after_utc.timestamp()) for one in (*self.chain, self.root))


def checked_chain(
    given: Sequence[bytes],
    key: ec.EllipticCurvePrivateKey,
    known_roots: Sequence[x509.Certificate],
    trust_domain: str,
    now: float,
) -> External:
    """given: DER, the issuing certificate first; the root last, or left out where it is one of `known_roots`.

    key: of the issuing certificate. Raises InvalidInput that names what is wrong with which certificate.
    """
    try:
        certificates = parse_chain(given)
    except InvalidSvid as error:
        raise _refuse("can't be read", str(error)) from error
    issuing, *rest = certificates
    if issuing.public_key() != key.public_key():
        raise _refuse("the first certificate is not of the requested key", "put the issuing certificate first")
    if authority_trust_domain(issuing) != trust_domain:
        raise _refuse(
            f"the issuing certificate does not name the trust domain {trust_domain}",
            f"it needs exactly one URI SAN, spiffe://{trust_domain}",
        )
    root = _root(rest[-1] if rest else issuing, known_roots)
    path = tuple(certificates[:-1] if rest and rest[-1] == root else certificates)
    for below, above in zip(path, (*path[1:], root), strict=True):
        _check_signed(below, above)
    for one in (*path, root):
        _check_life(one, now)
    _probe(path, key, root, trust_domain, now)
    return External(path, root)


def _root(last: x509.Certificate, known: Sequence[x509.Certificate]) -> x509.Certificate:
    if _signed_by(last, last):
        return last
    for root in known:
        if _signed_by(last, root):
            return root
    raise _refuse(f"no root above {_name(last)}", "append the root's certificate: the mesh does not know it yet")


def _check_signed(below: x509.Certificate, above: x509.Certificate) -> None:
    if not _signed_by(below, above):
        raise _refuse(
            f"{_name(below)} was not signed by {_name(above)}", "order the chain: each certificate before its issuer"
        )


def _check_life(certificate: x509.Certificate, now: float) -> None:
    if now < certificate.not_valid_before_utc.timestamp():
        raise _refuse(f"{_name(certificate)} is not valid yet", "check this host's clock, and the CA's")
    if certificate.not_valid_after_utc.timestamp() < now + MIN_LIFE_SECONDS:
        raise _refuse(f"{_name(certificate)} has expired or is about to", "have a new one signed")


def _probe(
    path: Sequence[x509.Certificate],
    key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    trust_domain: str,
    now: float,
) -> None:
    probe = templates.workload_svid(trust_domain, ServiceRef("probe", "probe"), Validity(int(now) - 1, int(now) + 60))
    own = ec.generate_private_key(ec.SECP256R1())
    leaf = signed(probe, own.public_key(), Issuer(path[0], key), serial_number(bytes(20)))
    try:
        verify_chain((leaf, *path), {trust_domain: (root,)}, now)
    except InvalidSvid as error:
        remedy = "it must be a CA certificate with keyCertSign, and every path length and name constraint must allow it"
        raise _refuse(f"what it would sign is not valid: {error}", remedy) from error


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:
        return False
    return True


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate without a subject"


def _refuse(why: str, remedy: str) -> InvalidInput:
    return InvalidInput(Problem("certificate chain", why, remedy=remedy))
