"""The command line against real replicas and a real etcd: what the fake can't be wrong about."""

import json
import os
import socket
from pathlib import Path

import pytest
import trio

from controlplane.config import load as load_config
from schemas import joinfile
from schemas.api import mesh_pb2 as pb
from schemas.records import Nack, OpenStreams
from tests.controlplane.meshadm.fake_replica import Cli, run_cli
from tests.controlplane.replica import Caller, Joined, Mesh, Replica
from tests.support.net import free_port

SERVICE = """\
apiVersion: mesh/v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  ports: [{{name: http, port: {port}, protocol: http}}]
  dependencies: []
"""


@pytest.fixture
def cli(replica: Replica) -> Cli:
    return Cli([f"unix:{replica.config.listen.socket}"])


def shop(namespace: str, name: str = "orders", port: int = 8080) -> str:
    return SERVICE.format(name=name, namespace=namespace, port=port)


async def test_an_object_from_its_file_to_its_end(cli: Cli, namespace: str) -> None:
    text = shop(namespace)
    assert f"Service {namespace}/orders created (dry run)" in await cli.ok("apply", "-f", "-", "--dry-run", stdin=text)
    assert (await cli("get", "svc", "orders", "-n", namespace)).exit_code == 3
    assert f"Service {namespace}/orders created\n" in await cli.ok("apply", "-f", "-", stdin=text)
    assert f"Service {namespace}/orders unchanged\n" in await cli.ok("apply", "-f", "-", stdin=text)
    assert "http:8080/http" in await cli.ok("get", "services", "-n", namespace)
    shown = await cli.ok("get", "svc", "orders", "-n", namespace, "-o", "yaml")
    assert "updated" in await cli.ok("apply", "-f", "-", stdin=shown.replace("8080", "8081"))
    assert (await cli("apply", "-f", "-", stdin=shown.replace("8080", "8082"))).exit_code == 4
    described = await cli.ok("describe", "svc", "orders", "-n", namespace)
    depending = described.partition("Depending services:")[2].partition("Sidecars:")[0]
    assert depending  # services of other tests may depend on everything; of this namespace there is no other
    assert namespace not in depending
    assert "deleted" in await cli.ok("delete", "svc", "orders", "-n", namespace)
    assert (await cli("delete", "svc", "orders", "-n", namespace)).exit_code == 3


async def test_a_reference_to_nothing_is_refused_whole(cli: Cli, namespace: str) -> None:
    lost = (
        f"apiVersion: mesh/v1\nkind: BackendTrafficPolicy\nmetadata: {{name: a, namespace: {namespace}}}\n"
        "spec: {targetRefs: [{name: nobody}]}\n"
    )
    both = f"{shop(namespace)}---\n{lost}"
    assert (await cli("validate", "-f", "-", stdin=both)).exit_code == 0
    for command in (("apply", "-f", "-"), ("validate", "--server", "-f", "-")):
        result = await cli(*command, stdin=both)
        assert result.exit_code == 2
        assert "standard input:8" in result.stderr
        assert "nobody" in result.stderr
    assert "no object" in await cli.ok("get", "svc", "-n", namespace)


async def test_an_identity_is_revoked_and_restored(cli: Cli, namespace: str) -> None:
    name = f"{namespace}/orders"
    assert (await cli("identity", "restore", name)).exit_code == 4
    assert f"identity of {name} is revoked" in await cli.ok("identity", "revoke", name, "--reason", "stolen")
    assert (await cli("identity", "revoke", name)).exit_code == 4
    (row,) = [line for line in (await cli.ok("identity", "revocations")).splitlines() if name in line]
    assert "revoked" in row
    assert "stolen" in row
    assert f"identity of {name} is restored" in await cli.ok("identity", "restore", name)
    shown = json.loads(await cli.ok("identity", "revocations", "-o", "json"))["revocations"]
    assert [one["revoked"] for one in shown if one["namespace"] == namespace] == [False]
    assert (await cli("identity", "revoke", "orders")).exit_code == 2


async def test_two_replicas_and_one_is_gone(
    cli: Cli, namespace: str, second_replica: Replica, replica: Replica
) -> None:
    both = Cli([*cli.endpoints, f"unix:{second_replica.config.listen.socket}"])
    assert "created" in await both.ok("apply", "-f", "-", stdin=shop(namespace))
    replica.stop.set()
    await _until_gone(replica.config.listen.socket)
    assert "updated" in await both.ok("apply", "-f", "-", stdin=shop(namespace, port=81))


async def _until_gone(path: str) -> None:
    with trio.fail_after(20):
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(path)
                except OSError:
                    return
            await trio.sleep(0.02)


async def test_watch_shows_what_is_written(cli: Cli, namespace: str) -> None:
    await cli.ok("apply", "-f", "-", stdin=shop(namespace))
    plain = json.loads(await cli.ok("get", "svc", "orders", "-n", namespace, "-o", "json"))
    before = str(plain["metadata"]["revision"] - 1)
    await cli.ok("delete", "svc", "orders", "-n", namespace)
    out = await cli.ok("watch", "-n", namespace, "--after-revision", before, "--count", "2", "-o", "json")
    put, deleted = map(json.loads, out.splitlines())
    assert (put["action"], put["of"]) == ("put", f"Service {namespace}/orders")
    assert put["value"]["spec"]["ports"][0]["port"] == 8080
    assert (deleted["action"], deleted["revision"] > put["revision"]) == ("delete", True)


async def test_token_lets_a_host_join(cli: Cli, namespace: str, replica: Replica, tmp_path: Path) -> None:
    out = tmp_path / "orders.join"
    await cli.ok("token", "create", "--service", f"orders.{namespace}", "--out", str(out))
    found = joinfile.load(out.read_bytes(), "f")
    assert found.token.startswith("mjt1.")
    assert [address.partition(":")[0] for address in found.join_endpoints] == ["127.0.0.1"]
    assert found.trust_domain == "shop.example"


# -- sidecars


async def _report(sidecar: Joined, caller: Caller, lease: int, revision: int, **more: object) -> None:
    fields = {"applied_revision": revision, "acked_revision": revision, "svid_expires": 4_000_000_000, **more}
    await sidecar.report(caller, "orders-1", lease, **fields)


async def _revision_after(replica: Replica, revision: int) -> int:
    async with replica.admin() as admin:
        with trio.fail_after(15):
            while True:
                reply = await admin.call("Sidecars/List", pb.ListSidecarsRequest(), pb.ListSidecarsReply)
                if reply.config_revision > revision:
                    return reply.config_revision


async def test_wait_and_status_follow_a_sidecars_reports(
    cli: Cli, namespace: str, replica: Replica, mesh: Mesh
) -> None:
    async with mesh.client() as etcd:  # of other tests, whose leases have not ended yet: --wait waits for all
        await etcd.delete_prefix(mesh.keyspace.statuses())
    await cli.ok("apply", "-f", "-", stdin=shop(namespace))
    sidecar = await replica.join("orders", namespace)
    async with sidecar.calls() as caller:
        lease = (await sidecar.register(caller, "orders-1")).lease_id
        await _report(sidecar, caller, lease, 0)

        late = await cli("apply", "-f", "-", "--wait", "--timeout", "1s", stdin=shop(namespace, port=81))
        assert late.exit_code == 7
        assert f"{namespace}/orders.orders-1" in late.stderr

        newest = json.loads(await cli.ok("status", "-n", namespace, "-o", "json"))["configRevision"]
        await _report(sidecar, caller, lease, newest)
        assert "current" in await cli.ok("status", "-n", namespace)
        assert "1 sidecar runs revision" in await cli.ok("apply", "-f", "-", "--wait", stdin=shop(namespace, port=81))

        said = OpenStreams(bound_ms=0, problem="allow pidfd_getfd")
        await _report(sidecar, caller, lease, newest, open_streams=said)
        uncut = await cli("apply", "-f", "-", "--wait", stdin=shop(namespace, port=81))
        assert uncut.exit_code == 11
        assert f"{namespace}/orders.orders-1: allow pidfd_getfd" in uncut.stderr

        async with trio.open_nursery() as nursery:

            async def refuse_the_next() -> None:
                revision = await _revision_after(replica, newest)
                nack = Nack(type_url="t", resource="inbound", message="no such filter", revision=revision)
                await _report(sidecar, caller, lease, newest, nacks=(nack,))

            nursery.start_soon(refuse_the_next)
            refused = await cli("apply", "-f", "-", "--wait", "--timeout", "20s", stdin=shop(namespace, port=82))
        assert refused.exit_code == 8
        assert f"{namespace}/orders.orders-1: t inbound: no such filter" in refused.stderr
        assert (await cli("status", "-n", namespace)).exit_code == 8


# -- init


async def test_init_from_files_to_a_mesh_and_again(tmp_path: Path, mesh: Mesh) -> None:
    directory = tmp_path / "mesh"
    port = free_port()
    common = ["init", "--trust-domain", "example.org", "--dir", str(directory), "--etcd", f"127.0.0.1:{port}"]
    first = await run_cli([*common, "--files-only"], {})
    assert first.exit_code == 0, first.stderr
    assert first.stdout.endswith(
        "the files are ready; start etcd with them and run the same command without --files-only\n"
    )
    assert os.stat(directory / "kek").st_mode & 0o777 == 0o600
    assert load_config(directory / "controlplane.yaml").etcd.endpoints == (f"127.0.0.1:{port}",)
    again = json.loads((await run_cli([*common, "--files-only", "-o", "json"], {})).stdout)
    assert {step["outcome"] for step in again["steps"]} == {"already"}
    assert (again["complete"], again["created"]) == (False, False)
    unreachable = await run_cli([*common, "--etcd-timeout", "200ms"], {})
    assert unreachable.exit_code == 5
    assert f"127.0.0.1:{port}" in unreachable.stderr


async def test_init_of_a_mesh_that_exists_says_so(mesh: Mesh) -> None:
    args = ["init", "--trust-domain", "shop.example", "--dir", str(mesh.directory), "--etcd", mesh.etcd.endpoint]
    result = await run_cli([*args, "--allow-known-bad-etcd"], {})
    assert result.exit_code == 0, result.stderr
    assert "the mesh shop.example was there already\n" in result.stdout
    other = await run_cli(["init", "--trust-domain", "Bad_Domain!", "--dir", str(mesh.directory)], {})
    assert other.exit_code == 2
