"""What goes into each kind of certificate. Pure: a template is a value; `sign` makes it, `check` compares with it.

Nothing here takes a name from a certificate request. Times are whole seconds since 1970 (UTC).
Rules: X509-SVID 2 to 4, RFC 5280 4.2; etcd takes its user from the subject's common name.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from schemas.errors import InvalidInput, Problem
from schemas.names import CONTROL_PLANE_SERVER_NAME, ServiceRef, SpiffeId, check_name

DAY = 24 * 3600
YEAR = 365 * DAY

# Verifiers whose clock is behind ours must take a certificate that was issued this second. Hosts that keep time by NTP
# differ by milliseconds; one minute covers a host that has just booted, and is too short to be of use to anyone. Of a
# short life it is a tenth: half of the life, when a leaf is renewed, must not lie before the leaf was made.
BACKDATE_SECONDS = 60
BACKDATE_SHARE = 10

# The root is in every bundle and used only to sign issuing keys: its life must outlast machines that are rarely seen.
ROOT_SECONDS = 10 * YEAR
# The issuing key is the one in daily use: 90 days bound what a stolen one is worth, and leave weeks to rotate it.
ISSUING_SECONDS = 90 * DAY
# etcd reads its client CA only at start, so replacing it means restarting every member: as long as the root.
ETCD_CA_SECONDS = 10 * YEAR
# Files of etcd's own server, of replicas and of tooling are placed by hand, and nothing renews them: an outage on a
# forgotten day is the greater risk than a long life, since whoever can read them can read the replica's memory too.
ETCD_FILE_SECONDS = 5 * YEAR
# A leaf shorter than this would be at its end before it is in use.
MIN_LEAF_SECONDS = 15


class Purpose(Enum):
    """Extended key usage (RFC 5280, 4.2.1.12)."""

    SERVER = "serverAuth"
    CLIENT = "clientAuth"


@dataclass(frozen=True, slots=True)
class Validity:
    """not_before and not_after, both inclusive, whole seconds since 1970."""

    not_before: int
    not_after: int

    def __post_init__(self) -> None:
        if self.not_before >= self.not_after:
            raise InvalidInput(Problem("validity", f"ends at {self.not_after}, before it starts"))

    @classmethod
    def starting(cls, now: float, seconds: int) -> "Validity":
        """From a little before `now` (for clocks that are behind) until `seconds` after it."""
        return cls(int(now) - min(BACKDATE_SECONDS, seconds // BACKDATE_SHARE), int(now) + seconds)


def issued_at(not_before: int, not_after: int) -> int:
    """When a certificate of ours was made, in seconds since 1970; never later than it was.

    Earlier where its end was cut short by its issuer's: the share was of the life that was asked for.
    """
    return not_before + min(BACKDATE_SECONDS, (not_after - not_before) // (BACKDATE_SHARE + 1))


@dataclass(frozen=True, slots=True)
class Template:
    """All that a certificate will say, but for key, serial number and issuer.

    common_name: the subject's only attribute; empty: an empty subject (the SAN is critical then: RFC 5280, 4.2.1.6).
    path_length: how many CAs may stand below; None in a leaf, which is how a leaf is told.
    """

    common_name: str
    validity: Validity
    path_length: int | None = None
    uris: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    purposes: frozenset[Purpose] = frozenset()

    @property
    def is_ca(self) -> bool:
        return self.path_length is not None


_BOTH = frozenset(Purpose)


def mesh_root(trust_domain: str, key_id: str, validity: Validity) -> Template:
    """The trust anchor. The key id in the subject keeps roots apart while two are in the bundle during a rotation."""
    return Template(f"mesh root {key_id}", validity, path_length=1, uris=(str(SpiffeId(trust_domain, "")),))


def mesh_issuing(trust_domain: str, key_id: str, validity: Validity) -> Template:
    return Template(f"mesh issuing {key_id}", validity, path_length=0, uris=(str(SpiffeId(trust_domain, "")),))


def workload_svid(trust_domain: str, service: ServiceRef, validity: Validity) -> Template:
    return _svid(SpiffeId.of_service(trust_domain, service), validity)


def control_plane_svid(trust_domain: str, validity: Validity) -> Template:
    """A replica's. The DNS name is the one that clients insist on when they connect."""
    return _svid(SpiffeId.of_control_plane(trust_domain), validity, (CONTROL_PLANE_SERVER_NAME,))


def operator_svid(trust_domain: str, name: str, validity: Validity) -> Template:
    """Raises InvalidInput for a name outside the grammar of names."""
    return _svid(SpiffeId.of_operator(trust_domain, check_name(name, "operator name")), validity)


def _svid(identity: SpiffeId, validity: Validity, dns_names: tuple[str, ...] = ()) -> Template:
    return Template("", validity, uris=(str(identity),), dns_names=dns_names, purposes=_BOTH)


def etcd_ca(key_id: str, validity: Validity) -> Template:
    """Signs etcd's server certificate and all clients of etcd; the mesh's own roots never vouch for an etcd user."""
    return Template(f"mesh etcd CA {key_id}", validity, path_length=0)


def etcd_server(hosts: Iterable[str], validity: Validity) -> Template:
    """No common name, so that it is nobody's user; a client too, since members and etcd's own gateway connect with it.

    Raises InvalidInput for no host and for one that is neither an IP address nor a DNS name.
    """
    dns_names, addresses = [], []
    for host in dict.fromkeys(hosts):
        try:
            addresses.append(str(ipaddress.ip_address(host)))
        except ValueError:
            dns_names.append(_check_dns_name(host))
    if not dns_names and not addresses:
        raise InvalidInput(Problem("etcd's server certificate", "no host", remedy="name one with --etcd-host"))
    return Template("", validity, dns_names=tuple(dns_names), addresses=tuple(addresses), purposes=_BOTH)


def etcd_client(user: str, validity: Validity) -> Template:
    """A client of etcd as `user`, in etcd's own sense."""
    return Template(check_name(user, "etcd user"), validity, purposes=frozenset({Purpose.CLIENT}))


def _check_dns_name(host: str) -> str:
    labels = host.split(".")
    if len(host) > 253 or labels[-1].isdigit():  # RFC 1035, 2.3.4; an all-digit last label is a mistyped address
        labels = [""]
    try:
        for label in labels:
            check_name(label, f"host {host!r}")
    except InvalidInput:
        problem = Problem("etcd's server certificate", f"{host!r} is neither an IP address nor a DNS name")
        raise InvalidInput(problem) from None
    return host
