"""Agent, Envoy, etcd and replicas ended and killed under load: what is served, what is refused, and what heals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from dataplane.envoy.child import Child
from schemas.keys import EndpointRef
from schemas.names import ServiceRef
from schemas.objects import AnyObject
from schemas.objects.authorization import Operation, Rule
from tests.e2e.app import GREETING, HTTP
from tests.e2e.load import nobody_let_in, open_loop
from tests.e2e.mesh import BOUND_GRPC, KEYS, WEB_ID, E2eMesh, caller
from tests.e2e.model import assert_runs_the_model
from tests.e2e.test_waiting import EXTRA, api_with
from tests.states.build import policy, rule
from tests.support.net import eventually
from trio_grpc import Channel, Stream

REFUSED_EXTRA = "Envoy refused inbound|extra"
DRAIN_S = 5.0  # `drainSeconds` of every sidecar here
# Leaving discovery, draining, ending Envoy: at most 3 s, the drain and 5 s by the settings. One that waits for anything
# else takes longer.
END_S = 3 + DRAIN_S + 5
EVERYBODY = ("web-1", "api-1", "api-2")
NO_DELETES = policy(
    "no-deletes", "DENY", rule(caller(WEB_ID), to=[Operation(methods=("DELETE",), ports=(HTTP,))]), on=["api"]
)


async def restart(mesh: E2eMesh, *names: str) -> None:
    """Returns when the new agents speak for themselves: what the dead ones have said is in etcd for a while."""
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(mesh.local.restart_sidecar, mesh.instances[name])
    for name in names:
        path = mesh.local.runtime_dir(mesh.instances[name]) / "status.json"

        def speaks(path: Path = path, pid: int = mesh.agent_pid(name)) -> bool:
            return bool(json.loads(path.read_bytes())["agentPid"] == pid)

        await eventually(f"the new agent of {name} speaks", speaks)
    await mesh.everyone_current()


async def ended(pid: int) -> None:
    """Returns when that process has."""
    found = Child.find(pid)
    if found is not None:
        await found[0].wait()
        found[0].close()


@contextmanager
def envoy_paused(mesh: E2eMesh, name: str) -> Iterator[None]:
    pid = mesh.envoy_pid(name)
    assert pid is not None
    with mesh.paused(pid):
        yield


@asynccontextmanager
async def stream_at(mesh: E2eMesh, name: str) -> AsyncIterator[Stream]:
    """A gRPC stream on which that instance has answered a message."""
    with Channel(f"{mesh.instances['web-1'].local}:{BOUND_GRPC}") as channel, ExitStack() as open_until:
        while True:
            stream = open_until.enter_context(channel.stream("/e2e.Echo/Chat"))
            await stream.send(b"x")
            if b"".join(await stream.receive()).startswith(f"{name} ".encode()):
                yield stream
                return


@asynccontextmanager
async def connection_at(mesh: E2eMesh, name: str) -> AsyncIterator[trio.SocketStream]:
    """A TCP connection on which that instance has said who it is."""
    while True:
        async with await mesh.tcp() as stream:
            if await stream.receive_some() == f"{GREETING}{name}\n".encode():
                yield stream
                return


async def goes_on_to_its_end(chat: Stream) -> None:
    for number in range(20):
        await chat.send(b"%d" % number)
        assert b"".join(await chat.receive()).endswith(b" %d" % number)
    chat.done_sending()
    with pytest.raises(trio.EndOfChannel):  # any other status than OK is an RpcError
        await chat.receive()


async def all_comes_back(connection: trio.SocketStream) -> None:
    """What is on its way when the app's side has no more to say, too."""
    sent = bytes(range(256)) * 2048
    got = bytearray()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await connection.send_all(sent)
            await connection.send_eof()

        nursery.start_soon(send)
        async for part in connection:
            got += part
    assert got == sent


async def test_a_sidecar_that_is_told_to_end_drains_leaves_and_fails_no_request(mesh: E2eMesh) -> None:
    envoy = mesh.envoy_pid("api-2")
    key = KEYS.endpoint(EndpointRef(ServiceRef("shop", "api"), "api-2"))
    assert envoy is not None
    async with (
        mesh.etcd() as etcd,
        open_loop(mesh) as load,
        stream_at(mesh, "api-2") as chat,
        connection_at(mesh, "api-2") as connection,
        trio.open_nursery() as nursery,
    ):
        held: list[int] = []

        async def hold() -> None:
            held.append(await mesh.status("/held/drain"))

        while True:  # until one of them is at api-2
            nursery.start_soon(hold)
            with trio.move_on_after(0.2):
                await mesh.ask_app("api-2", "/arrived/drain")
                break
        await load.more(5)
        began = trio.current_time()
        process = mesh.agent_pid("api-2")
        os.kill(process, signal.SIGTERM)

        async def left() -> bool:
            return await etcd.get(key) is None

        await eventually("it has left discovery", left)
        for name in ("api-1", "api-2"):
            await mesh.ask_app(name, "/release/drain")
        async with trio.open_nursery() as ending:
            ending.start_soon(goes_on_to_its_end, chat)
            ending.start_soon(all_comes_back, connection)
        assert await mesh.processes.stop("sidecar-api-2") == 0
        assert trio.current_time() - began < END_S
        await ended(envoy)
        await load.more(5)
        await restart(mesh, "api-2")
        await load.more(10)
    assert set(held) == {200}
    assert load.failures == {}
    await assert_runs_the_model(mesh, *EVERYBODY)


@pytest.mark.fault(27)
async def test_an_agent_that_is_killed_is_not_missed_and_the_next_takes_up_its_envoy(mesh: E2eMesh) -> None:
    before = {name: mesh.envoy_pid(name) for name in ("web-1", "api-1")}
    async with open_loop(mesh) as load, nobody_let_in(mesh):
        await mesh.admin("web-1").post("/logging?level=info")  # as if for a time, of which the next agent knows nothing
        await mesh.processes.kill("sidecar-web-1")
        await mesh.processes.kill("sidecar-api-1")
        await load.more(10)
        await restart(mesh, "web-1", "api-1")
        async with mesh.applied(NO_DELETES):
            assert await mesh.status(method="DELETE") == 403
        await load.more(10)
    assert load.failures == {}
    assert {name: mesh.envoy_pid(name) for name in before} == before
    for name in before:
        assert "took up the running Envoy" in mesh.log(f"sidecar-{name}")
    assert set((await mesh.admin("web-1").log_levels()).values()) == {"warning"}
    await assert_runs_the_model(mesh, *EVERYBODY)


@pytest.mark.fault(27)
async def test_an_envoy_that_is_killed_comes_back_with_the_last_good_configuration(mesh: E2eMesh) -> None:
    """Of both sides, at once, while etcd holds something that can't be read."""
    bad = KEYS.object(NO_DELETES.ref)
    async with mesh.applied(NO_DELETES), nobody_let_in(mesh), mesh.put_by_hand(bad, b"\xc1"):
        old = {name: mesh.envoy_pid(name) for name in EVERYBODY}
        for name in EVERYBODY:
            mesh.kill_envoy(name)

        async def serves() -> bool:
            try:
                return {await mesh.status(), await mesh.status()} == {200}
            except httpx.HTTPError:  # nobody listens yet
                return False

        await eventually("requests are served again", serves)
        for _ in range(4):
            assert await mesh.status(method="DELETE") == 403
        new = {name: mesh.envoy_pid(name) for name in EVERYBODY}
        assert all(new.values())
        assert not set(new.values()) & set(old.values())
    await assert_runs_the_model(mesh, *EVERYBODY)


@pytest.mark.fault(27)
@pytest.mark.parametrize("opens", [False, True], ids=["a new deny", "a deny that goes"])
async def test_an_agent_that_is_killed_in_mid_push(mesh: E2eMesh, opens: bool) -> None:
    """Envoy has been sent a change and has not answered when the agent dies; the next one brings it to the end."""
    everything = policy("closed", "DENY", Rule(), on=["api"])
    try:
        if opens:
            await mesh.apply(everything)
        async with nobody_let_in(mesh):
            with envoy_paused(mesh, "api-1"):
                if opens:
                    revision = await mesh.delete(everything.ref, wait=False)
                else:
                    revision = await mesh.apply(everything, wait=False)

                async def sent() -> bool:
                    status = (await mesh.statuses())["api-1"]
                    return status.applied_revision >= revision > status.acked_revision

                await eventually("it is on its way", sent)
                await mesh.processes.kill("sidecar-api-1")
            await restart(mesh, "api-1")
        status = (await mesh.statuses())["api-1"]
        assert status.acked_revision >= revision
        assert {await mesh.status() for _ in range(4)} == {200 if opens else 403}
    finally:
        if not opens:
            await mesh.restore([everything.ref])
    assert await mesh.status() == 200
    await assert_runs_the_model(mesh, *EVERYBODY)


@pytest.mark.fault(27)
async def test_an_agent_that_starts_anew_with_a_refused_resource(mesh: E2eMesh) -> None:
    """The next agent meets the same refusal, says so, and what is in force stays as it was."""
    address = mesh.instances["api-1"].advertised
    extra: AnyObject = api_with(EXTRA)

    async def refused() -> bool:
        status = (await mesh.statuses()).get("api-1")
        return status is not None and any(nack.resource == "inbound|extra" for nack in status.nacks)

    (taken,) = await trio.open_tcp_listeners(EXTRA, host=address)
    before = mesh.log("sidecar-api-1").count(REFUSED_EXTRA)
    try:
        async with taken, open_loop(mesh) as load, nobody_let_in(mesh):
            await mesh.apply(extra, wait=False)
            await eventually("it is refused", refused)
            await mesh.processes.kill("sidecar-api-1")
            async with mesh.etcd("root") as etcd:  # what the dead agent has said is not to be taken for the new one's
                for kv in (await etcd.list(KEYS.statuses())).kvs:
                    if b"api-1" in kv.key:
                        await etcd.delete(kv.key)
            await mesh.local.restart_sidecar(mesh.instances["api-1"])
            await eventually("the next agent says that it is refused", refused)
            await load.more(5)
        assert load.failures == {}
    finally:
        await mesh.restore([extra.ref])
    said = mesh.log("sidecar-api-1")
    assert said.count(REFUSED_EXTRA) == before + 2  # once by each agent
    assert "Address already in use" in said
    await assert_runs_the_model(mesh, *EVERYBODY)


async def test_sidecars_restart_whole_with_etcd_and_replicas_dead(mesh: E2eMesh) -> None:
    """From the last known good on disk; `status` says which revision that is, and how stale."""
    names = ("web-1", "api-1", "reports-1")
    async with mesh.applied(NO_DELETES) as revision:
        for name in names:
            await _saved(mesh, name, revision)
        for process in ("etcd", *(f"replica-{one}" for one in mesh.local.replicas)):
            await mesh.processes.kill(process)
        async with open_loop(mesh) as load, nobody_let_in(mesh):
            await load.more(10)
        assert load.failures == {}
        for name in names:
            await mesh.processes.kill(f"sidecar-{name}")
            mesh.kill_envoy(name)
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(mesh.local.restart_sidecar, mesh.instances[name])
        async with nobody_let_in(mesh):
            assert await mesh.status() == 200
            assert await mesh.status(method="DELETE") == 403
            async with open_loop(mesh) as load:
                await load.more(10)
        assert load.failures == {}
        first = await _stale(mesh, "web-1")
        assert first["fromLastGood"]
        assert first["ackedRevision"] == first["appliedRevision"] >= revision
        assert first["agentRuns"]
        assert first["envoyRuns"]

        async def older() -> bool:
            return (await _stale(mesh, "web-1"))["staleSeconds"] > first["staleSeconds"]

        await eventually("it grows older", older)
        # Back again: everything heals by itself.
        await mesh.local.start_etcd()
        async with trio.open_nursery() as nursery:
            for replica in mesh.local.replicas:
                nursery.start_soon(mesh.local.start_replica, replica)
        await mesh.everyone_current()

        async def fresh() -> bool:
            status = await mesh.local.sidecar_status(mesh.instances["web-1"])
            return not status["staleSeconds"] and not status["fromLastGood"]

        await eventually("it is live again", fresh)
    await assert_runs_the_model(mesh, *EVERYBODY)


async def _saved(mesh: E2eMesh, name: str, revision: int) -> None:
    from dataplane import lastgood

    path: Path = mesh.local.state_dir(mesh.instances[name]) / "last-good.msgpack"

    def saved() -> bool:
        found = lastgood.read_file(path)
        return found is not None and found.revision >= revision

    await eventually(f"{name} has saved revision {revision}", saved)


async def _stale(mesh: E2eMesh, name: str) -> dict[str, int]:
    status = await mesh.local.sidecar_status(mesh.instances[name])
    assert status["staleSince"] is not None, json.dumps(status)
    return {key: int(value) for key, value in status.items() if isinstance(value, int)}
