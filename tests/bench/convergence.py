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
from tests.bench.harness import Figure, Target, figure, percentile
from tests.bench.objects import POLICY_KEY, RAW_KEY, RAW_ROUTES, policy
from tests.bench.one_sidecar import LOST_S, Acks, etcd_channel, one_service, sidecar, subject
from tests.support.envoy import envoy_path
from trio_etcd._proto import etcd_pb2

BLOCKS = 24
PUTS = 60  # a block
WARM_UP = 2  # blocks
# Between blocks: what the sidecar does after a change, its report through the replica to etcd, must not weigh upon the
# other's block.
SETTLE_S = 0.2

FILTERS = "type.googleapis.com/envoy.extensions.filters"


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
    async with one_service(directory) as mesh:
        instance = mesh.instance("subject.bench", "subject-1")
        async with sidecar(mesh, instance) as ours, raw_subject(mesh) as raw:
            await raw.first()
            with etcd_channel(mesh) as channel:
                return await compare(Writer(channel), ours, raw)


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
