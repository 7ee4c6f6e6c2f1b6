"""A sidecar's own settings, from its file."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated

import msgspec

from dataplane.compile.workload import GatewayHost, VirtualNetwork, Workload
from dataplane.dns.upstreams import Server
from dataplane.health.settings import HealthCheckSettings
from schemas.addresses import is_ip
from schemas.errors import InvalidInput, Problem
from schemas.names import ServiceRef
from schemas.objects.common import Label, Name, Port
from schemas.records import Locality
from schemas.settings import Settings, load_settings
from schemas.virtual_addresses import HOST_OWN

LogFile = Annotated[str, msgspec.Meta(pattern=r"^(/.*)?\Z", description="an absolute path, or empty")]
CaFile = Annotated[str, msgspec.Meta(pattern=r"^/.*\Z", description="an absolute path")]
Directory = Annotated[str, msgspec.Meta(pattern=r"^/.*\Z", description="the absolute path of a directory")]
LeaseTtl = Annotated[int, msgspec.Meta(ge=5, le=3600)]


class X509Attest(Settings, frozen=True, kw_only=True):
    """Join by a certificate that the host has already."""

    certificate: str
    """PEM file, the host's own certificate first."""
    key: str
    """PEM file, not encrypted."""
    service: str
    """NAME.NAMESPACE that this sidecar is to be, of those that the certificate allows."""


class JoinTokenAttest(Settings, frozen=True, kw_only=True):
    """For a join token that is for any service of a namespace."""

    service: str
    """NAME.NAMESPACE that this sidecar is to be."""


class Attest(Settings, frozen=True, kw_only=True):
    """How the host proves what it may be. `x509`, where given, is used instead of a token."""

    x509: X509Attest | None = None
    join_token: JoinTokenAttest | None = None

    @property
    def wanted(self) -> ServiceRef | None:
        """The service that the settings name. Raises InvalidInput."""
        named = self.x509 or self.join_token
        return ServiceRef.parse(named.service) if named else None


NAMES_PORT = 15053  # 53 takes a privilege that nothing else of a sidecar needs
MAX_SOCKET_PATH = 107  # bytes: sun_path of unix(7) without the final NUL
MAX_RUNTIME_DIR = MAX_SOCKET_PATH - len("/admin.sock")  # the longest name of a socket in it
# What stands for itself in unix:///path, which is how clients are told of it (SPIFFE_Workload_Endpoint 4).
_SOCKET_PATH = re.compile(r"(/[A-Za-z0-9._@+-]+)+")


class WorkloadApiCaller(Settings, frozen=True, kw_only=True):
    """A process of this host; all that is given must be so, and at least one must be given."""

    uid: Annotated[int, msgspec.Meta(ge=0)] | None = None
    gid: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Its group, or one of its supplementary groups."""
    unit: str | None = None
    """Of the system's systemd: ``web.service``."""
    executable: str | None = None
    """Path of the file that it runs; of a script that is the interpreter's."""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$", description="64 hexadecimal digits")] | None = None
    """Of that file."""


class WorkloadApiSettings(Settings, frozen=True, kw_only=True):
    """The SPIFFE Workload API for the app."""

    socket: str
    """Path of the Unix socket, in a directory that the app may enter."""
    callers: tuple[WorkloadApiCaller, ...] = ()
    """Who gets the identity; any of them suffices, none at all admits nobody."""


class NamesSettings(Settings, frozen=True, kw_only=True):
    """The mesh's DNS for the app, and the listeners at the addresses that it answers with."""

    listen: str | None = None
    """``address:port`` for UDP and TCP, an address of this host; None: `localAddress`, port 15053."""
    upstream: tuple[str, ...] = ()
    """Servers for all names that are not the mesh's, ``address`` or ``address:port``; none: as in /etc/resolv.conf."""
    network: str | None = None
    """IPv4 network instead of the mesh's range, on this host only; None: the mesh's."""
    ipv6: bool = False
    """Whether the host has the mesh's IPv6 range as local addresses."""


class GatewaySettings(Settings, frozen=True, kw_only=True):
    """This host takes requests from outside of the mesh, where a `Gateway` of its service says so."""

    address: str = "::"
    """IP address that it listens on; all of them where absent, of IPv4 too."""
    ports: dict[Port, Port] = msgspec.field(default_factory=dict)
    """Where to listen instead, by the listener's port."""


# Debian and Alpine, Fedora and its relatives, SUSE.
_HOST_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)


class SidecarSettings(Settings, frozen=True, kw_only=True):
    """Which service this is comes with its identity, never from here."""

    instance: Name
    """Unique among the instances of the service; a host name does."""
    advertise: str
    """IP address at which other sidecars reach this one; Envoy takes mTLS there."""
    state_dir: str
    """Survives a reboot: identity and last known good. Only the sidecar's user may enter."""
    runtime_dir: str
    """Sockets, pid file, status. Only the sidecar's user may enter."""
    join: str | None = None
    """The join file; needed until the first join has succeeded, with `attest.x509` for good."""
    attest: Attest = Attest()
    """How this host proves what it may be, where a token alone does not say."""
    app_address: str = "127.0.0.1"
    """Where the app listens."""
    local_address: str = "127.0.0.1"
    """Where the app finds the proxy port and the bound ports."""
    proxy_port: Port = 15001
    ports: dict[Name, Port] = msgspec.field(default_factory=dict)
    """Ports to take mTLS on, by the service port's name, where they are not the Service's own."""
    app_ports: dict[Name, Port] = msgspec.field(default_factory=dict)
    """Ports that the app listens on, by the service port's name, where they are not the Service's target ports."""
    system_ca: CaFile | None = None
    """PEM file of the certification authorities that servers outside of the mesh are verified by.

    None: the host's own."""
    certificate_dir: Directory | None = None
    """Where the files are that objects name: certificates of gateways, and for servers outside.

    None: no object gets any file.
    """
    gateway: GatewaySettings | None = None
    """None: this host is no gateway, whatever objects say."""
    labels: dict[Label, Label] = msgspec.field(default_factory=dict)
    locality: Locality = Locality()
    """Region and zone of this host: for zone-aware load balancing and failover, of its calls and of calls to it."""
    lease_ttl_seconds: LeaseTtl = 15
    """How long the instance stays in discovery after it has died without a word."""
    drain_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
    """At most this long for open requests when the sidecar stops."""
    envoy_log_level: str = "warning"
    access_log: LogFile | None = None
    """The file that requests are logged to; None: access.log in `stateDir`; empty: nowhere."""
    metrics: Annotated[str, msgspec.Meta(pattern=r"^[^:]+:[0-9]{1,5}\Z", description="host:port")] | None = None
    """Where Prometheus finds the agent's metrics; None: nowhere."""
    workload_api: WorkloadApiSettings | None = None
    """None: it is not served."""
    names: NamesSettings | None = None
    """None: the app finds nobody by name."""
    health_check: HealthCheckSettings | None = None
    """None: as the Service says."""

    @property
    def access_log_path(self) -> str:
        return str(Path(self.state_dir) / "access.log") if self.access_log is None else self.access_log

    @property
    def last_good_file(self) -> Path:
        return Path(self.state_dir) / "last-good.msgpack"

    @property
    def status_file(self) -> Path:
        return Path(self.runtime_dir) / "status.json"

    @property
    def admin_socket(self) -> Path:
        """Of Envoy."""
        return Path(self.runtime_dir) / "admin.sock"

    @property
    def ads_socket(self) -> Path:
        """Of the agent, for Envoy."""
        return Path(self.runtime_dir) / "ads.sock"

    @property
    def names_listen(self) -> str:
        own = f"[{self.local_address}]" if ":" in self.local_address else self.local_address
        return (self.names.listen if self.names else None) or f"{own}:{NAMES_PORT}"

    def workload(self, service: ServiceRef, trust_domain: str) -> Workload:
        """What the compiler is to know."""
        return Workload(
            service=service,
            trust_domain=trust_domain,
            inbound_address=self.advertise,
            app_address=self.app_address,
            local_address=self.local_address,
            proxy_port=self.proxy_port,
            inbound_ports=self.ports,
            app_ports=self.app_ports,
            locality=self.locality,
            virtual=_virtual_network(self.names) if self.names else None,
            access_log=self.access_log_path,
            samples=self.runtime_dir,
            gateway=GatewayHost(self.gateway.address, self.gateway.ports) if self.gateway is not None else None,
            system_ca=self.system_ca if self.system_ca is not None else _host_ca(),
        )


def _host_ca() -> str:
    """Where Linux distributions keep the authorities that the host trusts; empty where there is none of those files."""
    return next((path for path in _HOST_CA_FILES if Path(path).is_file()), "")


def load(path: Path) -> SidecarSettings:
    """Raises InvalidInput that names the file, the field and what to do."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InvalidInput(Problem(str(path), f"can't be read: {reason}", remedy="see --config")) from error
    settings = load_settings(text, SidecarSettings, str(path))
    problems = []
    try:
        _ = settings.attest.wanted
    except InvalidInput as error:
        field = "x509" if settings.attest.x509 else "joinToken"
        problems += [Problem(str(path), one.message, f"$.attest.{field}.service", one.remedy) for one in error.problems]
    if settings.attest.x509 and not settings.join:
        remedy = "`meshadm attestor join-file` makes one for all hosts"
        problems.append(Problem(str(path), "attest.x509 needs a join file too", "$.join", remedy))
    problems += _workload_api_problems(settings, str(path))
    check = settings.health_check
    if check is not None and (check.type == "Command") != (check.command is not None):
        message = f"says nothing for type {check.type}" if check.command else "missing: type is Command"
        problems.append(Problem(str(path), message, "$.healthCheck.command", "name the program, or another type"))
    if len(os.fsencode(settings.runtime_dir)) > MAX_RUNTIME_DIR:
        text = f"at most {MAX_RUNTIME_DIR} bytes, or the sockets in it would have paths that are too long"
        problems.append(Problem(str(path), text, "$.runtimeDir"))
    if settings.gateway is not None and not is_ip(settings.gateway.address):
        message = f"expected an IP address, got {settings.gateway.address!r}"
        problems.append(Problem(str(path), message, "$.gateway.address", "0.0.0.0 and :: are all addresses"))
    if settings.system_ca is not None and not Path(settings.system_ca).is_file():
        remedy = "Envoy would take no cluster that is verified by it: correct the path"
        problems.append(Problem(str(path), f"{settings.system_ca} is no file", "$.systemCa", remedy))
    for name in ("advertise", "app_address", "local_address"):
        value = getattr(settings, name)
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            address = None
        if address is None or (name == "advertise" and address.is_unspecified):
            field = {"app_address": "appAddress", "local_address": "localAddress"}.get(name, name)
            problems.append(Problem(str(path), f"expected an IP address, got {value!r}", f"$.{field}"))
    if settings.names is not None:
        problems += _names_problems(settings, settings.names, str(path))
    if problems:
        raise InvalidInput(*problems)
    return settings


def _virtual_network(names: NamesSettings) -> VirtualNetwork:
    return VirtualNetwork(ipaddress.IPv4Network(names.network) if names.network else None, names.ipv6)


def _names_problems(settings: SidecarSettings, names: NamesSettings, source: str) -> list[Problem]:
    problems = []
    for field, texts in (("listen", [settings.names_listen]), ("upstream", names.upstream)):
        for text in texts:
            try:
                server = Server.parse(text)
            except ValueError:
                problems.append(Problem(source, f"expected address:port, got {text!r}", f"$.names.{field}"))
                continue
            if field == "listen" and ipaddress.ip_address(server.address).is_unspecified:
                message, remedy = "would answer everybody who reaches this host", "name one address, as 127.0.0.1"
                problems.append(Problem(source, message, "$.names.listen", remedy))
            if field == "upstream" and str(server) == settings.names_listen:
                problems.append(Problem(source, "is this sidecar itself", "$.names.upstream", "name other servers"))
    try:
        network = ipaddress.IPv4Network(names.network) if names.network else None
    except ValueError:
        problems.append(Problem(source, f"expected an IPv4 network, got {names.network!r}", "$.names.network"))
        return problems
    if network is not None and network.overlaps(HOST_OWN):
        message = f"{network} holds addresses that hosts use themselves"
        problems.append(Problem(source, message, "$.names.network", f"keep out of {HOST_OWN}"))
    return problems


def _workload_api_problems(settings: SidecarSettings, source: str) -> list[Problem]:
    served = settings.workload_api
    if served is None:
        return []
    problems = []
    if not _SOCKET_PATH.fullmatch(served.socket) or len(served.socket) > MAX_SOCKET_PATH:
        expected = f"expected an absolute path of at most {MAX_SOCKET_PATH} of A-Z, a-z, 0-9, '.', '_', '-', '@', '+'"
        problems.append(Problem(source, expected, "$.workloadApi.socket"))
    for index, caller in enumerate(served.callers):
        where = f"$.workloadApi.callers[{index}]"
        if caller == WorkloadApiCaller():
            problems.append(Problem(source, "would admit everybody", where, "say what it must be, such as a uid"))
        if caller.executable is not None and not Path(caller.executable).is_absolute():
            problems.append(Problem(source, "expected an absolute path", f"{where}.executable"))
        if caller.unit is not None and not caller.unit.endswith((".service", ".scope")):
            problems.append(Problem(source, "expected NAME.service or NAME.scope", f"{where}.unit"))
    return problems
