"""The ADS server with a real Envoy, delta and state of the world."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from dataplane.ads.server import AdsServer, open_ads_server
from dataplane.ads.table import ResourceTable
from dataplane.compile.resources import Resource, ResourceKey, Update
from tests.dataplane.ads import xds
from tests.dataplane.ads.envoy_process import NODE, Envoy, get, http_get, running_envoy, serve_http
from tests.support.net import eventually, free_port
from tests.support.pki import Authority

BOTH = pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
WARM_AT_ONCE_S = 3.0  # Envoy gives up waiting for a child after 15 s; what we send must make it ready long before


def fail(method: str, error: Exception) -> None:
    raise AssertionError(f"{method} failed") from error


@asynccontextmanager
async def ads_server(path: Path) -> AsyncIterator[AdsServer]:
    async with open_ads_server(path / "ads" / "ads.sock", envoy_node=NODE, on_error=fail) as server:
        yield server


async def acked(server: AdsServer, revision: int, seconds: float = 10.0) -> None:
    with trio.move_on_after(seconds):
        while server.state.acked_revision < revision or not server.state.connected:
            await server.changed()
        return
    raise AssertionError(f"revision {revision} not acked within {seconds} s: {server.state}")


def update(revision: int, *changed: Resource, removed: tuple[ResourceKey, ...] = ()) -> Update:
    return Update(revision, changed, removed)


@asynccontextmanager
async def mesh(path: Path, *, delta: bool) -> AsyncIterator[tuple[AdsServer, Envoy, int, int, int]]:
    """Server, Envoy, the listener's port, and the ports of the upstreams that answer `a` and `b`."""
    async with trio.open_nursery() as nursery:
        a: int = await nursery.start(serve_http, b"a")
        b: int = await nursery.start(serve_http, b"b")
        async with ads_server(path) as server, running_envoy(path, path / "ads" / "ads.sock", delta=delta) as envoy:
            yield server, envoy, free_port(), a, b
        nursery.cancel_scope.cancel()


async def nothing_warms(envoy: Envoy) -> bool:
    listeners = await envoy.dump("dynamic_listeners")
    return not await envoy.dump("dynamic_warming_clusters") and not any("warming_state" in one for one in listeners)


class Load:
    """Requests one after the other on one connection each, until stopped; every answer is kept."""

    def __init__(self, port: int, path: str = "/") -> None:
        self.port, self.path = port, path
        self.answers: list[tuple[int, bytes]] = []
        self.stopped = False

    async def run(self) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            while not self.stopped:
                self.answers.append(await http_get(stream, self.path, close=False))


@BOTH
async def test_full_push_is_acked_and_serves(tmp_path: Path, delta: bool) -> None:
    async with mesh(tmp_path, delta=delta) as (server, _, port, a, _b):
        server.update(
            update(
                7,
                xds.cluster("a"),
                xds.endpoints("a", a),
                xds.listener("in", port, "r"),
                xds.routes("r", {"/": "a"}),
            )
        )
        await acked(server, 7)
        assert await get(port) == (200, b"a")
        assert server.nacks == ()


@BOTH
async def test_changed_cluster_is_warm_at_once(tmp_path: Path, delta: bool) -> None:
    async with mesh(tmp_path, delta=delta) as (server, envoy, port, a, _b):
        base = (xds.endpoints("a", a), xds.listener("in", port, "r"), xds.routes("r", {"/": "a"}))
        server.update(update(1, xds.cluster("a"), *base))
        await acked(server, 1)
        server.update(update(2, xds.cluster("a", timeout=2)))
        await acked(server, 2)
        await eventually("the changed cluster is warm", partial(nothing_warms, envoy), WARM_AT_ONCE_S)
        [active] = await envoy.dump("dynamic_active_clusters")
        assert active["cluster"]["connect_timeout"] == "2s"
        assert await get(port) == (200, b"a")


@BOTH
async def test_changed_listener_is_active_at_once(tmp_path: Path, delta: bool) -> None:
    async with mesh(tmp_path, delta=delta) as (server, envoy, port, a, _b):
        base = (xds.cluster("a"), xds.endpoints("a", a), xds.routes("r", {"/": "a"}))
        server.update(update(1, xds.listener("in", port, "r", prefix="first"), *base))
        await acked(server, 1)
        server.update(update(2, xds.listener("in", port, "r", prefix="second")))
        await acked(server, 2)
        await eventually("the changed listener is active", partial(nothing_warms, envoy), WARM_AT_ONCE_S)
        assert await get(port) == (200, b"a")
        [active] = await envoy.dump("dynamic_listeners")
        assert "second" in str(active["active_state"])


@BOTH
async def test_secrets_serve_changed_parents_and_come_before_what_needs_them(tmp_path: Path, delta: bool) -> None:
    leaf = Authority.create().issue("test", dns=["test"])
    async with mesh(tmp_path, delta=delta) as (server, envoy, port, a, _):
        tls_port = free_port()
        server.update(
            update(
                1,
                xds.cluster("a"),
                xds.endpoints("a", a),
                xds.cluster("back", secret="own"),
                xds.endpoints("back", tls_port),
                xds.listener("in", port, "r"),
                xds.listener("tls", tls_port, "to-app", secret="own"),
                xds.routes("r", {"/": "back"}),
                xds.routes("to-app", {"/": "a"}),
                xds.secret("own", leaf),
            )
        )
        await acked(server, 1)
        assert await get(port) == (200, b"a")
        server.update(
            update(
                2,
                xds.cluster("back", secret="own", timeout=2),
                xds.listener("tls", tls_port, "to-app", secret="own", prefix="changed"),
            )
        )
        await acked(server, 2)
        await eventually("all is warm", partial(nothing_warms, envoy), WARM_AT_ONCE_S)
        load = Load(port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            server.update(
                update(
                    3,
                    xds.cluster("new", secret="other"),
                    xds.endpoints("new", tls_port),
                    xds.routes("r", {"/": "new"}),
                    xds.secret("other", leaf),
                    removed=(xds.cluster("back").key, xds.endpoints("back").key),
                )
            )
            await acked(server, 3)
            load.stopped = True
        assert set(load.answers) == {(200, b"a")}
        assert await get(port) == (200, b"a")


@BOTH
async def test_new_cluster_is_warm_before_its_route_and_gone_after_it(tmp_path: Path, delta: bool) -> None:
    async with mesh(tmp_path, delta=delta) as (server, _, port, a, b), trio.open_nursery() as nursery:
        base = (xds.listener("in", port, "r"), xds.routes("r", {"/": "a"}))
        server.update(update(1, xds.cluster("a"), xds.endpoints("a", a), *base))
        await acked(server, 1)
        load = Load(port)
        nursery.start_soon(load.run)
        old, new, upstreams = "a", "b", {"a": a, "b": b}
        for revision in range(2, 22):
            target = upstreams["b" if revision % 2 == 0 else "a"]
            name = f"{new}{revision}"
            server.update(
                update(
                    revision,
                    xds.cluster(name),
                    xds.endpoints(name, target),
                    xds.routes("r", {"/": name}),
                    removed=(xds.cluster(old).key, xds.endpoints(old).key),
                )
            )
            await acked(server, revision)
            old = name
        load.stopped = True
    assert {status for status, _ in load.answers} == {200}
    assert {body for _, body in load.answers} == {b"a", b"b"}


async def test_a_filter_is_put_changed_refused_replaced_and_removed(tmp_path: Path) -> None:
    """New connections go by the newest that is good, and none meets a listener without one; open ones go on."""
    async with mesh(tmp_path, delta=True) as (server, envoy, port, a, b):
        to_a, to_b = (xds.cluster("a"), xds.endpoints("a", a)), (xds.cluster("b"), xds.endpoints("b", b))
        server.update(update(1, *to_a, xds.tcp_listener("in", port, "bytes"), xds.extension("bytes", "a")))
        await acked(server, 1)
        async with await trio.open_tcp_stream("127.0.0.1", port) as opened_before:
            assert await http_get(opened_before, "/", close=False) == (200, b"a")
            server.update(update(2, *to_b, xds.extension("bytes", "b"), removed=tuple(one.key for one in to_a)))
            await acked(server, 2)
            assert await get(port) == (200, b"b")
            assert await http_get(opened_before, "/", close=False) == (200, b"a")
            server.update(update(3, xds.extension("bytes", "b", bad=True)))
            await eventually("the NACK is known", lambda: server.nacks)
            assert [(nack.resource, nack.revision) for nack in server.nacks] == [("bytes", 3)]
            assert await get(port) == (200, b"b"), "the last good one serves"
        as_http = xds.listener("in", port, "r"), xds.routes("r", {"/": "b"})
        as_bytes = xds.tcp_listener("in", port, "bytes"), xds.extension("bytes", "b")
        met, stopped = list[tuple[int, bytes]](), False

        async def connect_again_and_again() -> None:
            while not stopped:
                met.append(await get(port))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect_again_and_again)
            before = as_bytes
            for revision, after in enumerate((as_http, as_bytes) * 4, start=4):
                server.update(update(revision, *after, removed=(before[1].key,)))
                await acked(server, revision)
                await eventually("the other is in use", partial(nothing_warms, envoy), WARM_AT_ONCE_S)
                before = after
            stopped = True
        assert set(met) == {(200, b"b")}
        server.update(update(20, removed=tuple(one.key for one in (*as_bytes, *to_b))))
        await acked(server, 20)
        await eventually("nobody listens", partial(is_closed, port))
        await eventually("the cluster is gone", partial(active_clusters_are, envoy, set()))
        assert server.nacks == ()


async def is_closed(port: int) -> bool:
    try:
        await get(port)
    except OSError:
        return True
    return False


@BOTH
async def test_nack_keeps_the_last_good_names_the_culprit_and_lets_the_others_through(
    tmp_path: Path, delta: bool
) -> None:
    async with mesh(tmp_path, delta=delta) as (server, envoy, port, a, b):
        base = (xds.listener("in", port, "r"), xds.routes("r", {"/": "a"}))
        server.update(update(1, xds.cluster("a"), xds.endpoints("a", a), *base))
        await acked(server, 1)
        others = [resource for name in "cdefg" for resource in (xds.cluster(name), xds.endpoints(name, b))]
        server.update(update(2, xds.cluster("a", bad=True), *others, xds.routes("r", {"/c": "c", "/": "a"})))
        await eventually("the NACK is known", lambda: server.nacks)
        [nack] = server.nacks
        assert (nack.resource, nack.revision) == ("a", 2)
        assert "Expected positive duration" in nack.message
        await eventually("the others are in", partial(active_clusters_are, envoy, {"a", *"cdefg"}))
        await eventually("the new route works", partial(answers, port, "/c", b"b"))
        assert await get(port) == (200, b"a"), "the last good version serves"
        assert server.acked_revision == 1
        server.update(update(3, xds.cluster("a", timeout=3)))
        await acked(server, 3)
        assert server.nacks == ()


async def active_clusters_are(envoy: Envoy, names: set[str]) -> bool:
    return {one["cluster"]["name"] for one in await envoy.dump("dynamic_active_clusters")} == names


async def answers(port: int, path: str, body: bytes) -> bool:
    return await get(port, path) == (200, body)


async def test_every_type_is_refused_in_envoys_words(tmp_path: Path) -> None:
    async with mesh(tmp_path, delta=True) as (server, _, port, a, _b):
        base = (xds.cluster("a"), xds.endpoints("a", a), xds.listener("in", port, "r"), xds.routes("r", {"/": "a"}))
        server.update(update(1, *base))
        await acked(server, 1)
        server.update(update(2, xds.listener("in", port, "r", bad=True), xds.routes("r", {"/": "a"}, bad=True)))
        await eventually("both NACKs are known", lambda: len(server.nacks) == 2)
        listener, routes = server.nacks
        assert "not an address" in listener.message
        assert "Only a single wildcard domain" in routes.message
        assert await get(port) == (200, b"a")
        server.update(update(3, *base))
        await acked(server, 3)
        assert server.nacks == ()


@BOTH
async def test_restart_of_the_server_in_mid_push(tmp_path: Path, delta: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first server dies after it has sent a changed cluster, before the endpoints that it warms with."""
    socket, port = tmp_path / "ads" / "ads.sock", free_port()
    base = (xds.listener("in", port, "r"), xds.routes("r", {"/": "a"}))
    async with trio.open_nursery() as nursery:
        a: int = await nursery.start(serve_http, b"a")
        b: int = await nursery.start(serve_http, b"b")
        envoy: Envoy = await nursery.start(envoy_in_background, tmp_path, socket, delta)
        async with ads_server(tmp_path) as first:
            first.update(update(1, xds.cluster("a"), xds.endpoints("a", a), *base))
            await acked(first, 1)
            with monkeypatch.context() as patched:
                # Without knowledge of a cluster's children nothing sends the endpoints again.
                patched.setattr(ResourceTable, "children", lambda *_: frozenset())
                first.update(update(2, xds.cluster("a", timeout=2)))
                await eventually("the changed cluster warms", partial(envoy.dump, "dynamic_warming_clusters"))
        assert await get(port) == (200, b"a"), "serves without the server"
        async with ads_server(tmp_path) as second:
            await eventually("Envoy is back", lambda: second.sessions)
            assert await get(port) == (200, b"a"), "nothing is taken away before the first update"
            more = (xds.cluster("b"), xds.endpoints("b", b), xds.routes("r", {"/b": "b", "/": "a"}))
            second.update(update(3, xds.cluster("a", timeout=2), xds.endpoints("a", a), base[0], *more))
            await acked(second, 3, WARM_AT_ONCE_S)
            await eventually("all is warm", partial(nothing_warms, envoy), WARM_AT_ONCE_S)
            assert [await get(port), await get(port, "/b")] == [(200, b"a"), (200, b"b")]
        nursery.cancel_scope.cancel()


async def envoy_in_background(
    directory: Path, socket: Path, delta: bool, *, task_status: trio.TaskStatus[Envoy]
) -> None:
    socket.parent.mkdir(mode=0o700)
    async with running_envoy(directory, socket, delta=delta) as envoy:
        task_status.started(envoy)
        await trio.sleep_forever()


async def test_time_from_update_to_ack(tmp_path: Path) -> None:
    async with mesh(tmp_path, delta=True) as (server, _, port, a, b):
        base = (xds.cluster("a"), xds.listener("in", port, "r"), xds.routes("r", {"/": "a"}))
        server.update(update(1, xds.endpoints("a", a), *base))
        await acked(server, 1)
        times = []
        for revision in range(2, 302):
            start = trio.current_time()
            server.update(update(revision, xds.endpoints("a", a if revision % 2 else b)))
            await acked(server, revision)
            times.append((trio.current_time() - start) * 1000)
        print(f"update to ACK: p50 {statistics.median(times):.2f} ms, p99 {sorted(times)[296]:.2f} ms")
        assert statistics.median(times) < 20
