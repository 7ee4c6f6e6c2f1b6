"""The example configuration of etcd, run by a real one: who gets in as a client, and who as a peer."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import yaml

from deploy.etcd import EtcdBinary
from tests.support.net import eventually, free_ports
from tests.support.pki import Authority, TlsPaths

_EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "etcd" / "etcd.conf.yaml"


class Running:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client_port, self.peer_port, self.metrics_port = free_ports(3)
        authority = Authority.create("CA of etcd's clients")
        self.member = authority.issue(ip=["127.0.0.1"]).write(directory, "server")
        self.sidecar = authority.issue("mesh-sidecar", server=False).write(directory, "sidecar")

    def configuration(self) -> str:
        """The example with this machine's addresses and paths; everything else as it stands."""
        text = _EXAMPLE.read_text()
        for old, new in {
            "https://10.0.0.1:2379,https://127.0.0.1:2379": f"https://127.0.0.1:{self.client_port}",
            "10.0.0.1:2379": f"127.0.0.1:{self.client_port}",
            "10.0.0.1:2380": f"127.0.0.1:{self.peer_port}",
            "127.0.0.1:2381": f"127.0.0.1:{self.metrics_port}",
            "/var/lib/mesh-etcd": str(self.directory / "data"),
            "/etc/mesh/etcd/server.crt": str(self.member.cert),
            "/run/credentials/mesh-etcd.service/server.key": str(self.member.key),
            "/etc/mesh/etcd/ca.crt": str(self.member.ca),
            "/etc/mesh/etcd/peers.crt": str(self.member.cert),
        }.items():
            assert old in text
            text = text.replace(old, new)
        assert "/etc/mesh" not in text.split("\n", 3)[3]
        return text

    def start(self, binary: EtcdBinary) -> subprocess.Popen[bytes]:
        configuration = self.directory / "etcd.conf.yaml"
        configuration.write_text(self.configuration())
        env = {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
        with open(self.directory / "log", "wb") as log:
            return subprocess.Popen([binary.path, "--config-file", configuration], stdout=log, stderr=log, env=env)

    async def healthy(self) -> bool:
        try:
            return b'"health":"true"' in await _get("127.0.0.1", self.metrics_port, "/health", None)
        except OSError:
            return False

    async def ask(self, port: int, client: TlsPaths | None, path: str) -> bytes:
        context = ssl.create_default_context(cafile=self.member.ca)
        if client is not None:
            context.load_cert_chain(client.cert, client.key)
        return await _get("127.0.0.1", port, path, context)


async def _get(host: str, port: int, path: str, context: ssl.SSLContext | None) -> bytes:
    """The whole answer. Raises trio.BrokenResourceError when the server does not accept the client."""
    with trio.fail_after(10):
        stream: trio.abc.Stream
        if context is None:
            stream = await trio.open_tcp_stream(host, port)
        else:
            stream = await trio.open_ssl_over_tcp_stream(host, port, ssl_context=context, https_compatible=True)
        async with stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return b"".join([chunk async for chunk in stream])


@pytest.fixture
async def running(etcd_binary: EtcdBinary, tmp_path: Path) -> AsyncIterator[Running]:
    etcd = Running(tmp_path)
    process = etcd.start(etcd_binary)
    try:
        await eventually("etcd is healthy", etcd.healthy)
        yield etcd
    finally:
        process.kill()
        process.wait()


async def test_a_client_needs_a_certificate(running: Running) -> None:
    assert b"200 OK" in await running.ask(running.client_port, running.sidecar, "/version")
    with pytest.raises(trio.BrokenResourceError):
        await running.ask(running.client_port, None, "/version")


async def test_only_a_member_is_a_peer_although_one_authority_signed_all(running: Running) -> None:
    assert b"200 OK" in await running.ask(running.peer_port, running.member, "/members")
    with pytest.raises(trio.BrokenResourceError):
        await running.ask(running.peer_port, running.sidecar, "/members")


def test_every_listener_but_the_local_metrics_speaks_tls() -> None:
    example = yaml.safe_load(_EXAMPLE.read_text())
    for key in ("listen-client-urls", "advertise-client-urls", "listen-peer-urls", "initial-advertise-peer-urls"):
        assert all(url.startswith("https://") for url in example[key].split(",")), key
    assert example["listen-metrics-urls"].startswith("http://127.0.0.1:")
    for part in ("client-transport-security", "peer-transport-security"):
        assert example[part]["client-cert-auth"] is True
        assert example[part]["trusted-ca-file"]
