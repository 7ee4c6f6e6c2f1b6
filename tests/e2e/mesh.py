"""The mesh that the tests run in: what it holds at rest, and what tests do to it and ask of it.

    web.shop (web-1) ──▶ api.shop (api-1, api-2): HTTP/1.1, HTTP/2, gRPC, TCP       reports.back-office (reports-1)

At rest web may call api, and nobody else may call anybody.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import trio

import trio_etcd
from controlplane.meshadm.changes import delete_of, put_of
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.connection import connection
from dataplane.envoy.admin import Admin
from deploy.demo.local_mesh import TRUST_DOMAIN, Instance, LocalMesh
from deploy.demo.processes import Processes
from schemas import joinfile
from schemas.api import mesh_pb2 as pb
from schemas.codec import Document
from schemas.keys import Keyspace
from schemas.names import SYSTEM_NAMESPACE, ObjectRef
from schemas.objects import AnyObject, Mesh, Metadata
from schemas.objects.mesh import MeshSpec, VirtualRanges
from schemas.records import SidecarStatus
from tests.e2e.app import GRPC, HTTP, HTTP2, TCP
from tests.states.build import need, policy, port, rule, service
from tests.support.net import eventually
from trio_grpc import TLS

KEYS = Keyspace()
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # apps speak plain HTTP; a client makes one of its own in 30 ms
UPSTREAM_DNS = 15353  # on the control plane's host, where a test may listen
BOUND_HTTP2, BOUND_GRPC, BOUND_TCP = 9201, 9202, 9203  # at web, each leading to that port of api
TEST = shutil.which("test") or "test"  # of the system, as a program
APPLY_SECONDS = 30.0  # convergence takes milliseconds; a bound for a busy machine

WEB_ID = f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/web"
API_ID = f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/api"
REPORTS_ID = f"spiffe://{TRUST_DOMAIN}/ns/back-office/svc/reports"


def caller(*identities: str) -> Any:
    from schemas.objects.authorization import Source

    return Source(identities=identities)


WEB = service(
    "web",
    port("http", HTTP),
    needs=[
        need("api", port=HTTP2, bind=BOUND_HTTP2),
        need("api", port=GRPC, bind=BOUND_GRPC),
        need("api", port=TCP, bind=BOUND_TCP),
    ],
)
API = service(
    "api", port("http", HTTP), port("http2", HTTP2, "http2"), port("grpc", GRPC, "grpc"), port("tcp", TCP, "tcp")
)
REPORTS = service("reports.back-office", port("http", HTTP), needs=[need("*")])
WEB_MAY = policy("web-may", "ALLOW", rule(caller(WEB_ID)), on=["api"])
AT_REST: tuple[AnyObject, ...] = (WEB, API, REPORTS, WEB_MAY)


@dataclass
class E2eMesh:
    local: LocalMesh
    instances: dict[str, Instance] = field(default_factory=dict)
    """By name."""
    at_rest: tuple[AnyObject, ...] = AT_REST
    has_names: bool = False
    """Whether the app of web-1 finds services by name; their addresses are in the loopback block of this mesh."""

    @classmethod
    def in_directory(cls, directory: Path) -> Self:
        return cls(LocalMesh(directory, Processes(directory / "log")))

    # -- life

    async def start_control_plane(self) -> None:
        """etcd and the replicas, and the objects as they are at rest."""
        await self.local.init("--files-only")
        await self.local.start_etcd()
        await self.local.init()
        await self.before_replicas()
        async with trio.open_nursery() as nursery:
            for replica in self.local.replicas:
                nursery.start_soon(self.local.start_replica, replica)
        await self.apply(*([self.ranges] if self.has_names else []), *self.at_rest, wait=False)

    async def before_replicas(self) -> None:
        """What is to be in etcd before the first replica reads it."""

    async def start(self, *names: str) -> None:
        """Control plane, and an instance with sidecar and app for each name, such as ``web-1``."""
        await self.start_control_plane()
        await self.start_instances(*names)

    async def start_instances(self, *names: str) -> None:
        for name in names:
            self.add(name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.start_apps, *names)
            for name in names:
                nursery.start_soon(self.start_sidecar, name)
        await self.everyone_current()

    async def start_sidecar(self, name: str) -> None:
        """For the first time, with a join token."""
        await self.local.start_sidecar(self.instances[name], **self._settings(name))

    def workload_api(self, name: str) -> Path:
        """The socket at which web-1 serves it to the user who runs the tests."""
        return self.local.runtime_dir(self.instances[name]) / "w.sock"

    def _settings(self, name: str) -> dict[str, object]:
        labels: dict[str, object] = {"labels": {"instance": name}}  # so that a route can name one of them
        if name == "reports-1":
            check = {"type": "Command", "command": [TEST, "!", "-e", str(self.reports_are_ill)]}
            return {"healthCheck": {**check, "interval": "2s", "timeout": "10s", "unhealthyThreshold": 1}, **labels}
        if name != "web-1":
            return labels
        names = {"names": {"upstream": [f"{self.local.control}:{UPSTREAM_DNS}"]}} if self.has_names else {}
        return {
            "workloadApi": {"socket": str(self.workload_api(name)), "callers": [{"uid": os.getuid()}]},
            "gateway": {"address": self.instances[name].local},
            "certificateDir": str(self.certificates),
            **labels,
            **names,
        }

    @property
    def certificates(self) -> Path:
        """Where web-1 looks for the files that objects name."""
        return self.local.directory / "certificates"

    @property
    def reports_are_ill(self) -> Path:
        """While there is such a file the command that reports-1 is checked by fails."""
        return self.local.directory / "reports-are-ill"

    @property
    def ranges(self) -> Mesh:
        """The hosts of this mesh have the other half of its block."""
        virtual = VirtualRanges(ipv4=f"127.{self.local.block}.128.0/17")
        return Mesh(
            api_version="mesh/v1",
            metadata=Metadata(name="mesh", namespace=SYSTEM_NAMESPACE),
            spec=MeshSpec(trust_domain=TRUST_DOMAIN, virtual_addresses=virtual),
        )

    def add(self, name: str, service_name: str | None = None) -> Instance:
        namespace = "back-office" if name.startswith("reports") else "shop"
        service_name = service_name or f"{name.rpartition('-')[0]}.{namespace}"
        self.instances[name] = self.local.instance(service_name, name)
        return self.instances[name]

    async def start_apps(self, *names: str) -> None:
        """One process for all of them."""
        import sys

        from deploy.demo.local_mesh import wait_port

        pairs = [f"{name}={self.instances[name].local}" for name in names]
        process = f"apps-{names[0]}"
        await self.processes.start(process, [sys.executable, "-m", "tests.e2e.app", *pairs])
        for name in names:
            for number in (HTTP, HTTP2, GRPC, TCP):
                await wait_port(self.instances[name].local, number, self.processes, process)

    async def stop(self) -> None:
        """Everything, and what a killed agent has left; raises AssertionError for anything else that was left."""
        await self.processes.stop_all()
        for name in self.instances:
            self.kill_envoy(name)
        left = self.processes.left_over()
        self.processes.kill_left_over()
        assert not left

    @property
    def processes(self) -> Processes:
        return self.local.processes

    # -- processes

    def agent_pid(self, name: str) -> int:
        return self.processes.pid(f"sidecar-{name}")

    def envoy_pid(self, name: str) -> int | None:
        """Of the living Envoy of that instance, from its pid file."""
        runtime = self.local.runtime_dir(self.instances[name])
        try:
            pid = int(json.loads((runtime / "envoy.pid").read_bytes())["pid"])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, KeyError):
            return None
        return pid if str(runtime).encode() in command else None

    def kill_envoy(self, name: str) -> None:
        pid = self.envoy_pid(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextmanager
    def paused(self, pid: int) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def admin(self, name: str) -> Admin:
        return Admin(str(self.local.runtime_dir(self.instances[name]) / "admin.sock"))

    def log(self, process: str) -> str:
        return self.processes.log(process).read_text(errors="replace")

    def assert_no_secret_in_logs(self, *more: str) -> None:
        """None of the secrets that there are on disk, nor of `more`, is in any log of this mesh."""
        secrets = {secret: "a given secret" for one in more for secret in (one, one.rpartition(".")[2])}
        kek = (self.local.etc / "kek").read_bytes()
        secrets |= {kek.hex(): "kek", base64.b64encode(kek).decode(): "kek"}
        for path in self.local.etc.glob("*.join"):
            token = joinfile.load(path.read_bytes(), str(path)).token
            secrets |= {token: path.name, token.rpartition(".")[2]: path.name}
        for path in [*(self.local.etc / "etcd").glob("*.key"), *self.local.directory.glob("state-*/identity/*.json")]:
            lines = path.read_text().replace("\\n", "\n").splitlines()
            secrets |= {line: str(path) for line in _key_lines(lines)}
        secrets["PRIVATE KEY"] = "any key"
        for log in self.processes.log("x").parent.glob("*.log"):
            text = log.read_text(errors="replace")
            found = {source for secret, source in secrets.items() if secret in text}
            assert not found, f"{log.name} holds a secret: {found}"

    # -- the API, as meshadm on a replica's own host

    @asynccontextmanager
    async def client(self, *replicas: str) -> AsyncIterator[MeshClient]:
        sockets = tuple(f"unix:{self.local.socket(one)}" for one in replicas or self.local.replicas)
        with MeshClient(connection(sockets, None, time.time()), APPLY_SECONDS, lambda _: None) as client:
            yield client

    async def apply(
        self, *objects: AnyObject, without: Iterable[ObjectRef] = (), wait: bool = True, force: bool = False
    ) -> int:
        """without: what is deleted in the same transaction."""
        changes = [put_of(Document("test", one)) for one in objects]
        return await self._change([*changes, *(delete_of(one, "test") for one in without)], wait, force=force)

    async def delete(self, *refs: ObjectRef, wait: bool = True) -> int:
        return await self._change([delete_of(one, "test") for one in refs], wait)

    async def _change(self, changes: list[pb.Change], wait: bool, *, force: bool = False) -> int:
        async with self.client() as client:
            reply = await client.apply(
                pb.ApplyRequest(request_id=new_request_id(), changes=changes, force=force), APPLY_SECONDS
            )
            revision = reply.revision or (await client.sidecars()).config_revision
            if wait:
                with trio.fail_after(APPLY_SECONDS):
                    last = await client.wait(revision, lambda _: None)
                assert last.done, last
                assert not last.refusals, last
        return revision

    @asynccontextmanager
    async def applied(self, *objects: AnyObject) -> AsyncIterator[int]:
        """In force inside of the body; afterwards it is as at rest."""
        try:
            yield await self.apply(*objects)
        finally:
            with trio.CancelScope(shield=True):
                await self.restore(one.ref for one in objects)

    async def restore(self, refs: Iterable[ObjectRef]) -> None:
        at_rest = {one.ref: one for one in self.at_rest}
        changes = [put_of(Document("test", at_rest[ref])) if ref in at_rest else delete_of(ref, "test") for ref in refs]
        await self._change(changes, wait=True, force=True)  # after a test that failed halfway, too

    async def statuses(self) -> dict[str, SidecarStatus]:
        """What each live sidecar last said, by instance."""
        async with self.client() as client:
            return {one.instance: one for one in (await client.sidecars()).statuses}

    async def everyone_current(self) -> None:
        """All instances are registered, and have acked the newest configuration."""

        async def current() -> bool:
            async with self.client() as client:
                sidecars = await client.sidecars()
            acked = {one.instance: one.acked_revision for one in sidecars.statuses}
            return all(acked.get(name, -1) >= sidecars.config_revision for name in self.instances)

        await eventually("every sidecar runs the newest configuration", current, APPLY_SECONDS)

    # -- etcd, by hand

    @asynccontextmanager
    async def etcd(self, user: str = "replica") -> AsyncIterator[trio_etcd.Client]:
        """As `root`, `replica` or `tooling`."""
        files = self.local.etc / "etcd"
        tls = TLS(*((files / name).read_bytes() for name in ("ca.crt", f"{user}.crt", f"{user}.key")))
        async with trio_etcd.open_etcd(self.local.etcd_endpoint, tls=tls) as client:
            yield client

    @asynccontextmanager
    async def put_by_hand(self, key: bytes, value: bytes) -> AsyncIterator[int]:
        """A value that no replica has seen, inside of the body; afterwards what was there before."""
        async with self.etcd() as client:
            before = await client.get(key)
            revision = (await client.put(key, value)).revision
            try:
                yield revision
            finally:
                with trio.CancelScope(shield=True):
                    if before is None:
                        await client.delete(key)
                    else:
                        await client.put(key, before.value, lease=before.lease)
        await self.everyone_current()

    # -- requests, as an app makes them: through the sidecar of its own host

    @asynccontextmanager
    async def http(self, name: str = "web-1") -> AsyncIterator[httpx.AsyncClient]:
        """HTTP/1.1 through the proxy port; connections are kept alive."""
        proxy = self.instances[name].proxy
        async with httpx.AsyncClient(proxy=proxy, trust_env=False, timeout=10, verify=NO_TLS) as client:
            yield client

    @asynccontextmanager
    async def http2(self, name: str = "web-1") -> AsyncIterator[httpx.AsyncClient]:
        """HTTP/2 without TLS to the bound port; one connection."""
        base = f"http://{self.instances[name].local}:{BOUND_HTTP2}"
        async with httpx.AsyncClient(
            base_url=base, http1=False, http2=True, trust_env=False, timeout=10, verify=NO_TLS
        ) as client:
            yield client

    async def get(
        self, path: str = "/", *, by: str = "web-1", host: str = "api.shop", method: str = "GET"
    ) -> httpx.Response:
        async with self.http(by) as client:
            return await client.request(method, f"http://{host}{path}")

    async def status(self, path: str = "/", *, by: str = "web-1", host: str = "api.shop", method: str = "GET") -> int:
        return (await self.get(path, by=by, host=host, method=method)).status_code

    @contextmanager
    def grpc(self, name: str = "web-1") -> Iterator[grpc.Channel]:
        target = f"{self.instances[name].local}:{BOUND_GRPC}"
        with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            yield channel

    async def tcp(self, name: str = "web-1") -> trio.SocketStream:
        """By the bound port."""
        return await trio.open_tcp_stream(self.instances[name].local, BOUND_TCP)

    async def ask_app(self, name: str, path: str) -> str:
        """Straight to an app on its own address: not a part of the mesh. What it says."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            return (await client.get(f"http://{self.instances[name].local}:{HTTP}{path}")).text


def _key_lines(lines: Iterable[str]) -> Iterator[str]:
    """The base64 inside of each PEM private key."""
    inside = False
    for line in lines:
        if "PRIVATE KEY-----" in line:
            inside = "BEGIN" in line
        elif inside:
            yield line
