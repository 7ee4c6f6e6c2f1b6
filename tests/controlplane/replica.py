"""A real mesh to test a replica in: etcd with TLS and auth, made by the code of `meshadm init`; replicas in-process."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import Message

import trio_etcd
from controlplane import config, server
from controlplane.bootstrap.run import InitOptions, init
from controlplane.config import ReplicaConfig
from controlplane.server import Serving
from deploy.etcd import EtcdBinary
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.keys import Keyspace
from schemas.names import CONTROL_PLANE_SERVER_NAME
from schemas.records import Endpoint, SidecarStatus, TrustBundle
from tests.support.etcd_server import EtcdServer
from tests.support.pki import TlsPaths
from trio_grpc import TLS, Channel

TRUST_DOMAIN = "shop.example"
SECONDS = 10.0  # of any call in a test

Reply = TypeVar("Reply", bound=Message)
Next = Callable[[], Awaitable[Reply]]


@dataclass
class Mesh:
    """An initialised mesh in a running etcd; `close` ends it."""

    etcd: EtcdServer
    directory: Path
    keyspace: Keyspace

    @classmethod
    async def make(cls, binary: EtcdBinary, directory: Path, *, initialise: bool = True) -> Mesh:
        files = directory / "etcd"
        etcd = EtcdServer(binary, tls=TlsPaths(files / "server.crt", files / "server.key", files / "ca.crt"))
        mesh = cls(etcd, directory, Keyspace())
        await init(mesh._options(files_only=True), lambda _: None)
        await etcd.start()
        if initialise:
            await mesh.initialise()
        return mesh

    async def initialise(self) -> None:
        await init(self._options(files_only=False), lambda _: None)

    def _options(self, *, files_only: bool) -> InitOptions:
        return InitOptions(
            self.directory, TRUST_DOMAIN, etcd=(self.etcd.endpoint,), files_only=files_only, allow_known_bad_etcd=True
        )

    def close(self) -> None:
        self.etcd.close()

    def config(self, directory: Path) -> ReplicaConfig:
        """Of a replica with ports from the kernel and its socket in `directory`."""
        read = config.load(self.directory / "controlplane.yaml")
        listen = msgspec.structs.replace(
            read.listen, api="127.0.0.1:0", join="127.0.0.1:0", socket=str(directory / "run" / "api.sock")
        )
        return msgspec.structs.replace(read, listen=listen)

    @asynccontextmanager
    async def client(self, user: str = "replica") -> AsyncIterator[trio_etcd.Client]:
        """Straight to etcd, as `root`, `replica` or `tooling`."""
        async with trio_etcd.open_etcd(self.etcd.endpoint, tls=self.tls(user)) as client:
            yield client

    def tls(self, user: str) -> TLS:
        files = self.directory / "etcd"
        return TLS(*(files.joinpath(name).read_bytes() for name in ("ca.crt", f"{user}.crt", f"{user}.key")))


@dataclass
class Replica:
    """One that serves, and how to call it."""

    serving: Serving
    config: ReplicaConfig
    stop: trio.Event

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Caller]:
        with Channel(f"unix:{self.config.listen.socket}") as channel:
            yield Caller(channel)

    @asynccontextmanager
    async def stranger(self, bundle: bytes) -> AsyncIterator[Caller]:
        """Through the join door; `bundle`: a TrustBundle record."""
        tls = TLS(ca=bundle_pem(bundle))
        target = f"127.0.0.1:{self.serving.join_port}"
        with Channel(target, tls=tls, server_name=CONTROL_PLANE_SERVER_NAME) as channel:
            yield Caller(channel)

    @asynccontextmanager
    async def with_certificate(self, ca: bytes, cert: bytes, key: bytes) -> AsyncIterator[Caller]:
        """Through the mTLS door; all PEM."""
        target = f"127.0.0.1:{self.serving.api_port}"
        with Channel(target, tls=TLS(ca, cert, key), server_name=CONTROL_PLANE_SERVER_NAME) as channel:
            yield Caller(channel)

    async def token(self, service: str, namespace: str, ttl: int = 3600) -> pb.CreateTokenReply:
        async with self.admin() as admin:
            return await admin.call(
                "Tokens/Create",
                pb.CreateTokenRequest(request_id=new_id(), namespace=namespace, service=service, ttl_seconds=ttl),
                pb.CreateTokenReply,
            )

    async def join(self, service: str, namespace: str) -> Joined:
        token = await self.token(service, namespace)
        key, csr = new_csr()
        _, etcd_csr = new_csr()
        async with self.stranger(token.trust_bundle) as stranger:
            request = pb.JoinRequest(token=token.token, csr=csr, etcd_csr=etcd_csr)
            reply = await stranger.call("Identity/Join", request, pb.IdentityReply)
        return Joined(self, service, namespace, reply, key)


@dataclass
class Joined:
    """A sidecar's identity, and calls with it."""

    replica: Replica
    service: str
    namespace: str
    reply: pb.IdentityReply
    key: ec.EllipticCurvePrivateKey

    @property
    def chain_pem(self) -> bytes:
        return b"".join(der_to_pem(der) for der in self.reply.chain)

    @asynccontextmanager
    async def calls(self, replica: Replica | None = None) -> AsyncIterator[Caller]:
        ca = bundle_pem(self.reply.trust_bundle)
        async with (replica or self.replica).with_certificate(ca, self.chain_pem, key_pem(self.key)) as caller:
            yield caller

    def status(self, instance: str, **more: object) -> SidecarStatus:
        fields: dict[str, object] = {"applied_revision": 0, "acked_revision": 0, "svid_expires": 0, **more}
        return SidecarStatus(service=self.service, namespace=self.namespace, instance=instance, **fields)  # type: ignore[arg-type]  # fields by name

    async def register(
        self, caller: Caller, instance: str, *, address: str | None = "10.0.0.1", lease: int = 0, ttl: int = 60
    ) -> pb.RegisterReply:
        endpoint = Endpoint(address=address, ports={"http": 8080}) if address else None
        request = pb.RegisterRequest(
            instance=instance,
            endpoint=codec.encode(endpoint) if endpoint else b"",
            status=codec.encode(self.status(instance)),
            ttl_seconds=ttl,
            lease_id=lease,
        )
        return await caller.call("Sidecars/Register", request, pb.RegisterReply)

    async def report(self, caller: Caller, instance: str, lease: int, **status: object) -> None:
        value = codec.encode(self.status(instance, **status))
        request = pb.ReportRequest(instance=instance, lease_id=lease, status=value)
        await caller.call("Sidecars/Report", request, pb.ReportReply)


@dataclass
class Caller:
    channel: Channel

    async def call(self, rpc: str, request: Message, reply: type[Reply], *, seconds: float = SECONDS) -> Reply:
        payload = request.SerializeToString()
        return reply.FromString(await self.channel.unary(f"/mesh.v1.{rpc}", payload, timeout=seconds))

    @asynccontextmanager
    async def stream(self, rpc: str, request: Message, reply: type[Reply]) -> AsyncIterator[Next[Reply]]:
        """`await next()`: the next message; raises trio.EndOfChannel at the end."""
        held: list[Reply] = []
        with self.channel.server_stream(f"/mesh.v1.{rpc}", request.SerializeToString()) as stream:

            async def following() -> Reply:
                with trio.fail_after(SECONDS):
                    while not held:
                        held.extend(reply.FromString(one) for one in await stream.receive())
                return held.pop(0)

            yield following

    async def apply(self, *changes: pb.Change, request_id: str = "", dry_run: bool = False) -> pb.ApplyReply:
        request = pb.ApplyRequest(request_id=request_id or new_id(), changes=changes, dry_run=dry_run)
        return await self.call("Config/Apply", request, pb.ApplyReply)


@asynccontextmanager
async def running_replica(
    mesh: Mesh,
    directory: Path,
    environ: dict[str, str] | None = None,
    now: Callable[[], float] = time.time,
    **more: object,
) -> AsyncIterator[Replica]:
    """more: other fields of its configuration."""
    settings = msgspec.structs.replace(mesh.config(directory), **more)
    settings = msgspec.structs.replace(settings, etcd=msgspec.structs.replace(settings.etcd, allow_known_bad=True))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[Serving]) -> None:
            await server.run(settings, environ or {}, now=now, stop=stop, task_status=task_status)

        with trio.fail_after(20):
            serving: Serving = await nursery.start(serve)
        yield Replica(serving, settings, stop)
        stop.set()


def new_id() -> str:
    return secrets.token_hex(8)


def new_csr() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return key, request.public_bytes(serialization.Encoding.DER)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def der_to_pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def bundle_pem(bundle: bytes) -> bytes:
    return b"".join(map(der_to_pem, codec.decode(bundle, TrustBundle, "bundle").x509_authorities))
