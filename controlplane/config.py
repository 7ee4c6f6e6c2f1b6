"""The replica's configuration file, `/etc/mesh/controlplane.yaml`: parsed strictly, once.

```yaml
etcd:
  endpoints: [127.0.0.1:2379]
  ca: /etc/mesh/etcd/ca.crt          # verifies etcd's own certificates; also given to sidecars
  cert: /etc/mesh/etcd/replica.crt   # CN mesh-replica
  key: /etc/mesh/etcd/replica.key
  prefix: /mesh/v1                   # of all keys
  allowKnownBad: false               # start with an etcd whose access control is known to have holes
  sidecarEndpoints: [10.0.0.1:2379]  # what sidecars are told; default: endpoints
  clientCrl: /var/lib/mesh-crl/clients.crl # written for etcd's --client-crl-file; default: nowhere
kek: /etc/mesh/kek                   # key-encryption key; default: $CREDENTIALS_DIRECTORY/kek
nextKek: /etc/mesh/kek.new           # another one that opens CA keys too, while `meshadm ca reseal` replaces the first
upstreamSigner:                      # a program that has issuing keys signed by a CA above the mesh; default: none
  command: [/usr/local/bin/sign-for-mesh] # the request on its standard input, the chain on its standard output, PEM
  timeoutSeconds: 60
stateDir: /var/lib/mesh-controlplane # what an older backup of etcd must not undo; default: $STATE_DIRECTORY
listen: {api: 0.0.0.0:7443, join: 0.0.0.0:7444, socket: /run/mesh/controlplane/api.sock}
advertise: {api: [10.0.0.1:7443], join: [10.0.0.1:7444]}  # what others are told; default: where it listens
bundleEndpoint:                      # publishes the trust bundle for other trust domains; without it, none does
  listen: 0.0.0.0:8443
  profile: https_spiffe              # with the replica's SVID; or https_web, with two files, read again when changed
  # cert: /etc/mesh/web.crt
  # key: /etc/mesh/web.key
  path: /
tokenKeys:                           # networks in which no issuer of tokens is asked for its keys; default: as here
  refusedNetworks: [127.0.0.0/8, "::1/128", 0.0.0.0/8, "::/128", 169.254.0.0/16, "fe80::/10", "fd00:ec2::254/128"]
metrics: 127.0.0.1:9465              # where Prometheus finds them; default: nowhere
log: {format: text}                  # or json: one object a line, for programs
```
"""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from controlplane.https_get import Network
from schemas.errors import InvalidInput, Problem
from schemas.keys import DEFAULT_PREFIX
from schemas.settings import Settings, load_settings

Address = Annotated[
    str,
    msgspec.Meta(pattern=r"^([A-Za-z0-9._-]+|\[[0-9a-fA-F:.%a-z]+\]):[0-9]{1,5}\Z", description="host:port"),
]
Addresses = Annotated[tuple[Address, ...], msgspec.Meta(min_length=1)]
AbsolutePath = Annotated[str, msgspec.Meta(pattern=r"^/[^\x00]*\Z", description="an absolute path")]
# Ends without '/', so that it can't swallow its neighbours' keys.
Prefix = Annotated[str, msgspec.Meta(pattern=r"^(/[A-Za-z0-9._-]+)+\Z", description="an etcd key prefix, /a/b")]


class EtcdConfig(Settings, frozen=True, kw_only=True):
    endpoints: Addresses
    ca: AbsolutePath
    cert: AbsolutePath
    key: AbsolutePath
    prefix: Prefix = DEFAULT_PREFIX
    allow_known_bad: bool = False
    sidecar_endpoints: Addresses | None = None
    client_crl: AbsolutePath | None = None


class ListenConfig(Settings, frozen=True, kw_only=True):
    api: Address
    join: Address
    socket: AbsolutePath


class AdvertiseConfig(Settings, frozen=True, kw_only=True):
    api: Addresses | None = None
    join: Addresses | None = None


class BundleEndpointConfig(Settings, frozen=True, kw_only=True):
    listen: Address
    profile: Literal["https_web", "https_spiffe"]
    cert: AbsolutePath | None = None
    key: AbsolutePath | None = None
    path: Annotated[str, msgspec.Meta(pattern=r"^/[A-Za-z0-9._~/-]*\Z", description="the path of a URL")] = "/"

    def __post_init__(self) -> None:
        """msgspec tells a ValueError with the place of this part."""
        given = self.cert is not None, self.key is not None
        if given != ((True, True) if self.profile == "https_web" else (False, False)):
            raise ValueError("profile https_web needs cert and key, and https_spiffe takes neither")


class UpstreamSignerConfig(Settings, frozen=True, kw_only=True):
    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0

    def __post_init__(self) -> None:
        """msgspec tells a ValueError with the place of this part."""
        if not self.command[0].startswith("/"):
            raise ValueError("the program must be named by its absolute path")


class TokenKeysConfig(Settings, frozen=True, kw_only=True):
    # Whoever writes a RequestAuthentication names what a replica connects to: not its own loopback, nor what
    # tells hosts of a cloud who they are.
    refused_networks: tuple[str, ...] = (
        "127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128", "169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """msgspec tells a ValueError with the place of this part."""
        _ = self.refused

    @property
    def refused(self) -> tuple[Network, ...]:
        """Raises ValueError."""
        return tuple(ip_network(one) for one in self.refused_networks)


class LogConfig(Settings, frozen=True, kw_only=True):
    format: Literal["text", "json"] = "text"


class ReplicaConfig(Settings, frozen=True, kw_only=True):
    etcd: EtcdConfig
    listen: ListenConfig
    kek: AbsolutePath | None = None
    next_kek: AbsolutePath | None = None
    state_dir: AbsolutePath | None = None
    advertise: AdvertiseConfig = AdvertiseConfig()
    bundle_endpoint: BundleEndpointConfig | None = None
    upstream_signer: UpstreamSignerConfig | None = None
    token_keys: TokenKeysConfig = TokenKeysConfig()
    log: LogConfig = LogConfig()
    metrics: Address | None = None

    @property
    def certificate_files(self) -> tuple[Path, ...]:
        """Those that the replica uses and nothing of the mesh renews."""
        endpoint = self.bundle_endpoint
        web = (endpoint.cert,) if endpoint is not None and endpoint.cert is not None else ()
        return tuple(map(Path, (self.etcd.ca, self.etcd.cert, *web)))

    @property
    def sidecar_etcd_endpoints(self) -> tuple[str, ...]:
        return self.etcd.sidecar_endpoints or self.etcd.endpoints

    @property
    def advertised_api(self) -> tuple[str, ...]:
        return self.advertise.api or (self.listen.api,)

    @property
    def advertised_join(self) -> tuple[str, ...]:
        return self.advertise.join or (self.listen.join,)

    def state_path(self, environ: Mapping[str, str]) -> Path | None:
        """None: neither the file nor systemd names one."""
        named = self.state_dir or environ.get("STATE_DIRECTORY", "").partition(":")[0]
        return Path(named) if named else None

    def kek_path(self, environ: Mapping[str, str]) -> Path:
        """Raises InvalidInput where neither the file nor systemd names one."""
        if self.kek is not None:
            return Path(self.kek)
        directory = environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            message = "no key-encryption key is named, and there is no $CREDENTIALS_DIRECTORY"
            remedy = "write kek: <path>, or give the systemd unit LoadCredential=kek:…"
            raise InvalidInput(Problem("configuration", message, "$.kek", remedy))
        return Path(directory) / "kek"

    def kek_paths(self, environ: Mapping[str, str]) -> tuple[Path, ...]:
        """The one that seals first. Raises InvalidInput, as `kek_path` does."""
        return (self.kek_path(environ), *((Path(self.next_kek),) if self.next_kek else ()))


def parse(text: str, source: str) -> ReplicaConfig:
    """Raises InvalidInput that names `source`, line and field of everything that is wrong."""
    return load_settings(text, ReplicaConfig, source)


def load(path: Path) -> ReplicaConfig:
    """Raises InvalidInput where the file is missing, not text or not valid; PermissionError where it can't be read."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        remedy = "`meshadm init` writes it; or give --config"
        raise InvalidInput(Problem(str(path), "there is no such file", remedy=remedy)) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(Problem(str(path), "not UTF-8 text")) from error
