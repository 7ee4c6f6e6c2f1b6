"""Who calls: from the listener that the call came in by, and the certificate that TLS has verified. Pure."""

import enum
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from cryptography import x509

from controlplane.ca.template import issued_at
from controlplane.store.ops import KeyGuard
from schemas.errors import Unauthenticated
from schemas.names import ServiceRef, SpiffeId
from schemas.records import Operator
from spiffe.x509 import leaf_identity


class Listener(enum.Enum):
    """A replica's three doors."""

    API = "api"
    """mTLS: a client certificate of the mesh is required."""
    JOIN = "join"
    """TLS, and nothing known of the client."""
    SOCKET = "socket"
    """A Unix socket in a directory that only its owner and root may enter."""


class CallerKind(enum.Enum):
    ROOT_LOCAL = "root-local"
    """Through the Unix socket: who may enter its directory may do all that an operator may."""
    OPERATOR = "operator"
    SIDECAR = "sidecar"
    CONTROL_PLANE = "control-plane"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Caller:
    kind: CallerKind
    where: str
    """The peer's address, for logs."""
    identity: SpiffeId | None = None
    issued: int = 0
    """When its certificate was issued, in seconds since 1970."""
    operator: Operator | None = None
    """What the mesh says of an operator (`controlplane.api.operators`); None for others, and before it was asked."""
    guards: tuple[KeyGuard, ...] = ()
    """What must still hold when this caller's write happens: that nobody has changed its role meanwhile."""

    def __str__(self) -> str:
        return str(self.identity) if self.identity else self.kind.value

    @property
    def service(self) -> ServiceRef:
        """Of a sidecar. Raises Unauthenticated for all others."""
        service = self.identity.service if self.identity else None
        if service is None:
            raise Unauthenticated("this call needs the identity of a service")
        return service

    @property
    def operator_name(self) -> str:
        """Of an operator. Raises Unauthenticated for all others."""
        if self.kind is not CallerKind.OPERATOR or self.identity is None:
            raise Unauthenticated("this call needs the identity of an operator")
        return self.identity.path.rpartition("/")[2]


def caller_of(listener: Listener, peer: str, certificate_pem: bytes | None, trust_domain: str, now: float) -> Caller:
    """`peer`: gRPC's peer address. `now`: seconds since 1970.

    Raises Unauthenticated: for a certificate that is no SVID, of another trust domain or of an unknown kind; and for
    one that has expired, since a connection may live longer than the certificate it was made with.
    """
    where = unquote(peer)
    if listener is Listener.SOCKET:
        return Caller(CallerKind.ROOT_LOCAL, "unix")
    if listener is Listener.JOIN:
        return Caller(CallerKind.ANONYMOUS, where)
    if certificate_pem is None:
        raise Unauthenticated("no client certificate: call with the SVID of a sidecar or an operator")
    identity, not_before, not_after = _read(certificate_pem)
    if not not_before <= now < not_after:
        raise Unauthenticated(f"the certificate of {identity} is not valid at this time: renew it and connect again")
    if identity.trust_domain != trust_domain:
        raise Unauthenticated(f"{identity} is not of this mesh, whose trust domain is {trust_domain}")
    return Caller(_kind_of(identity), where, identity, issued_at(not_before, not_after))


# A connection shows the same certificate with each call, and reading one costs a tenth of signing one. What the bytes
# say never changes; whether it is valid now is asked each time.
@lru_cache(maxsize=1024)
def _read(certificate_pem: bytes) -> tuple[SpiffeId, int, int]:
    """Identity, not before, not after (seconds since 1970). Raises Unauthenticated."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise Unauthenticated(f"the client certificate can't be read: {error}") from error
    return (
        leaf_identity(certificate),
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )


def _kind_of(identity: SpiffeId) -> CallerKind:
    if identity.service is not None:
        return CallerKind.SIDECAR
    match identity.path.split("/"):
        case ["", "control-plane"]:
            return CallerKind.CONTROL_PLANE
        case ["", "operator", _]:
            return CallerKind.OPERATOR
    raise Unauthenticated(f"{identity} is no sidecar, operator or replica")
