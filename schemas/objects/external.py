"""`ExternalService`: what services of the mesh call, and that is not of the mesh: where it is, and how to know it.

Callers name it as they name a service, `<name>.<namespace>.mesh`, or by a bound port; and by its own `hosts`. A
`Service` of the same name and namespace can't be beside it. Names of fields as in Istio's ServiceEntry and
ClientTLSSettings.
"""

from typing import Annotated, Literal

import msgspec

from schemas.objects.authorization import Identity
from schemas.objects.common import CertificateFiles, Name, Object, Part, Port
from schemas.objects.route_parts import PreciseHostname
from schemas.objects.service import ServicePort, VirtualAddress

# More than enough for the roots of a partner; above it somebody has pasted a whole trust store.
MAX_CA_CHARACTERS = 128 * 1024

SubjectName = Annotated[
    str, msgspec.Meta(pattern=r"^[a-z0-9:.-]{1,253}\Z", description="a host name in lower case, or an IP address")
]
TlsMode = Literal["DISABLE", "SIMPLE", "MUTUAL", "MESH"]


class ExternalEndpoint(Part, frozen=True, kw_only=True):
    address: Annotated[str, msgspec.Meta(max_length=253)]
    """IPv4, IPv6, or a host name, which each sidecar resolves by itself, as often as its time to live says."""
    ports: dict[Name, Port] | None = None
    """By the port's name; a port that is not here is reached by its `targetPort`, else by its own number."""


class ExternalTls(Part, frozen=True, kw_only=True):
    """How the connection is secured."""

    mode: TlsMode
    """DISABLE: as the app sends it. SIMPLE: TLS begins at the sidecar, which verifies the server. MUTUAL: and shows a
    certificate. MESH: mutual TLS with the caller's own SVID; the server's is verified by its trust domain's bundle."""
    spiffe_id: Identity | None = None
    """MESH: exactly that server; any other is refused."""
    sni: PreciseHostname | None = None
    """The server's name in the handshake; the first of `hosts`, else of the endpoints' names, where absent."""
    subject_alt_names: Annotated[tuple[SubjectName, ...], msgspec.Meta(max_length=16)] = ()
    """Of whose names the server's certificate must have one; `sni` where absent."""
    ca_certificates: Annotated[str, msgspec.Meta(max_length=MAX_CA_CHARACTERS)] | None = None
    """Who must have signed it, in PEM; the certification authorities of the caller's host where absent."""
    client_certificate: CertificateFiles | None = None
    """MUTUAL: what to show; the caller's own SVID where absent."""


class ExternalPort(ServicePort, frozen=True, kw_only=True):
    """`targetPort` is the number on the endpoints. `identityHeader` says nothing where the mode is not MESH."""

    tls: ExternalTls | None = None
    """For this port, in place of the service's."""


class ExternalServiceSpec(Part, frozen=True, kw_only=True):
    hosts: Annotated[tuple[PreciseHostname, ...], msgspec.Meta(max_length=32)] = ()
    """Names by which callers may call it too, as if there were no mesh. They hold for callers of its own namespace, for
    those that declare it, and, of namespace mesh-system, for all."""
    ports: Annotated[tuple[ExternalPort, ...], msgspec.Meta(min_length=1, max_length=64)]
    """What callers name, and the protocol."""
    endpoints: Annotated[tuple[ExternalEndpoint, ...], msgspec.Meta(max_length=256)] = ()
    """Where it is; at its `hosts` where absent."""
    resolution: Literal["DNS", "DNS_ROUND_ROBIN"] = "DNS"
    """Of names. DNS: all addresses that a name has are endpoints. DNS_ROUND_ROBIN: new connections go to its first, and
    those that are open stay: for names whose answers change each time."""
    tls: ExternalTls
    virtual_address: VirtualAddress | None = None
    """As of a Service."""


class ExternalService(Object, frozen=True, kw_only=True, tag="ExternalService"):
    spec: ExternalServiceSpec

    def tls_of(self, port: ServicePort) -> ExternalTls:
        """port: one of its own."""
        return (port.tls if isinstance(port, ExternalPort) else None) or self.spec.tls

    def is_outside(self, port: ServicePort) -> bool:
        """Whether no sidecar is at the other end, so that what is sent must be the app's own protocol."""
        return self.tls_of(port).mode != "MESH"

    @property
    def addresses(self) -> tuple[ExternalEndpoint, ...]:
        """Where it is."""
        return self.spec.endpoints or tuple(ExternalEndpoint(address=host) for host in self.spec.hosts)
