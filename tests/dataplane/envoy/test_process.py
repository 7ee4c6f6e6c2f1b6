"""The Envoy process with the real Envoy: start, ready, crash, adoption, drain, stop."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dataplane.envoy import child
from dataplane.envoy.child import Child, EnvoyMissing, find_envoy
from dataplane.envoy.lifecycle import DrainPlan, PidRecord
from dataplane.envoy.process import Adopted, Crashed, EnvoyProcess, Started
from schemas.errors import Conflict, Unavailable
from tests.dataplane.envoy.support import (
    QUICK,
    Events,
    empty_ads,
    given,
    running,
    settings,
    static_bootstrap,
)
from tests.support.envoy import envoy_path
from tests.support.net import eventually, free_port, free_ports

SECONDS = 20.0  # a bound for a busy machine


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short: a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="envoy-") as name:
        yield Path(name)


def process(directory: Path, port: int, upstream: int = 1, events: Events | None = None) -> EnvoyProcess:
    return EnvoyProcess(
        settings(directory, static_bootstrap(directory, port, upstream)),
        environ=os.environ,
        on_event=events or Events(),
    )


async def status_of(port: int, path: str = "/") -> int:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while chunk := await stream.receive_some():
            head += chunk
        return int(head.split(b" ")[1])


def gone(pid: int) -> bool:
    return child.look(pid) is None


async def test_envoy_is_ready_only_with_configuration_and_tells_its_version(directory: Path) -> None:
    from dataplane.envoy.bootstrap import bootstrap, render

    envoy = EnvoyProcess(settings(directory, render(bootstrap(given(directory)))), environ=os.environ)
    with trio.fail_after(SECONDS):
        async with running(envoy):
            await eventually("the admin interface answers", lambda: _answers(envoy))
            assert not await envoy.admin.ready()
            assert await envoy.admin.version() == "1.40.0"
            async with empty_ads(directory) as asked:
                await envoy.ready()
                assert asked == ["Runtime", "Cluster", "Listener"]
                dump = await envoy.admin.config_dump()
                assert any(part["@type"].endswith("BootstrapConfigDump") for part in dump["configs"])


async def _answers(envoy: EnvoyProcess) -> bool:
    try:
        await envoy.admin.get("/ready")
    except Unavailable:
        return False
    return True


async def test_stop_leaves_nothing(directory: Path) -> None:
    envoy = process(directory, free_port())
    with trio.fail_after(SECONDS):
        async with running(envoy):
            await envoy.ready()
            pid = envoy.pid
            assert pid is not None
            await envoy.stop(QUICK)
    assert gone(pid)
    assert sorted(os.listdir(directory)) == ["agent.lock", "envoy.json"]


async def test_envoy_runs_in_its_own_session_with_the_hard_limit_of_descriptors(directory: Path) -> None:
    import resource

    envoy = process(directory, free_port())
    with trio.fail_after(SECONDS):
        async with running(envoy):
            assert envoy.pid is not None
            assert os.getsid(envoy.pid) == envoy.pid
            soft, hard = resource.prlimit(envoy.pid, resource.RLIMIT_NOFILE)
            assert soft == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


async def test_a_crash_is_reported_and_envoy_is_started_at_once(directory: Path) -> None:
    events = Events()
    port = free_port()
    envoy = process(directory, port, events=events)
    with trio.fail_after(SECONDS):
        async with running(envoy):
            await envoy.ready()
            first = envoy.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)  # our own child, not reaped: the pid is still its
            crash = await events.wait_for(Crashed)
            assert crash == Crashed(first, -signal.SIGKILL, 1, 0.0)
            await events.wait_for(Started, 2)
            await envoy.ready()
            assert envoy.pid != first
            assert await status_of(port) == 200


async def test_an_envoy_that_cannot_start_is_tried_again_with_backoff(directory: Path) -> None:
    events = Events()
    broken = dataclasses.replace(settings(directory, b"{}"), bootstrap=b'{"nonsense": 1}')
    envoy = EnvoyProcess(broken, environ=os.environ, on_event=events)
    with trio.fail_after(SECONDS):
        async with running(envoy):
            third = await events.wait_for(Crashed, 3)
    assert isinstance(third, Crashed)
    assert (third.exit_code, third.in_a_row, third.delay) == (1, 3, 0.2)


def _envoy_of_an_agent_that_was_killed(directory: Path, port: int) -> int:
    command = [sys.executable, "-m", "tests.dataplane.envoy.agent_main", str(directory), str(port)]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    with agent:
        assert agent.stdout is not None
        pid, adopted = agent.stdout.readline().split()
        agent.kill()
    assert adopted == "False"
    return int(pid)


async def test_envoy_survives_its_agent_and_the_next_agent_adopts_it(directory: Path) -> None:
    port = free_port()
    pid = await trio.to_thread.run_sync(_envoy_of_an_agent_that_was_killed, directory, port)
    events = Events()
    envoy = process(directory, port, events=events)
    with trio.fail_after(SECONDS):
        assert await status_of(port) == 200
        async with running(envoy) as adopted:
            assert adopted
            assert envoy.pid == pid
            assert events.all == [Adopted(pid)]
            await envoy.ready()
            # The adopted one is watched like one's own.
            os.kill(pid, signal.SIGKILL)
            crash = await events.wait_for(Crashed)
            assert isinstance(crash, Crashed)
            assert crash.pid == pid
            await envoy.ready()
            assert await status_of(port) == 200
    assert gone(pid)


async def test_another_bootstrap_replaces_the_running_envoy(directory: Path) -> None:
    before, after = free_ports(2)
    with trio.fail_after(SECONDS):
        first = await _leave_running(process(directory, before))
        async with running(process(directory, after)) as adopted:
            assert not adopted
            assert gone(first)
            await eventually("the new one listens", lambda: _ok(after))
            with pytest.raises(OSError, match="all attempts to connect"):
                await status_of(before)


async def _ok(port: int) -> bool:
    try:
        return await status_of(port) == 200
    except OSError:
        return False


async def _leave_running(envoy: EnvoyProcess) -> int:
    """As an agent that was cancelled does."""
    async with trio.open_nursery() as nursery:
        await nursery.start(envoy.run)
        await envoy.ready()
        pid = envoy.pid
        nursery.cancel_scope.cancel()
    assert pid is not None
    return pid


async def test_an_envoy_that_no_pid_file_knows_is_ended(directory: Path) -> None:
    port = free_port()
    with trio.fail_after(SECONDS):
        lost = await _leave_running(process(directory, port))
        (directory / "envoy.pid").unlink()
        async with running(process(directory, port)) as adopted:
            assert not adopted
            assert gone(lost)


async def test_a_reused_pid_is_never_signalled(directory: Path) -> None:
    stranger = await trio.lowlevel.open_process(["sleep", "60"])
    try:
        found = Child.find(stranger.pid)
        assert found is not None
        found[0].close()
        envoy = process(directory, free_port())
        record = PidRecord(stranger.pid, found[1].start_ticks - 1, child.boot_id(), "0", str(envoy_path()))
        child.write_record(directory / "envoy.pid", record)
        with trio.fail_after(SECONDS):
            async with running(envoy) as adopted:
                assert not adopted
                await envoy.ready()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        with trio.CancelScope(shield=True):
            await stranger.wait()


async def test_a_damaged_pid_file_means_a_new_start(directory: Path) -> None:
    (directory / "envoy.pid").write_bytes(b"\x00garbage")
    envoy = process(directory, free_port())
    with trio.fail_after(SECONDS):
        async with running(envoy) as adopted:
            assert not adopted
            await envoy.ready()


async def test_two_agents_never_share_a_runtime_directory(directory: Path) -> None:
    port = free_port()
    with trio.fail_after(SECONDS):
        async with running(process(directory, port)):
            with pytest.raises(Conflict, match="another agent runs"):
                await process(directory, port).run()


async def test_stop_waits_for_the_request_in_flight(directory: Path) -> None:
    port, upstream = free_ports(2)
    arrived, release = trio.Event(), trio.Event()
    stopped: list[str] = []

    async def app(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        arrived.set()
        await release.wait()
        stopped.append("answered")
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async def stop() -> None:
        await envoy.stop(DrainPlan(settle=0, bound=SECONDS))
        stopped.append("stopped")

    envoy = process(directory, port, upstream)
    answers: list[int] = []
    with trio.fail_after(2 * SECONDS):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(upstream, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, app, listeners)
            async with running(envoy), trio.open_nursery() as calls:
                await envoy.ready()

                async def call() -> None:
                    answers.append(await status_of(port, "/up"))

                calls.start_soon(call)
                await arrived.wait()
                assert (await envoy.admin.activity()).requests == 1
                calls.start_soon(stop)
                await eventually("the drain has begun", lambda: _draining(envoy))
                assert envoy.pid is not None
                release.set()
            nursery.cancel_scope.cancel()
    assert answers == [200]
    assert stopped == ["answered", "stopped"]


async def _draining(envoy: EnvoyProcess) -> bool:
    return b"DRAINING" in (await envoy.admin.get("/server_info")).body


async def test_stop_waits_for_an_open_tcp_connection(directory: Path) -> None:
    port, upstream = free_ports(2)
    stopped = trio.Event()

    async def echo(stream: trio.SocketStream) -> None:
        while data := await stream.receive_some():
            await stream.send_all(data)

    async def stop() -> None:
        await envoy.stop(DrainPlan(settle=0, bound=SECONDS))
        stopped.set()

    envoy = EnvoyProcess(settings(directory, static_bootstrap(directory, port, upstream, tcp=True)), environ=os.environ)
    with trio.fail_after(2 * SECONDS):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(upstream, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, echo, listeners)
            async with running(envoy):
                await envoy.ready()
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                await stream.send_all(b"before")
                assert await stream.receive_some() == b"before"
                assert (await envoy.admin.activity()).tcp_connections == 1
                nursery.start_soon(stop)
                await eventually("the drain has begun", lambda: _draining(envoy))
                await stream.send_all(b"after")
                assert await stream.receive_some() == b"after"
                assert not stopped.is_set()
                await stream.aclose()
                await stopped.wait()
            nursery.cancel_scope.cancel()


async def test_who_only_reads_the_bootstrap_is_left_alone(directory: Path) -> None:
    reader = await trio.lowlevel.open_process(["tail", "-F", str(directory / "envoy.json")], stderr=subprocess.DEVNULL)
    try:
        with trio.fail_after(SECONDS):
            async with running(process(directory, free_port())):
                assert reader.poll() is None
    finally:
        reader.kill()
        with trio.CancelScope(shield=True):
            await reader.wait()


async def test_a_request_that_never_ends_does_not_hold_the_stop_beyond_its_bound(directory: Path) -> None:
    port, upstream = free_ports(2)
    arrived = trio.Event()

    async def app(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        arrived.set()
        await trio.sleep_forever()

    envoy = process(directory, port, upstream)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(upstream, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, app, listeners)
            async with running(envoy):
                await envoy.ready()
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                await stream.send_all(b"GET /up HTTP/1.1\r\nHost: test\r\n\r\n")
                await arrived.wait()
                pid = envoy.pid
                assert pid is not None
                await envoy.stop(DrainPlan(settle=0, bound=0.3, terminate=10))
                assert gone(pid)
                await stream.aclose()
            nursery.cancel_scope.cancel()


async def test_a_frozen_envoy_is_killed(directory: Path) -> None:
    envoy = process(directory, free_port())
    with trio.fail_after(SECONDS):
        async with running(envoy):
            await envoy.ready()
            pid = envoy.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            await envoy.stop(DrainPlan(settle=0, bound=0.2, terminate=0.2))
            assert gone(pid)


def test_no_envoy_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(EnvoyMissing, match=r"no Envoy: .*nothing \(from \$MESH_ENVOY\)"):
        find_envoy({"MESH_ENVOY": str(tmp_path / "nothing")})
    unusable = tmp_path / "envoy"
    unusable.write_text("not a program")
    with pytest.raises(EnvoyMissing, match="may run"):
        find_envoy({"MESH_ENVOY": str(unusable)})
    assert find_envoy({}) == str(envoy_path().resolve())


async def test_a_program_that_cannot_be_executed_is_one_clear_error(directory: Path) -> None:
    bad = directory / "envoy"
    bad.write_bytes(b"\x7fELF but not really")
    bad.chmod(0o755)
    envoy = EnvoyProcess(dataclasses.replace(settings(directory, b"{}"), executable=str(bad)), environ=os.environ)
    with pytest.raises(EnvoyMissing, match="can't be started"):
        await envoy.run()


async def test_the_admin_tells_when_nobody_answers(directory: Path) -> None:
    envoy = process(directory, free_port())
    with pytest.raises(Unavailable, match="does not answer GET /ready"):
        await envoy.admin.ready()
