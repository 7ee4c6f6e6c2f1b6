"""The edge of the ADS server: its socket, who counts as Envoy, and the bound on waiting."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import trio
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.discovery.v3 import discovery_pb2

from dataplane.ads.server import ACCESS_LOGS, DELTA, PATIENCE_S, AckState, open_ads_server
from dataplane.compile.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Update
from tests.dataplane.ads import xds
from trio_grpc import BindError, Channel, RpcError, Stream
from trio_grpc.http2 import MAX_SOCKET_PATH

NODE = "shop/orders/1"
STATE = (xds.cluster("a"), xds.endpoints("a", 1))


def fail(method: str, error: Exception) -> None:
    raise AssertionError(f"{method} failed") from error


async def ask(stream: Stream, type_url: str, *names: str, nonce: str = "", node: str = NODE) -> None:
    request = discovery_pb2.DeltaDiscoveryRequest(
        type_url=type_url, resource_names_subscribe=names, response_nonce=nonce, node={"id": node}
    )
    await stream.send(request.SerializeToString())


async def hear(stream: Stream) -> list[discovery_pb2.DeltaDiscoveryResponse]:
    with trio.fail_after(10):
        return [discovery_pb2.DeltaDiscoveryResponse.FromString(message) for message in await stream.receive()]


async def test_socket_is_its_owners_alone(tmp_path: Path) -> None:
    socket = tmp_path / "run" / "ads.sock"
    async with open_ads_server(socket, envoy_node=NODE, on_error=fail):
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600


async def test_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    await trio.Path(tmp_path).chmod(0o755)
    with pytest.raises(PermissionError, match="chmod 700"):
        async with open_ads_server(tmp_path / "ads.sock", envoy_node=NODE, on_error=fail):
            pass


async def test_path_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    with pytest.raises(BindError, match=str(MAX_SOCKET_PATH)):
        async with open_ads_server(tmp_path / ("x" * 120), envoy_node=NODE, on_error=fail):
            pass


async def test_new_stream_of_envoy_replaces_the_old_one_and_others_do_not_count(tmp_path: Path) -> None:
    socket = tmp_path / "run" / "ads.sock"
    async with open_ads_server(socket, envoy_node=NODE, on_error=fail) as server:
        server.update(Update(1, STATE[:1]))
        with Channel(f"unix:{socket}") as channel:
            with channel.stream(DELTA) as other:
                await ask(other, CLUSTER, node="another")
                await hear(other)
                assert server.state == AckState()
                with channel.stream(DELTA) as old, channel.stream(DELTA) as new:
                    await ask(old, CLUSTER)
                    await hear(old)
                    assert server.state.connected
                    await ask(new, CLUSTER)
                    await hear(new)
                    with pytest.raises(trio.EndOfChannel):
                        await hear(old)
                    assert server.state.connected
                    assert server.sessions == 2


async def test_access_logs_are_heard_by_the_name_that_their_first_message_says(tmp_path: Path) -> None:
    socket = tmp_path / "run" / "ads.sock"
    heard: list[tuple[str, str]] = []
    all_heard = trio.Event()

    def hear_report(name: str, report: als_pb2.StreamAccessLogsMessage) -> None:
        heard.append((name, report.http_logs.log_entry[0].request.path))
        if len(heard) == 2:
            all_heard.set()

    async with open_ads_server(socket, envoy_node=NODE, on_error=fail, on_report=hear_report):
        with Channel(f"unix:{socket}") as channel, channel.stream(ACCESS_LOGS) as stream:
            for name, path in (("inbound|http", "/a"), ("", "/b")):
                report = als_pb2.StreamAccessLogsMessage(identifier={"log_name": name} if name else None)
                report.http_logs.log_entry.add().request.path = path
                await stream.send(report.SerializeToString())
            with trio.fail_after(10):
                await all_heard.wait()
    assert heard == [("inbound|http", "/a"), ("inbound|http", "/b")]


async def test_stream_without_a_node_is_refused(tmp_path: Path) -> None:
    socket = tmp_path / "run" / "ads.sock"
    async with open_ads_server(socket, envoy_node=NODE, on_error=fail):
        with Channel(f"unix:{socket}") as channel, channel.stream(DELTA) as stream:
            await ask(stream, CLUSTER, node="")
            with pytest.raises(RpcError, match=r"node\.id"):
                await hear(stream)


async def test_changes_of_the_acks_are_told(tmp_path: Path) -> None:
    socket = tmp_path / "run" / "ads.sock"
    async with open_ads_server(socket, envoy_node=NODE, on_error=fail) as server:
        server.update(Update(5, STATE[:1]))
        with Channel(f"unix:{socket}") as channel, channel.stream(DELTA) as stream:
            await ask(stream, CLUSTER)
            [response] = await hear(stream)
            with trio.fail_after(10):
                await ask(stream, CLUSTER, nonce=response.nonce)
                while server.state.acked_revision != 5:
                    await server.changed()
        with trio.fail_after(10):
            while server.state.connected:
                await server.changed()
        assert server.acked_revision == 5, "what it last acked stays known"


async def test_waiting_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PATIENCE_S < 15, "Envoy's own wait"
    monkeypatch.setattr("dataplane.ads.server.PATIENCE_S", 0.2)
    socket = tmp_path / "run" / "ads.sock"
    async with open_ads_server(socket, envoy_node=NODE, on_error=fail) as server:
        server.update(Update(1, (*STATE, xds.listener("l", 1, "r"), xds.routes("r", {"/": "a"}))))
        with Channel(f"unix:{socket}") as channel, channel.stream(DELTA) as stream:
            await ask(stream, CLUSTER)
            assert [one.type_url for one in await hear(stream)] == [CLUSTER]
            await ask(stream, LISTENER)  # neither acks the cluster nor asks for its endpoints
            start = trio.current_time()
            assert [one.type_url for one in await hear(stream)] == [LISTENER]
            assert trio.current_time() - start >= 0.15
            await ask(stream, ENDPOINTS, "a")
            await ask(stream, ROUTES, "r")
            heard = [one.type_url for one in await hear(stream)]
            while len(heard) < 2:
                heard += [one.type_url for one in await hear(stream)]
            assert set(heard) == {ENDPOINTS, ROUTES}
