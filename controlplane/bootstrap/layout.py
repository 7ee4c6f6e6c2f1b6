"""Where `meshadm init` puts what, and the text of a replica's configuration. Pure."""

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from controlplane.bootstrap.options import InitOptions

ROOT_USER = "root"  # etcd's own administrator: exists by that name, or authentication can't be turned on
REPLICA_USER = "mesh-replica"
SIDECAR_USER = "mesh-sidecar"
TOOLING_USER = "mesh-tooling"


@dataclass(frozen=True, slots=True)
class Pair:
    """Certificate and key files of one name."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Layout:
    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "controlplane.yaml"

    @property
    def kek(self) -> Path:
        return self.directory / "kek"

    @property
    def etcd(self) -> Path:
        return self.directory / "etcd"

    @property
    def ca(self) -> Pair:
        """Of etcd's clients and servers. The key is a file only until it is sealed into etcd."""
        return Pair(self.etcd / "ca.crt", self.etcd / "ca.key")

    @property
    def crl(self) -> Path:
        """Which of etcd's clients are revoked: at first nobody."""
        return self.etcd / "clients.crl"

    @property
    def server(self) -> Pair:
        return self._pair("server")

    @property
    def root(self) -> Pair:
        return self._pair("root")

    @property
    def replica(self) -> Pair:
        return self._pair("replica")

    @property
    def tooling(self) -> Pair:
        return self._pair("tooling")

    @property
    def lock(self) -> Path:
        return self.directory / ".init.lock"

    def _pair(self, name: str) -> Pair:
        return Pair(self.etcd / f"{name}.crt", self.etcd / f"{name}.key")


def host_of(address: str) -> str:
    """The host of ``host:port``, an IPv6 one without its brackets."""
    return address.rpartition(":")[0].strip("[]")


def etcd_hosts(options: InitOptions) -> tuple[str, ...]:
    """The names that etcd's server certificate carries."""
    return options.etcd_hosts or tuple(dict.fromkeys(map(host_of, options.etcd)))


def replica_config(options: InitOptions, layout: Layout) -> str:
    """The YAML that `mesh-controlplane` reads. JSON's strings and lists are YAML's, and need no quoting rules."""
    quoted = json.dumps
    etcd = layout.etcd
    lines = [
        "# Written once by `meshadm init`; yours to edit. Every replica has the same, but for its addresses.",
        "etcd:",
        f"  endpoints: {quoted(list(options.etcd))}",
        f"  ca: {quoted(str(layout.ca.certificate))}",
        f"  cert: {quoted(str(etcd / 'replica.crt'))}",
        f"  key: {quoted(str(etcd / 'replica.key'))}",
        f"  prefix: {quoted(options.prefix)}",
    ]
    if options.allow_known_bad_etcd:
        lines.append("  allowKnownBad: true")
    lines += [
        f"kek: {quoted(str(layout.kek))}",
        "listen:",
        f"  api: {quoted(options.api)}",
        f"  join: {quoted(options.join)}",
        f"  socket: {quoted(str(options.socket))}",
    ]
    return "\n".join(lines) + "\n"


def how_to_start_etcd(options: InitOptions, layout: Layout) -> str:
    """The command line of the first member with these files; for the message that nothing answers."""
    address = options.etcd[0]
    try:
        ipaddress.ip_address(host_of(address))
        listen = address
    except ValueError:
        listen = f"0.0.0.0:{address.rpartition(':')[2]}"  # etcd listens on addresses, not on names
    words = [
        "etcd --data-dir /var/lib/etcd",
        f"--listen-client-urls https://{listen} --advertise-client-urls https://{address}",
        f"--cert-file {layout.server.certificate} --key-file {layout.server.key}",
        f"--client-cert-auth --trusted-ca-file {layout.ca.certificate}",
    ]
    return " ".join(words)
