"""Two services with a sidecar each, leaves of a minute, and load between them: what a rotation must not disturb.

client ─HTTP, TCP─▶ Envoy of web-1 ══mTLS══▶ Envoy of api-1 ─▶ app
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import trio_etcd
from controlplane.ca import template as templates
from controlplane.ca.keystore import open_authority, read_kek
from controlplane.ca.sign import serial_number, signed
from controlplane.ca.template import Validity
from deploy.demo.local_mesh import TRUST_DOMAIN, Instance, LocalMesh, wait_port
from deploy.demo.processes import Processes
from schemas import codec
from schemas.keys import Keyspace
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import Mesh
from schemas.records import SealedKey
from tests.e2e.app import GRPC, HTTP, HTTP2, TCP
from tests.support.net import eventually
from trio_grpc import TLS

KEYS = Keyspace()
LEAF_SECONDS = 60  # the shortest that the mesh allows: a key is waited for as long as its leaves may live
BOUND_TCP = 9203
PAUSE_S = 0.02

OBJECTS = f"""
apiVersion: mesh/v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec:
  ports: [{{name: http, port: {HTTP}, protocol: http}}]
  dependencies: [{{name: api}}, {{name: api, port: {TCP}, bindPort: {BOUND_TCP}}}]
---
apiVersion: mesh/v1
kind: Service
metadata: {{name: api, namespace: shop}}
spec:
  ports: [{{name: http, port: {HTTP}, protocol: http}}, {{name: tcp, port: {TCP}, protocol: tcp}}]
---
apiVersion: mesh/v1
kind: AuthorizationPolicy
metadata: {{name: web-may, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: api}}]
  action: ALLOW
  rules: [{{from: [{{identities: ["spiffe://{TRUST_DOMAIN}/ns/shop/svc/web"]}}]}}]
"""


@dataclass
class Load:
    """`failures`: the first words of what went wrong, with how often."""

    answered: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def record(self, kind: str, failure: str | None = None) -> None:
        if failure is None:
            self.answered[kind] += 1
        else:
            self.failures[f"{kind}: {failure[:160]}"] += 1


@dataclass
class IdentityMesh:
    local: LocalMesh
    web: Instance
    api: Instance

    @classmethod
    def in_directory(cls, directory: Path) -> IdentityMesh:
        local = LocalMesh(directory, Processes(directory / "log"))
        return cls(local, local.instance("web.shop", "web-1"), local.instance("api.shop", "api-1"))

    async def start(self) -> None:
        local = self.local
        await local.init("--files-only")
        await local.start_etcd()
        await local.init()
        await self._shorten_leaves()
        for replica in local.replicas:
            await local.start_replica(replica)
        objects = local.directory / "objects.yaml"
        objects.write_text(OBJECTS)
        await local.meshadm("apply", "-f", str(objects))
        await self._start_apps()
        for instance in (self.web, self.api):
            await local.start_sidecar(instance)
        async with httpx.AsyncClient(proxy=self.web.proxy, trust_env=False, timeout=10) as client:

            async def answers() -> bool:
                return (await client.get("http://api.shop/")).status_code == 200

            await eventually("web reaches api", answers)

    async def stop(self) -> None:
        await self.local.processes.stop_all()
        self.local.processes.kill_left_over()

    async def _start_apps(self) -> None:
        pairs = [f"{one.name}={one.local}" for one in (self.web, self.api)]
        await self.local.processes.start("apps", [sys.executable, "-m", "tests.e2e.app", *pairs])
        for one in (self.web, self.api):
            for port in (HTTP, HTTP2, GRPC, TCP):
                await wait_port(one.local, port, self.local.processes, "apps")

    @asynccontextmanager
    async def etcd(self) -> AsyncIterator[trio_etcd.Client]:
        files = self.local.etc / "etcd"
        tls = TLS(*((files / name).read_bytes() for name in ("ca.crt", "replica.crt", "replica.key")))
        async with trio_etcd.open_etcd(self.local.etcd_endpoint, tls=tls) as client:
            yield client

    async def _shorten_leaves(self) -> None:
        """Before the first leaf is made: as if the mesh had always been so."""
        mesh_key = KEYS.object(ObjectRef("Mesh", SYSTEM_NAMESPACE, "mesh"))
        async with self.etcd() as client:
            stored = await client.get(mesh_key)
            assert stored is not None
            mesh = codec.decode(stored.value, Mesh, "mesh")
            spec = msgspec.structs.replace(mesh.spec, svid_ttl_seconds=LEAF_SECONDS)
            await client.put(mesh_key, codec.encode(msgspec.structs.replace(mesh, spec=spec)))
            for kv in (await client.list(KEYS.ca())).kvs:
                key = codec.decode(kv.value, SealedKey, "key")
                await client.put(kv.key, codec.encode(msgspec.structs.replace(key, leaf_seconds=LEAF_SECONDS)))

    # -- what an attacker with the old issuing key could make

    async def forged(self, directory: Path, name: str) -> Peer:
        """As web.shop for a day, signed with what is the issuing key now."""
        async with self.etcd() as client:
            records = [codec.decode(kv.value, SealedKey, "key") for kv in (await client.list(KEYS.ca())).kvs]
        authority = await open_authority(records, read_kek(self.local.etc / "kek", os.environ))
        key = ec.generate_private_key(ec.SECP256R1())
        now = int(time.time())
        template = templates.workload_svid(TRUST_DOMAIN, ServiceRef("shop", "web"), Validity(now - 60, now + 86400))
        leaf = signed(template, key.public_key(), authority.issuing, serial_number(os.urandom(20)))
        chain, private = directory / f"{name}.crt", directory / f"{name}.key"
        chain.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, authority.issuing.certificate)))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Peer(self.api, chain, private)

    # -- load

    @asynccontextmanager
    async def load(self) -> AsyncIterator[Load]:
        """Kept-alive HTTP, and TCP connections that are each new: a handshake between the two Envoys for each."""
        result = Load()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(self._http, result)
                nursery.start_soon(self._tcp, result)
            yield result
            nursery.cancel_scope.cancel()

    async def _http(self, result: Load) -> None:
        async with httpx.AsyncClient(proxy=self.web.proxy, trust_env=False, timeout=10) as client:
            while True:
                try:
                    answer = await client.get("http://api.shop/")
                    result.record("http", None if answer.status_code == 200 else f"{answer.status_code} {answer.text}")
                except httpx.HTTPError as error:
                    result.record("http", f"{type(error).__name__}: {error}")
                await trio.sleep(PAUSE_S)

    async def _tcp(self, result: Load) -> None:
        while True:
            try:
                with trio.fail_after(10):
                    stream = await trio.open_tcp_stream(self.web.local, BOUND_TCP)
                    async with stream:
                        greeting = await stream.receive_some(100)
                result.record("tcp", None if greeting == b"hello from api-1\n" else f"{greeting!r}")
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                result.record("tcp", f"{type(error).__name__}: {error}")
            await trio.sleep(PAUSE_S)


@dataclass(frozen=True)
class Answer:
    status: str
    session: ssl.SSLSession | None
    resumed: bool


class Peer:
    """Asks the Envoy of an instance as its peers do, with certificate chain and key from files."""

    def __init__(self, instance: Instance, chain: Path, key: Path) -> None:
        self._instance = instance
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE  # whom it talks to is not what is tested
        self._context.load_cert_chain(chain, key)

    async def ask(self, session: ssl.SSLSession | None = None) -> Answer:
        """One HTTP request over a connection of its own. Raises OSError when refused."""
        return await trio.to_thread.run_sync(self._ask, session)

    def _ask(self, session: ssl.SSLSession | None) -> Answer:
        with socket.create_connection((self._instance.advertised, HTTP), timeout=5) as plain:
            with self._context.wrap_socket(plain, session=session) as stream:
                stream.sendall(b"GET / HTTP/1.1\r\nhost: api.shop\r\nconnection: close\r\n\r\n")
                answer = stream.recv(200)
                if not answer:
                    raise ConnectionResetError("closed without an answer")
                status = answer.split(b"\r\n")[0].decode()
                return Answer(status, stream.session, bool(stream.session_reused))
