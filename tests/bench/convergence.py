"""(a) From etcd's answer to a put until Envoy's ACK: a whole sidecar against a raw watch with a prepared push.

Both follow the same etcd over TLS with a client certificate, each has an Envoy of its own, and both push the same
RouteConfiguration for each put; one compiles it, the other has it ready. The two take turns, block by block.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import trio

from dataplane.compile.inbound import ALLOW, DENY
from deploy.demo.local_mesh import LocalMesh
from deploy.demo.processes import Processes
from tests.bench.harness import Figure, Target, figure, percentile
from tests.bench.objects import POLICY_KEY, RAW_KEY, RAW_ROUTES, SERVICE, policy
from tests.support.envoy import envoy_path
from trio_etcd._proto import etcd_pb2

BLOCKS = 24
PUTS = 60  # a block
WARM_UP = 2  # blocks
LOST_S = 10.0
# Between blocks: what the sidecar does after a change, its report through the replica to etcd, must not weigh upon the
# other's block.
SETTLE_S = 0.2

FILTERS = "type.googleapis.com/envoy.extensions.filters"


class Acks:
    """The stamps that a subject prints, by revision."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._stamps: dict[int, int] = {}
        self._arrived = trio.Event()

    async def read(self) -> None:
        buffer = b""
        assert self._process.stdout is not None
        async for chunk in self._process.stdout:
            buffer += chunk
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                revision, stamp = line.split()
                self._stamps[int(revision)] = int(stamp)
            arrived, self._arrived = self._arrived, trio.Event()
            arrived.set()

    async def of(self, revision: int) -> int:
        """When it was acked, or a later revision that includes it, in ns of the monotonic clock."""
        with trio.fail_after(LOST_S):
            while True:
                later = [stamp for acked, stamp in self._stamps.items() if acked >= revision]
                if later:
                    return min(later)
                await self._arrived.wait()

    async def first(self) -> None:
        await self.of(1)


@asynccontextmanager
async def subject(command: list[str]) -> AsyncIterator[Acks]:
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(command, stdout=-1)
        acks = Acks(process)
        nursery.start_soon(acks.read)
        try:
            yield acks
        finally:
            process.terminate()
            with trio.CancelScope(shield=True), trio.move_on_after(10):
                await process.wait()
            nursery.cancel_scope.cancel()


class Writer:
    """Puts by plain blocking calls: a hop to another thread would stamp etcd's answer later than it came."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._put = channel.unary_unary(
            "/etcdserverpb.KV/Put", etcd_pb2.PutRequest.SerializeToString, etcd_pb2.PutResponse.FromString
        )

    def put(self, key: bytes, value: bytes) -> tuple[int, int]:
        """(revision, when etcd's answer came in ns of the monotonic clock). Raises grpc.RpcError."""
        response = self._put(etcd_pb2.PutRequest(key=key, value=value), timeout=LOST_S)
        return response.header.revision, time.monotonic_ns()


async def block(etcd: Writer, key: bytes, acks: Acks, first: int) -> list[float]:
    """Milliseconds from the put's answer to Envoy's ACK, one put at a time."""
    result = []
    for number in range(first, first + PUTS):
        revision, answered = etcd.put(key, policy(number))
        result.append((await acks.of(revision) - answered) / 1e6)
    await trio.sleep(SETTLE_S)
    return result


async def measure(directory: Path) -> list[Figure]:
    processes = Processes(directory / "log")
    mesh = LocalMesh(directory, processes, replicas=("a",))
    try:
        await mesh.init("--files-only")
        await mesh.start_etcd()
        await mesh.init()
        await mesh.start_replica("a")
        manifest = directory / "service.yaml"
        manifest.write_text(json.dumps(SERVICE))
        await mesh.meshadm("apply", "-f", str(manifest))
        instance = mesh.instance("subject.bench", "subject-1")
        await mesh.write_sidecar_settings(instance)
        certificates = mesh.etc / "etcd"
        ca, certificate, key = ((certificates / one).read_bytes() for one in ("ca.crt", "replica.crt", "replica.key"))
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        async with (
            subject([sys.executable, "-m", "tests.bench.stamped_sidecar", str(mesh.settings_file(instance))]) as ours,
            raw_subject(mesh) as raw,
        ):
            await ours.first()
            await raw.first()
            with grpc.secure_channel(mesh.etcd_endpoint, credentials) as channel:
                return await compare(Writer(channel), ours, raw)
    finally:
        await processes.stop_all()
        processes.kill_left_over()


@asynccontextmanager
async def raw_subject(mesh: LocalMesh) -> AsyncIterator[Acks]:
    directory = mesh.directory / "raw"
    directory.mkdir()
    for name, source in (("ca.crt", "ca.crt"), ("cert.crt", "replica.crt"), ("cert.key", "replica.key")):
        (directory / name).write_bytes((mesh.etc / "etcd" / source).read_bytes())
    socket, config = directory / "ads.sock", directory / "envoy.json"
    config.write_text(json.dumps(raw_bootstrap(str(socket), str(directory / "admin.sock"))))
    command = [sys.executable, "-m", "tests.bench.raw_push", str(directory), mesh.etcd_endpoint, RAW_KEY.decode()]
    async with subject([*command, str(socket)]) as acks:
        await mesh.processes.start(
            "raw-envoy",
            [str(envoy_path()), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"],
        )
        yield acks


def raw_bootstrap(ads_socket: str, admin_socket: str) -> dict[str, object]:
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "rds": {"route_config_name": RAW_ROUTES, "config_source": {"ads": {}, "resource_api_version": "V3"}},
        "http_filters": [
            {"name": DENY, "typed_config": {"@type": f"{FILTERS}.http.rbac.v3.RBAC"}},
            {"name": ALLOW, "typed_config": {"@type": f"{FILTERS}.http.rbac.v3.RBAC"}},
            {"name": "router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}},
        ],
    }
    return {
        "node": {"id": "raw", "cluster": "raw"},
        "admin": {"address": {"pipe": {"path": admin_socket}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            }
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "typed_extension_protocol_options": http2,
                    "load_assignment": {
                        "cluster_name": "xds",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": ads_socket}}}}]}],
                    },
                }
            ],
            "listeners": [
                {
                    "name": "bench",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
        },
    }


async def compare(etcd: Writer, ours: Acks, raw: Acks) -> list[Figure]:
    medians, tails = [], []
    for number in range(WARM_UP + BLOCKS):
        first = number * PUTS
        if number % 2:
            one = await block(etcd, POLICY_KEY, ours, first)
            other = await block(etcd, RAW_KEY, raw, first)
        else:
            other = await block(etcd, RAW_KEY, raw, first)
            one = await block(etcd, POLICY_KEY, ours, first)
        if number >= WARM_UP:
            medians.append((statistics.median(one), statistics.median(other)))
            tails.append((percentile(one, 0.99), percentile(other, 0.99)))
    what = "etcd put acked to Envoy ACK, a sidecar against a raw watch with a prepared push"
    return [
        figure("convergence_p50", what, medians, "ms", Target("<=", 1.5)),
        figure("convergence_p99", what, tails, "ms", Target("<=", 2.0)),
    ]


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        return trio.run(measure, Path(directory))
