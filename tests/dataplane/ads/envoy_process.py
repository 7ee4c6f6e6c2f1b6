"""A real Envoy that takes everything over ADS from a Unix socket, and HTTP to ask it things."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.support.envoy import envoy_path
from tests.support.net import wait_unix_socket

NODE = "shop/orders/1"


async def http_get(stream: trio.abc.Stream, path: str, *, close: bool = True) -> tuple[int, bytes]:
    """One HTTP/1.1 request; `close` False leaves the connection open for the next."""
    connection = "close" if close else "keep-alive"
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += await _more(stream)
    head, _, body = received.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in headers:
        while len(body) < int(headers[b"content-length"]):
            body += await _more(stream)
    else:
        while chunk := await stream.receive_some():
            body += chunk
        body = _joined(body)
    return int(head.split()[1]), body


async def _more(stream: trio.abc.Stream) -> bytes:
    chunk = bytes(await stream.receive_some())
    if not chunk:
        raise ConnectionError("closed before the end of the answer")
    return chunk


def _joined(chunks: bytes) -> bytes:
    result = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        length = int(size, 16)
        result += rest[:length]
        chunks = rest[length + 2 :] if length else b""
    return result


async def get(port: int, path: str = "/") -> tuple[int, bytes]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        return await http_get(stream, path)


@dataclass
class Envoy:
    directory: Path
    process: trio.Process

    async def admin(self, path: str) -> bytes:
        async with await trio.open_unix_socket(str(self.directory / "admin.sock")) as stream:
            status, body = await http_get(stream, path)
        assert status == 200, body
        return body

    async def dump(self, kind: str) -> list[dict[str, Any]]:
        """What /config_dump holds of one kind, e.g. ``dynamic_active_clusters``."""
        body = await self.admin(f"/config_dump?resource={kind}")
        found = json.loads(body).get("configs", [])
        return list(found)

    def log(self) -> str:
        return (self.directory / "envoy.log").read_text()


@asynccontextmanager
async def running_envoy(directory: Path, ads_socket: Path, *, delta: bool = True) -> AsyncIterator[Envoy]:
    """Started, with its admin socket up; its configuration comes when the ADS server gives one."""
    bootstrap = {
        "node": {"id": NODE, "cluster": "orders"},
        "admin": {"address": {"pipe": {"path": str(directory / "admin.sock")}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if delta else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}],
            },
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [_ads_cluster(ads_socket)]},
    }
    (directory / "bootstrap.json").write_text(json.dumps(bootstrap))
    command = [str(envoy_path()), "-c", str(directory / "bootstrap.json"), "--disable-hot-restart"]
    with (directory / "envoy.log").open("wb") as log:
        start = partial(trio.run_process, [*command, "--concurrency", "1", "-l", "info"], check=False)
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(partial(start, stdout=log, stderr=subprocess.STDOUT))
            try:
                await wait_unix_socket(str(directory / "admin.sock"))
                yield Envoy(directory, process)
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


def _ads_cluster(socket: Path) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    return {
        "name": "ads",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "ads", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


async def serve_http(body: bytes, *, task_status: trio.TaskStatus[int]) -> None:
    """An upstream that answers everything with 200 and `body`; tells its port."""

    async def handle(stream: trio.SocketStream) -> None:
        received = b""
        while chunk := await stream.receive_some():
            received += chunk
            while b"\r\n\r\n" in received:
                received = received.partition(b"\r\n\r\n")[2]
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(handle, listeners)
