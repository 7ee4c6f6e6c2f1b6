"""The etcd servers that other tests stand on: they start, freeze, crash and come back with their data."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest
import trio

from deploy.etcd import EtcdBinary
from tests.conftest import EtcdClusterFactory, EtcdFactory
from tests.support.etcd_server import EtcdServer, remove_data_of_dead_runs
from tests.support.net import eventually, free_ports, wait_port
from tests.support.pki import Authority


async def test_shared_server_accepts_connections(etcd_endpoint: str) -> None:
    host, port = etcd_endpoint.split(":")
    await wait_port(host, int(port))


async def test_data_outlives_a_crash_and_a_stop(etcd_factory: EtcdFactory) -> None:
    server = await etcd_factory()
    await server.ctl("put", "key", "value")
    first = server.pid
    await server.restart(kill=True)
    assert server.pid != first
    assert await server.ctl("get", "key", "--print-value-only") == "value"
    await server.restart()
    assert await server.ctl("get", "key", "--print-value-only") == "value"


async def test_a_frozen_server_answers_again_when_resumed(etcd_factory: EtcdFactory) -> None:
    server = await etcd_factory()
    server.pause()
    stalled = await server.ctl("--command-timeout=200ms", "get", "key", check=False)
    assert "deadline exceeded" in stalled
    server.resume()
    await server.wait_healthy()
    await server.ctl("get", "key")


async def test_close_ends_a_frozen_server_and_removes_its_data(etcd_factory: EtcdFactory) -> None:
    server = await etcd_factory()
    pid, data = server.pid, server.data_dir
    server.pause()
    server.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not data.exists()
    assert server not in EtcdServer.running


async def test_tls_wants_a_client_certificate_and_takes_the_user_from_it(
    etcd_factory: EtcdFactory, tmp_path: Path
) -> None:
    authority = Authority.create()
    server = await etcd_factory(tls=authority.issue(ip=["127.0.0.1"]).write(tmp_path, "server"))
    root = authority.issue("root").write(tmp_path, "root")
    reader = authority.issue("reader", uri="spiffe://example.org/ns/a/svc/b").write(tmp_path, "reader")
    stranger = Authority.create("another root").issue("root")
    forged = stranger.write(tmp_path, "forged")
    (tmp_path / "forged.ca.crt").write_bytes(authority.pem)

    for command in (
        ["user", "add", "root", "--no-password"],
        ["user", "grant-role", "root", "root"],
        ["role", "add", "reads-a"],
        ["role", "grant-permission", "reads-a", "--prefix=true", "read", "/a/"],
        ["user", "add", "reader", "--no-password"],
        ["user", "grant-role", "reader", "reads-a"],
        ["auth", "enable"],
    ):
        await server.ctl(*command, client=root)
    await server.ctl("put", "/a/key", "value", client=root)

    assert await server.ctl("get", "/a/key", "--print-value-only", client=reader) == "value"
    assert "permission denied" in await server.ctl("put", "/a/key", "other", client=reader, check=False)
    assert "permission denied" in await server.ctl("get", "/b/key", client=reader, check=False)
    refused = await server.ctl("--command-timeout=1s", "get", "/a/key", client=forged, check=False)
    assert "value" not in refused
    assert "context deadline exceeded" in refused


async def test_a_cluster_goes_on_without_its_leader(etcd_cluster: EtcdClusterFactory) -> None:
    servers = await etcd_cluster(3)
    await servers[0].ctl("put", "key", "value")
    leaders = [server for server in servers if "true" in (await _status_fields(server))[4]]
    assert len(leaders) == 1
    await leaders[0].kill()
    others = [server for server in servers if server is not leaders[0]]
    await others[0].wait_healthy()
    assert await others[1].ctl("get", "key", "--print-value-only") == "value"


async def _status_fields(server: EtcdServer) -> list[str]:
    # endpoint, member id, version, database size, is leader, …
    return [field.strip() for field in (await server.ctl("endpoint", "status")).split(",")]


async def test_a_server_that_cannot_start_says_why(etcd_factory: EtcdFactory) -> None:
    with pytest.raises(AssertionError, match="no-such-flag"):
        await etcd_factory(extra=["--no-such-flag"])


def test_data_of_a_dead_run_is_removed_and_that_of_a_living_one_kept(etcd_binary: EtcdBinary) -> None:
    living = EtcdServer(etcd_binary)
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead = living.data_dir.parent.with_name(f"hostmesh-test-{ended.pid}-x")
    dead.mkdir()
    try:
        remove_data_of_dead_runs()
        assert not dead.exists()
        assert living.data_dir.parent.exists()
    finally:
        living.close()


async def test_wait_port_gives_up_in_time() -> None:
    (port,) = free_ports(1)
    with pytest.raises(AssertionError, match=f"127.0.0.1:{port}"):
        await wait_port("127.0.0.1", port, seconds=0.05)


async def test_eventually_takes_sync_and_async_checks() -> None:
    counter = itertools.count()
    await eventually("the third answer", lambda: next(counter) == 2)

    async def sixth() -> bool:
        await trio.lowlevel.checkpoint()
        return next(counter) == 5

    await eventually("the sixth answer", sixth)
    assert next(counter) == 6


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(50))) == 50
    assert len(set(free_ports(3, "::1"))) == 3
