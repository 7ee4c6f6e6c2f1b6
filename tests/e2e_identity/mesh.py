"""A mesh whose SVIDs live for seconds, so that what happens at their renewal and at their end can be watched."""

from __future__ import annotations

import os
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client.parser import text_string_to_metric_families

from controlplane.ca import template as templates
from controlplane.ca.keystore import open_authority, read_kek
from controlplane.ca.sign import serial_number, signed
from controlplane.ca.template import Validity
from deploy.demo.local_mesh import TRUST_DOMAIN, Instance
from schemas import codec
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import Mesh
from schemas.records import SealedKey
from tests.e2e.app import HTTP
from tests.e2e.mesh import KEYS, E2eMesh
from tests.support.metrics import check_documented

METRICS = 9464
LEAF_SECONDS = 15  # the shortest that the mesh allows: keys and alarms wait as long as leaves live


class IdentityMesh(E2eMesh):
    """The mesh of `tests.e2e`, in which identities end after seconds."""

    async def start_sidecar(self, name: str) -> None:
        instance = self.instances[name]
        await self.local.start_sidecar(instance, metrics=f"{instance.local}:{METRICS}")

    async def metrics(self, name: str) -> dict[str, float]:
        """What Prometheus reads of a sidecar or a replica: ``name{label}`` to value."""
        is_replica = name in self.local.replicas
        address = self.local.metrics(name) if is_replica else f"{self.instances[name].local}:{METRICS}"
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://{address}/metrics")).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        check_documented(samples)
        return {
            sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
            for sample in samples
        }

    async def before_replicas(self) -> None:
        await self._shorten_leaves()

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
        return Peer(self.instances["api-1"], chain, private)


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
