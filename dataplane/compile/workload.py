"""What the compiler knows of its own workload: where it listens, where its app is, who it is."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.names import ServiceRef, SpiffeId
from schemas.objects.common import CertificateFiles
from schemas.records import Locality


@dataclass(frozen=True, slots=True)
class VirtualNetwork:
    """How this host has the virtual addresses of services."""

    ipv4: ipaddress.IPv4Network | None = None
    """Instead of the mesh's range, with the same numbers in it; None: the mesh's own."""
    ipv6: bool = False
    """Whether the host has the mesh's IPv6 range, too."""


@dataclass(frozen=True, slots=True)
class GatewayHost:
    """Where a gateway in this sidecar listens; nothing in etcd opens a port on a host that did not say so."""

    address: str
    ports: Mapping[int, int] = field(default_factory=dict)
    """By the listener's port; one that is not here is the listener's own."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What a pair of files holds, checked: they fit together. Never shown."""

    chain_pem: bytes
    key_pem: bytes
    names: tuple[str, ...] = ()
    """DNS names of the leaf, in lower case, and its IP addresses."""

    def __repr__(self) -> str:
        return f"KeyPair({', '.join(self.names)}, [redacted])"


@dataclass(frozen=True, slots=True)
class Workload:
    """Addresses are IPs; ports are TCP ports."""

    service: ServiceRef
    trust_domain: str
    inbound_address: str
    """Where other sidecars reach this one."""
    app_address: str = "127.0.0.1"
    """Where the app listens."""
    local_address: str = "127.0.0.1"
    """Where the app finds its sidecar: the proxy port and the bound ports."""
    proxy_port: int = 15001
    inbound_ports: Mapping[str, int] = field(default_factory=dict)
    """By the service port's name; a port that is not here is the Service's own."""
    app_ports: Mapping[str, int] = field(default_factory=dict)
    """By the service port's name; a port that is not here is the Service's target port."""
    locality: Locality = field(default_factory=Locality)
    """Where it stands, as a caller."""

    system_ca: str = ""
    """Absolute path of the PEM file with the certification authorities that this host trusts; empty: it has none."""

    virtual: VirtualNetwork | None = None
    """Where the app finds services by name; None: it does not."""
    gateway: GatewayHost | None = None
    """None: nothing is listened to for anybody outside of the mesh."""
    certificates: Mapping[CertificateFiles, KeyPair] = field(default_factory=dict)
    """The files of this host that could be read, those that objects ask for."""

    access_log: str = ""
    """Absolute path of the file that Envoy logs requests to; empty: nowhere."""

    samples: str = ""
    """Absolute path of the directory with the agent's files for samples of requests (buckets); empty: none."""

    ends_open: bool = True
    """Whether the agent can end what is open; where it can't, rules have to be asked of each request."""

    @property
    def identity(self) -> SpiffeId:
        return SpiffeId.of_service(self.trust_domain, self.service)


@dataclass(frozen=True, slots=True)
class Credentials:
    """This workload's own SVID, as Envoy takes it. Never shown."""

    chain_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return "Credentials([redacted])"
