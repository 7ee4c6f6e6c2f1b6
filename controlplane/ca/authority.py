"""The open CA of a running replica: build the template, sign, check what was built. Pure: keys and time are passed in.

Holds the issuing key and etcd's client CA key in memory, never the root's: the root signs issuing keys only.
"""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.ca import template as templates
from controlplane.ca.check import checked
from controlplane.ca.errors import AuthorityExpired, NoAuthority
from controlplane.ca.sign import Issuer, signed
from controlplane.ca.template import Template, Validity
from schemas.names import ServiceRef
from spiffe.key_ids import subject_key_id
from spiffe.x509 import UNREADABLE


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs leaves. All methods return DER certificates, leaf first, without the root.

    roots: of the mesh, all that belong in the trust bundle. root: the one of them that signed the issuing key.
    issuing: the active issuing key; intermediates: what stands between it and its root, where an external CA signed it.
    etcd: the CA of etcd's clients and servers. leaf_seconds: no SVID of a host lives longer, whatever is asked.
    `now`: seconds since 1970. `ttl`: seconds from now; less where a CA ends sooner.
    `serial`: see `controlplane.ca.sign.serial_number`.

    All methods raise AuthorityExpired when a CA has expired or is about to, and Miscreated for a defect of ours.
    """

    trust_domain: str
    roots: tuple[x509.Certificate, ...]
    root: x509.Certificate
    issuing: Issuer = field(repr=False)
    etcd: Issuer = field(repr=False)
    intermediates: tuple[x509.Certificate, ...] = ()
    leaf_seconds: int = 7 * templates.DAY

    def issue_workload(
        self, service: ServiceRef, public_key: ec.EllipticCurvePublicKey, now: float, ttl: int, serial: int
    ) -> tuple[bytes, ...]:
        return self._svid(
            lambda validity: templates.workload_svid(self.trust_domain, service, validity), public_key, now, ttl, serial
        )

    def issue_control_plane(
        self, public_key: ec.EllipticCurvePublicKey, now: float, ttl: int, serial: int
    ) -> tuple[bytes, ...]:
        """A replica's own: its SPIFFE ID and the DNS name that clients insist on."""
        return self._svid(
            lambda validity: templates.control_plane_svid(self.trust_domain, validity), public_key, now, ttl, serial
        )

    def issue_operator(
        self, name: str, public_key: ec.EllipticCurvePublicKey, now: float, ttl: int, serial: int
    ) -> tuple[bytes, ...]:
        """Raises InvalidInput for a name outside the grammar of names.

        May live longer than `leaf_seconds`: nobody waits for operators before a key is removed. A login ends with the
        key that it chains to, and a new one mends that.
        """
        return self._chain(
            templates.operator_svid(self.trust_domain, name, _within(self._path(), now, ttl)), public_key, serial
        )

    def issue_etcd_client(
        self, user: str, public_key: ec.EllipticCurvePublicKey, now: float, ttl: int, serial: int
    ) -> tuple[bytes, ...]:
        """For etcd's user `user`; the chain is the leaf alone, since etcd knows its CA."""
        ca = self.etcd.certificate
        validity = _within((ca,), now, ttl)
        leaf = _issue(templates.etcd_client(user, validity), public_key, self.etcd, serial)
        return (leaf.public_bytes(Encoding.DER),)

    @property
    def etcd_ca_pem(self) -> bytes:
        """What verifies etcd's own certificates."""
        return self.etcd.certificate.public_bytes(Encoding.PEM)

    @property
    def issues_until(self) -> int:
        """Seconds since 1970 at which this authority signs its last: whoever watches over it warns long before."""
        return min(_end(one) for one in (*self._path(), self.etcd.certificate))

    @property
    def issuing_key_id(self) -> str:
        """What leaves name as their authority key identifier (hex)."""
        return subject_key_id(self.issuing.certificate)

    def _svid(
        self,
        build: Callable[[Validity], Template],
        public_key: ec.EllipticCurvePublicKey,
        now: float,
        ttl: int,
        serial: int,
    ) -> tuple[bytes, ...]:
        return self._chain(build(_within(self._path(), now, min(ttl, self.leaf_seconds))), public_key, serial)

    def _chain(self, template: Template, public_key: ec.EllipticCurvePublicKey, serial: int) -> tuple[bytes, ...]:
        leaf = _issue(template, public_key, self.issuing, serial)
        chain = (leaf, self.issuing.certificate, *self.intermediates)
        return tuple(one.public_bytes(Encoding.DER) for one in chain)

    def _path(self) -> tuple[x509.Certificate, ...]:
        """A leaf may outlive none of them."""
        return self.issuing.certificate, *self.intermediates, self.root


def expires(chain: tuple[bytes, ...]) -> int:
    """Until when, in seconds since 1970, the leaf of an issued chain is valid."""
    return _end(x509.load_der_x509_certificate(chain[0]))


def _issue(template: Template, public_key: ec.EllipticCurvePublicKey, issuer: Issuer, serial: int) -> x509.Certificate:
    return checked(signed(template, public_key, issuer, serial), template, public_key, issuer.certificate)


def _within(authorities: tuple[x509.Certificate, ...], now: float, ttl: int) -> Validity:
    """From a little before `now` for `ttl` seconds, but not beyond any of `authorities`."""
    for authority in authorities:
        name = authority.subject.rfc4514_string()
        if now < authority.not_valid_before_utc.timestamp():
            raise NoAuthority(f"{name} is not valid yet: this host's clock is behind, or its maker's was ahead")
        if now + templates.MIN_LEAF_SECONDS > _end(authority):
            end = datetime.datetime.fromtimestamp(_end(authority), datetime.UTC)
            raise AuthorityExpired(
                f"{name} ends at {end:%Y-%m-%d %H:%M:%S} UTC and signs no more; a new CA key has to be made"
            )
    wanted = Validity.starting(now, ttl)
    return Validity(wanted.not_before, min(wanted.not_after, *map(_end, authorities)))


def root_of(issuing: x509.Certificate, roots: Sequence[x509.Certificate]) -> x509.Certificate:
    """The root that signed `issuing`, the longest-lived where several did. Raises NoAuthority for none."""
    above = [root for root in roots if _signed(issuing, root)]
    if not above:
        raise NoAuthority("the active mesh-issuing key was signed by no root of the trust bundle")
    return max(above, key=_end)


def _signed(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def _end(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_after_utc.timestamp())
