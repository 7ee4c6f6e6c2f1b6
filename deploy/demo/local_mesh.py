"""A mesh on loopback addresses: every step is what an operator does on real hosts, with the same commands.

Each host is a pair of addresses, 127.B.i.1 (the app, and the sidecar's ports for it) and 127.B.i.2 (mTLS from others).
"""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from deploy.demo.processes import Processes, ProcessFailed
from deploy.etcd import find_etcd

TRUST_DOMAIN = "shop.example"
READY_S = 30.0  # seconds; on an idle machine everything is ready in two
POLL_S = 0.02

_FIRST_BLOCK, _LAST_BLOCK = 77, 120  # second octets that are tried; loopback has all of 127.0.0.0/8
_TCP_TABLE = Path("/proc/net/tcp")
_LISTEN = "0A"  # TCP_LISTEN, as that table writes it
_RESERVATION_PORT = 7440  # nobody serves on it; who holds it has the block


def reserve_block() -> tuple[int, socket.socket]:
    """A second octet B whose 127.B.0.0/16 is ours for as long as the socket is open; raises ProcessFailed."""
    taken = blocks_listened_at(_TCP_TABLE.read_text())
    for block in range(_FIRST_BLOCK, _LAST_BLOCK):
        # A run that was killed has let go of the block, and may have left a process that answers in it.
        if block not in taken:
            try:
                return block, socket.create_server((f"127.{block}.0.1", _RESERVATION_PORT))
            except OSError:
                continue
    raise ProcessFailed("no free loopback addresses: are other demos still running?")


def blocks_listened_at(table: str) -> set[int]:
    """The second octets of the addresses 127.* at which anybody listens, from Linux's ``/proc/net/tcp``."""
    rows = (line.split() for line in table.splitlines()[1:])
    words = (int(row[1].partition(":")[0], 16) for row in rows if row[3] == _LISTEN)
    addresses = (word.to_bytes(4, sys.byteorder) for word in words)
    return {address[1] for address in addresses if address[0] == 127}


async def wait_port(address: str, port: int, processes: Processes, name: str) -> None:
    """Until somebody listens there. Raises ProcessFailed when process `name` ends first, or in the end."""
    with trio.move_on_after(READY_S):
        while True:
            processes.check(name)
            try:
                await (await trio.open_tcp_stream(address, port)).aclose()
            except OSError:
                await trio.sleep(POLL_S)
            else:
                return
    raise ProcessFailed(
        f"{name} does not listen on {address}:{port} after {READY_S:.0f} s:\n{processes.log_tail(name)}"
    )


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a service and its sidecar."""

    service: str
    """As in ``orders.shop``."""
    name: str
    host: int
    block: int

    @property
    def local(self) -> str:
        return f"127.{self.block}.{self.host}.1"

    @property
    def advertised(self) -> str:
        return f"127.{self.block}.{self.host}.2"

    @property
    def proxy(self) -> str:
        return f"http://{self.local}:15001"


@dataclass
class LocalMesh:
    directory: Path
    processes: Processes
    replicas: tuple[str, ...] = ("a", "b")
    trust_domain: str = TRUST_DOMAIN
    serves_bundle: bool = False
    """Whether replicas have a bundle endpoint, of profile https_spiffe."""
    _hosts: int = 0
    _reserved: tuple[int, socket.socket] = field(default_factory=reserve_block)

    @property
    def block(self) -> int:
        return self._reserved[0]

    @property
    def control(self) -> str:
        return f"127.{self.block}.0.1"

    @property
    def etcd_endpoint(self) -> str:
        return f"{self.control}:2379"

    @property
    def etc(self) -> Path:
        return self.directory / "etc"

    def bundle_endpoint(self, replica: str) -> str:
        """host:port"""
        return f"{self.control}:{8443 + 10 * self.replicas.index(replica)}"

    def socket(self, replica: str) -> Path:
        return self.directory / f"run-{replica}" / "api.sock"

    def metrics(self, replica: str) -> str:
        """``host:port`` of a replica's metrics."""
        return f"{self.control}:{9465 + 10 * self.replicas.index(replica)}"

    # -- commands

    async def meshadm(self, *arguments: str, check: bool = True, replica: str | None = None) -> tuple[int, str]:
        """(exit code, what it printed). Raises ProcessFailed with its words when it fails and `check` is set."""
        endpoints = [f"unix:{self.socket(one)}" for one in ([replica] if replica else self.replicas)]
        done = await trio.run_process(
            [sys.executable, "-m", "controlplane.meshadm", *arguments],
            check=False,
            capture_stdout=True,
            capture_stderr=True,
            env={**os.environ, "MESHADM_ENDPOINT": " ".join(endpoints)},
        )
        said = (done.stdout + done.stderr).decode().strip()
        if check and done.returncode != 0:
            raise ProcessFailed(f"meshadm {' '.join(arguments)} ended with {done.returncode}:\n{said}")
        return done.returncode, done.stdout.decode() if done.returncode == 0 else said

    async def init(self, *more: str) -> None:
        await self.meshadm(
            "init", "--dir", str(self.etc), "--trust-domain", self.trust_domain, "--etcd", self.etcd_endpoint,
            "--etcd-host", self.control, "--api", f"{self.control}:7443", "--join", f"{self.control}:7444",
            "--socket", str(self.socket("a")), *more,
        )  # fmt: skip

    # -- etcd and replicas

    async def start_etcd(self) -> None:
        url, peer = f"https://{self.etcd_endpoint}", f"http://{self.control}:2380"
        certificates = self.etc / "etcd"
        await self.processes.start(
            "etcd",
            [
                str(find_etcd().path), "--name", "demo", "--data-dir", str(self.directory / "etcd-data"),
                "--listen-client-urls", url, "--advertise-client-urls", url,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"demo={peer}",
                "--cert-file", str(certificates / "server.crt"), "--key-file", str(certificates / "server.key"),
                "--trusted-ca-file", str(certificates / "ca.crt"), "--client-cert-auth",
                "--logger", "zap", "--log-level", "warn",
            ],
        )  # fmt: skip
        await wait_port(self.control, 2379, self.processes, "etcd")

    async def start_replica(self, replica: str) -> None:
        """The first uses the file that `init` wrote; each further one listens elsewhere."""
        offset = 10 * self.replicas.index(replica)
        settings = self.etc / f"controlplane-{replica}.yaml"
        certificates = self.etc / "etcd"
        everyone = range(len(self.replicas))
        content: dict[str, object] = {
            "etcd": {
                "endpoints": [self.etcd_endpoint],
                "ca": str(certificates / "ca.crt"),
                "cert": str(certificates / "replica.crt"),
                "key": str(certificates / "replica.key"),
            },
            "kek": str(self.etc / "kek"),
            "metrics": self.metrics(replica),
            "tokenKeys": {"refusedNetworks": []},  # all of the mesh is on loopback, and so may an issuer be
            "listen": {
                "api": f"{self.control}:{7443 + offset}",
                "join": f"{self.control}:{7444 + offset}",
                "socket": str(self.socket(replica)),
            },
            "advertise": {
                "api": [f"{self.control}:{7443 + 10 * i}" for i in everyone],
                "join": [f"{self.control}:{7444 + 10 * i}" for i in everyone],
            },
        }
        if self.serves_bundle:
            content["bundleEndpoint"] = {"listen": self.bundle_endpoint(replica), "profile": "https_spiffe"}
        settings.write_text(json.dumps(content))  # YAML holds JSON
        name = f"replica-{replica}"
        await self.processes.start(name, [sys.executable, "-m", "controlplane", "--config", str(settings)])
        await wait_port(self.control, 7443 + offset, self.processes, name)
        with trio.move_on_after(READY_S):  # the socket, where commands go, is the last door that it opens
            while not self.socket(replica).exists():
                self.processes.check(name)
                await trio.sleep(POLL_S)

    # -- services

    def instance(self, service: str, name: str) -> Instance:
        self._hosts += 1
        return Instance(service, name, self._hosts, self.block)

    def settings_file(self, instance: Instance) -> Path:
        return self.etc / f"{instance.name}.yaml"

    def runtime_dir(self, instance: Instance) -> Path:
        return self.directory / f"run-{instance.name}"

    def state_dir(self, instance: Instance) -> Path:
        return self.directory / f"state-{instance.name}"

    async def write_sidecar_settings(self, instance: Instance, **more: object) -> None:
        """A join file and the settings that name it."""
        join = self.etc / f"{instance.name}.join"
        if not join.exists():
            await self.meshadm("token", "create", "--service", instance.service, "--out", str(join))
        content = {
            "instance": instance.name,
            "advertise": instance.advertised,
            "appAddress": instance.local,
            "localAddress": instance.local,
            "join": str(join),
            "stateDir": str(self.state_dir(instance)),
            "runtimeDir": str(self.runtime_dir(instance)),
            "drainSeconds": 5,
            **more,
        }
        self.settings_file(instance).write_text(json.dumps(content))

    async def start_sidecar(self, instance: Instance, **more: object) -> None:
        """Joins with a token the first time, and returns when Envoy serves the configuration."""
        await self.write_sidecar_settings(instance, **more)
        await self.restart_sidecar(instance)

    async def restart_sidecar(self, instance: Instance) -> None:
        name = f"sidecar-{instance.name}"
        await self.processes.start(
            name, [sys.executable, "-m", "dataplane", "--config", str(self.settings_file(instance))]
        )
        await wait_port(instance.local, 15001, self.processes, name)

    async def sidecar_status(self, instance: Instance) -> dict[str, object]:
        """What the sidecar says of itself, from its own host."""
        done = await trio.run_process(
            [sys.executable, "-m", "dataplane", "status", "--config", str(self.settings_file(instance)), "-o", "json"],
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
        status: dict[str, object] = json.loads(done.stdout)
        return status

    async def start_app(
        self, instance: Instance, module: str, port: int, *arguments: str, env: Mapping[str, str] | None = None
    ) -> None:
        """An app that knows of its sidecar only by the proxy variable."""
        command: Sequence[str] = [
            sys.executable, "-m", f"deploy.demo.apps.{module}",
            "--host", instance.local, "--port", str(port), *arguments,
        ]  # fmt: skip
        proxied = {"http_proxy": instance.proxy, "no_proxy": instance.local, "INSTANCE": instance.name, **(env or {})}
        await self.processes.start(instance.name, command, proxied)
        await wait_port(instance.local, port, self.processes, instance.name)
