"""Two ways from a client to one app: through two sidecars of a real mesh, and through two Envoys configured by hand.

sidecars   proxy port ─▶ Envoy ── HTTP/2 over mTLS ─▶ Envoy ─┐      with agents, replica, etcd, ADS and SDS
by hand    proxy port ─▶ Envoy ── HTTP/2 over mTLS ─▶ Envoy ─┴─▶ app      static_pair/*.yaml, files
"""

import json
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from deploy.demo.local_mesh import TRUST_DOMAIN, Instance, LocalMesh
from deploy.demo.processes import Processes
from tests.support.envoy import envoy_path
from tests.support.net import eventually, free_ports
from tests.support.pki import Authority

TEMPLATES = Path(__file__).parent / "static_pair"
APP_PORT = 8080
CALLER, RECEIVER = "caller.bench", "receiver.bench"
HOST = f"{RECEIVER}:{APP_PORT}"
BYTES_PORT = 8081  # leads to the same app, past HTTP at the receiver

CALLER_ID = f"spiffe://{TRUST_DOMAIN}/ns/bench/svc/caller"
RECEIVER_ID = f"spiffe://{TRUST_DOMAIN}/ns/bench/svc/receiver"

OBJECTS = [
    {
        "apiVersion": "mesh/v1",
        "kind": "Service",
        "metadata": {"name": "caller", "namespace": "bench"},
        "spec": {
            "ports": [{"name": "http", "port": APP_PORT, "protocol": "http"}],
            "dependencies": [{"name": "receiver"}],
        },
    },
    {
        "apiVersion": "mesh/v1",
        "kind": "Service",
        "metadata": {"name": "receiver", "namespace": "bench"},
        "spec": {
            "ports": [
                {"name": "http", "port": APP_PORT, "protocol": "http"},
                {
                    "name": "bytes",
                    "port": BYTES_PORT,
                    "targetPort": APP_PORT,
                    "protocol": "http",
                    "identityHeader": False,
                },
            ],
            "dependencies": [],
        },
    },
    {
        "apiVersion": "mesh/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "caller", "namespace": "bench"},
        "spec": {"targetRefs": [{"name": "receiver"}], "rules": [{"from": [{"identities": [CALLER_ID]}]}]},
    },
]


@dataclass(frozen=True, slots=True)
class StaticPair:
    directory: Path
    proxy_port: int
    processes: Processes

    async def start(self, half: str) -> None:
        """``caller`` or ``receiver``, with the flags that a sidecar gives its Envoy."""
        await start_envoy(self.processes, f"static-{half}", self.directory / f"{half}.yaml")


@dataclass(frozen=True, slots=True)
class Stage:
    mesh: LocalMesh
    caller: Instance
    receiver: Instance
    static: StaticPair

    @property
    def processes(self) -> Processes:
        return self.mesh.processes

    @property
    def app_url(self) -> str:
        return f"http://{self.receiver.local}:{APP_PORT}/"

    async def pids(self, instance: Instance) -> tuple[int, int]:
        """Agent and Envoy of a sidecar."""
        status = await self.mesh.sidecar_status(instance)
        return int(str(status["agentPid"])), int(str(status["envoyPid"]))


@asynccontextmanager
async def open_stage(directory: Path) -> AsyncIterator[Stage]:
    """Everything is started, and both ways answer 200. At the end nothing is left."""
    processes = Processes(directory / "log")
    mesh = LocalMesh(directory, processes, replicas=("a",))
    try:
        await mesh.init("--files-only")
        await mesh.start_etcd()
        await mesh.init()
        await mesh.start_replica("a")
        manifest = directory / "bench.yaml"
        manifest.write_text("\n---\n".join(json.dumps(one) for one in OBJECTS))
        await mesh.meshadm("apply", "-f", str(manifest))
        caller, receiver = mesh.instance(CALLER, "caller-1"), mesh.instance(RECEIVER, "receiver-1")
        static = write_static_pair(directory / "static", receiver.local, processes)
        await start_envoy(processes, "app", static.directory / "app.yaml")
        for half in ("receiver", "caller"):
            await static.start(half)
        for instance in (receiver, caller):
            await mesh.start_sidecar(instance, drainSeconds=0)
        for address, port in ((caller.local, 15001), ("127.0.0.1", static.proxy_port)):
            await eventually(f"{HOST} answers through {address}:{port}", lambda a=address, p=port: answers(a, p))
        await eventually("the port of bytes answers", lambda: answers(caller.local, 15001, f"{RECEIVER}:{BYTES_PORT}"))
        yield Stage(mesh, caller, receiver, static)
    finally:
        await processes.stop_all()
        processes.kill_left_over()


async def answers(address: str, port: int, host: str = HOST) -> bool:
    """Whether one GET of the app by its host name comes back with 200."""
    try:
        async with await trio.open_tcp_stream(address, port) as stream:
            await stream.send_all(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
    except (OSError, trio.BrokenResourceError):
        return False


async def start_envoy(processes: Processes, name: str, config: Path) -> None:
    await processes.start(
        name,
        [
            str(envoy_path()), "-c", str(config), "--disable-hot-restart", "--concurrency", "1",
            "--drain-time-s", "1", "--drain-strategy", "immediate", "--log-level", "warning",
        ],
    )  # fmt: skip


def write_static_pair(
    directory: Path, app_address: str, processes: Processes, *, app_port: int = APP_PORT
) -> StaticPair:
    """Certificates of the same kind as the mesh's: P-256, a SPIFFE ID, an issuing certificate below the root."""
    issuing = Authority.create().intermediate()
    issuing.issue(uri=CALLER_ID).write(directory, "caller")
    issuing.issue(uri=RECEIVER_ID).write(directory, "receiver")
    proxy_port, mtls_port = free_ports(2)
    for template in TEMPLATES.glob("*.yaml"):
        filled = string.Template(template.read_text()).substitute(
            directory=directory, proxy_port=proxy_port, mtls_port=mtls_port, host=RECEIVER, app_address=app_address,
            app_port=app_port, caller_id=CALLER_ID, receiver_id=RECEIVER_ID, trust_domain=TRUST_DOMAIN,
        )  # fmt: skip
        (directory / template.name).write_text(filled)
    return StaticPair(directory, proxy_port, processes)
