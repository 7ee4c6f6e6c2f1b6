"""gRPC's own xDS client, in a process of its own, finds a plain gRPC server through state-of-the-world ADS."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio

from dataplane.ads.server import open_ads_server
from dataplane.compile.resources import Update
from tests.dataplane.ads import xds
from trio_grpc import Context, Listener, serve, unary

ENVOY_NODE = "shop/orders/1"

CLIENT = """
import sys, grpc
with grpc.insecure_channel("xds:///orders.shop") as channel:
    call = channel.unary_unary("/test.Echo/Say", None, None)
    for line in sys.stdin:
        print(call(line.strip().encode(), timeout=20, wait_for_ready=True).decode(), flush=True)
"""


def fail(method: str, error: Exception) -> None:
    raise AssertionError(f"{method} failed") from error


async def test_grpc_finds_its_server_and_follows_it(tmp_path: Path) -> None:
    async def first(request: bytes, _: Context) -> bytes:
        return b"first " + request

    async def second(request: bytes, _: Context) -> bytes:
        return b"second " + request

    socket = tmp_path / "ads" / "ads.sock"
    (tmp_path / "bootstrap.json").write_text(
        json.dumps(
            {
                "xds_servers": [
                    {
                        "server_uri": f"unix:{socket}",
                        "channel_creds": [{"type": "insecure"}],
                        "server_features": ["xds_v3"],
                    }
                ],
                "node": {"id": "a-grpc-client"},
            }
        )
    )
    local = [Listener("127.0.0.1:0")]
    async with (
        serve({"/test.Echo/Say": unary(first, bytes, bytes)}, local, on_error=fail) as one,
        serve({"/test.Echo/Say": unary(second, bytes, bytes)}, local, on_error=fail) as two,
        open_ads_server(socket, envoy_node=ENVOY_NODE, on_error=fail) as server,
        trio.open_nursery() as nursery,
    ):
        server.update(
            Update(
                1,
                (
                    xds.api_listener("orders.shop", "orders"),
                    xds.api_listener("another.shop", "another"),
                    xds.routes("orders", {"/": "orders-1"}),
                    xds.cluster("orders-1"),
                    xds.endpoints("orders-1", one.bound_ports[0]),
                ),
            )
        )
        process: trio.Process = await nursery.start(run_client, tmp_path / "bootstrap.json")
        assert await say(process, "hello") == "first hello"
        assert server.sessions == 1
        assert not server.state.connected, "only Envoy's stream counts as the sidecar's"

        server.update(
            Update(
                2,
                (
                    xds.routes("orders", {"/": "orders-2"}),
                    xds.cluster("orders-2"),
                    xds.endpoints("orders-2", two.bound_ports[0]),
                ),
                (xds.cluster("orders-1").key, xds.endpoints("orders-1").key),
            )
        )
        with trio.fail_after(20):
            while (answer := await say(process, "again")) != "second again":
                assert answer == "first again", "no call fails on the way"

        server.update(Update(3, (xds.endpoints("orders-2", one.bound_ports[0]),)))
        with trio.fail_after(20):
            while (answer := await say(process, "moved")) != "first moved":
                assert answer == "second moved"
        nursery.cancel_scope.cancel()


async def run_client(bootstrap: Path, *, task_status: trio.TaskStatus[trio.Process]) -> None:
    run = partial(trio.run_process, [sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    await run(env={"GRPC_XDS_BOOTSTRAP": str(bootstrap)}, task_status=task_status)


async def say(process: trio.Process, word: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdin.send_all(f"{word}\n".encode())
    received = b""
    while not received.endswith(b"\n"):
        chunk = await process.stdout.receive_some()
        assert chunk, "the client ended"
        received += bytes(chunk)
    return received.decode().strip()
