"""An etcd that runs with the files of an init: TLS, client certificates; authentication comes with init."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import trio_etcd
from controlplane.bootstrap.layout import Layout, Pair
from controlplane.bootstrap.options import InitOptions, InitResult, Step
from controlplane.bootstrap.run import init
from deploy.etcd import EtcdBinary
from tests.support.etcd_server import EtcdServer
from tests.support.pki import TlsPaths

TRUST_DOMAIN = "mesh.example"


@dataclass
class Site:
    """A directory, the etcd that uses its files (not started), and what the runs on them have said."""

    options: InitOptions
    server: EtcdServer
    layout: Layout
    steps: list[Step] = field(default_factory=list)

    async def init(self, **changed: Any) -> InitResult:
        self.steps = []
        return await init(replace(self.options, **changed), self.steps.append)

    async def start(self) -> None:
        """The files, then etcd with them."""
        await self.init(files_only=True)
        await self.server.start()

    @asynccontextmanager
    async def client(self, pair: Pair) -> AsyncIterator[trio_etcd.Client]:
        async with self.client_with(pair.certificate.read_bytes(), pair.key.read_bytes()) as client:
            yield client

    @asynccontextmanager
    async def client_with(self, cert: bytes, key: bytes) -> AsyncIterator[trio_etcd.Client]:
        tls = trio_etcd.TLS(ca=self.layout.ca.certificate.read_bytes(), cert=cert, key=key)
        async with trio_etcd.open_etcd(self.server.endpoint, tls=tls) as client:
            yield client

    def outcome(self, subject: str) -> str:
        return next(step.outcome for step in self.steps if subject in step.subject)


@pytest.fixture
def site(etcd_binary: EtcdBinary, tmp_path: Path) -> Iterator[Site]:
    layout = Layout(tmp_path / "mesh")
    paths = TlsPaths(layout.server.certificate, layout.server.key, layout.ca.certificate)
    server = EtcdServer(etcd_binary, tls=paths)
    options = InitOptions(layout.directory, TRUST_DOMAIN, etcd=(server.endpoint,))
    yield Site(options, server, layout)
    server.close()
