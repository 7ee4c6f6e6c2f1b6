"""`apply`, `delete`, `validate`: outcomes, unknown outcomes, waiting, refusals, time-outs, Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import yaml

from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Problem
from tests.controlplane.meshadm.fake_replica import Cli, FakeReplica, serving, socket_in
from tests.schemas.values import BALANCING, POLICY, SERVICE
from trio_grpc import RpcAbort, StatusCode

MANIFEST = codec.dump_yaml([codec.to_builtins(SERVICE), codec.to_builtins(POLICY)])
SECOND = MANIFEST.splitlines().index("---") + 2  # the line at which the second object starts
PORT = next(number for number, line in enumerate(MANIFEST.splitlines(), 1) if "8080" in line)


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    path = tmp_path / "shop.yaml"
    path.write_text(MANIFEST)
    return str(path)


async def test_created_then_unchanged_then_updated(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    assert (await cli.ok("apply", "-f", manifest)).splitlines() == [
        "Service shop/orders created",
        "AuthorizationPolicy shop/web-may-order created",
        "2 objects changed at revision 11",
    ]
    assert await cli.ok("apply", "-f", manifest) == (
        "Service shop/orders unchanged\nAuthorizationPolicy shop/web-may-order unchanged\nnothing changed\n"
    )
    assert "Service shop/orders updated\n" in await cli.ok("apply", "-f", "-", stdin=MANIFEST.replace("8080", "8081"))
    first, second, _ = fake.seen(pb.ApplyRequest)
    assert isinstance(first, pb.ApplyRequest)
    assert isinstance(second, pb.ApplyRequest)
    assert first.request_id != second.request_id
    assert [change.source for change in first.changes] == [f"{manifest}:1", f"{manifest}:{SECOND}"]


async def test_standard_input_and_json(cli: Cli) -> None:
    plain = json.loads(await cli.ok("apply", "-f", "-", "-o", "json", stdin=MANIFEST))
    assert plain["revision"] == 11
    assert plain["dryRun"] is False
    assert plain["outcomes"][0] == {"kind": "Service", "namespace": "shop", "name": "orders", "action": "created"}
    assert yaml.safe_load(await cli.ok("apply", "-f", "-", "-o", "yaml", stdin=MANIFEST))["revision"] == 0


async def test_directory(cli: Cli, fake: FakeReplica, tmp_path: Path) -> None:
    (tmp_path / "conf" / "deeper").mkdir(parents=True)
    (tmp_path / "conf" / "b.yml").write_text(codec.dump_yaml([codec.to_builtins(SERVICE)]))
    (tmp_path / "conf" / "notes.txt").write_text("{")
    (tmp_path / "conf" / "deeper" / "c.json").write_text(json.dumps(codec.to_builtins(POLICY)))
    assert "1 object changed" in await cli.ok("apply", "-f", str(tmp_path / "conf"))
    assert "AuthorizationPolicy shop/web-may-order created" in await cli.ok("apply", "-R", "-f", str(tmp_path / "conf"))


async def test_dry_run_writes_nothing(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    out = await cli.ok("apply", "-f", manifest, "--dry-run", "--wait")
    assert "Service shop/orders created (dry run)" in out
    assert out.endswith("2 objects would change; nothing was written\n")
    assert not fake.objects


async def test_revision_in_the_file_is_a_condition(cli: Cli, fake: FakeReplica, tmp_path: Path) -> None:
    fake.add(SERVICE)
    shown = await cli.ok("get", "svc", "orders", "-n", "shop", "-o", "yaml")
    assert "updated" in await cli.ok("apply", "-f", "-", stdin=shown.replace("8080", "8081"))
    late = await cli("apply", "-f", "-", stdin=shown.replace("8080", "8082"))
    assert late.exit_code == 4
    assert "Service shop/orders has changed" in late.stderr


# -- bad input


async def test_every_problem_of_every_file(cli: Cli, fake: FakeReplica, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MANIFEST.replace("8080", "0"))
    (tmp_path / "b.yaml").write_text(MANIFEST.replace("kind: Service\n", "kind: Sevice\n"))
    result = await cli("apply", "-f", str(tmp_path / "a.yaml"), "-f", str(tmp_path / "b.yaml"))
    assert result.exit_code == 2
    assert (
        f"error: {tmp_path}/a.yaml:{PORT}: Service 'orders': $.spec.ports[0].port: expected a whole number"
        in result.stderr
    )
    assert f"error: {tmp_path}/b.yaml:2: $.kind: unknown kind 'Sevice'\n  remedy: did you mean" in result.stderr
    assert result.stdout == ""
    assert not fake.requests


async def test_errors_as_json(cli: Cli) -> None:
    result = await cli("apply", "-f", "-", "-o", "json", stdin=MANIFEST.replace("8080", "0"))
    error = json.loads(result.stderr)["error"]
    assert (error["code"], error["name"]) == (2, "BAD_INPUT")
    assert error["problems"][0]["path"] == "$.spec.ports[0].port"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00", "shop.yaml:1: not UTF-8 text"),
        (b"# nothing\n", "no object in it"),
        (MANIFEST.encode() + b"---\n" + MANIFEST.encode(), "stands here a second time"),
    ],
)
async def test_file_that_can_not_be_taken(cli: Cli, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "shop.yaml"
    path.write_bytes(content)
    result = await cli("apply", "-f", str(path))
    assert result.exit_code == 2
    assert said in result.stderr


async def test_the_same_object_in_two_files(cli: Cli, tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(MANIFEST)
    result = await cli("apply", "-f", str(tmp_path))
    assert result.exit_code == 2
    assert f"{tmp_path}/b.yaml:1: Service shop/orders stands here a second time, first at {tmp_path}/a.yaml:1" in (
        result.stderr
    )


async def test_missing_file_empty_directory_and_no_file(cli: Cli, tmp_path: Path) -> None:
    missing = await cli("apply", "-f", str(tmp_path / "none.yaml"))
    assert (missing.exit_code, "No such file" in missing.stderr) == (2, True)
    (tmp_path / "empty").mkdir()
    empty = await cli("apply", "-f", str(tmp_path / "empty"))
    assert (empty.exit_code, "no file in it that ends in .yaml" in empty.stderr) == (2, True)
    assert (await cli("apply")).exit_code == 2


async def test_the_replicas_problems_are_shown_as_ours(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    problem = Problem(
        "shop.yaml:1: Service shop/orders", "no service shop/payments", "$.spec.dependencies[0]", "add it"
    )
    listed = pb.ProblemList(
        problems=[
            pb.ProblemItem(subject=problem.subject, path=problem.path, message=problem.message, remedy=problem.remedy)
        ]
    )
    trailing = [("mesh-problems-bin", listed.SerializeToString())]
    fake.refuse["Apply"] = [RpcAbort(StatusCode.INVALID_ARGUMENT, str(problem), trailing)]
    result = await cli("apply", "-f", manifest)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: shop.yaml:1: Service shop/orders: $.spec.dependencies[0]: no service shop/payments\n  remedy: add it\n"
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (StatusCode.INVALID_ARGUMENT, 2),
        (StatusCode.NOT_FOUND, 3),
        (StatusCode.ABORTED, 4),
        (StatusCode.PERMISSION_DENIED, 6),
        (StatusCode.UNAUTHENTICATED, 6),
        (StatusCode.DATA_LOSS, 1),
        (StatusCode.INTERNAL, 1),
        (StatusCode.UNIMPLEMENTED, 1),
    ],
)
async def test_exit_code_of_each_answer(
    cli: Cli, fake: FakeReplica, manifest: str, code: StatusCode, expected: int
) -> None:
    fake.refuse["Apply"] = [RpcAbort(code, "the replica's words")]
    result = await cli("apply", "-f", manifest)
    assert result.exit_code == expected
    assert code is StatusCode.UNIMPLEMENTED or "the replica's words" in result.stderr
    assert len(fake.requests) == 1


# -- unknown outcomes


@pytest.mark.parametrize("code", [StatusCode.UNKNOWN, StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED])
async def test_unknown_outcome_is_asked_again_with_the_same_id(
    cli: Cli, fake: FakeReplica, manifest: str, code: StatusCode
) -> None:
    fake.refuse_after["Apply"] = [RpcAbort(code, "etcd did not answer")] * 2
    result = await cli("apply", "-f", manifest)
    assert result.exit_code == 0
    assert "Service shop/orders created" in result.stdout
    assert "asking again with the same request id" in result.stderr
    requests = fake.seen(pb.ApplyRequest)
    assert len(requests) == 3
    assert requests[0] == requests[1] == requests[2]
    assert fake.revision == 11


async def test_outcome_that_stays_unknown(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    fake.refuse["Apply"] = [RpcAbort(StatusCode.UNKNOWN, "etcd did not answer")] * 99
    result = await cli("apply", "-f", manifest, "--timeout", "250ms")
    assert result.exit_code == 5
    assert "etcd did not answer" in result.stderr
    assert "whether the write happened is unknown" in result.stderr


async def test_the_other_replica_finishes_what_one_left_unknown(
    fake: FakeReplica, tmp_path: Path, manifest: str
) -> None:
    broken = FakeReplica(refuse={"Apply": [RpcAbort(StatusCode.UNAVAILABLE, "Socket closed")] * 99})
    async with serving(broken, socket_in(tmp_path, "a")) as first, serving(fake, socket_in(tmp_path, "b")) as second:
        assert "created" in await Cli([first, second]).ok("apply", "-f", manifest)
    assert broken.seen(pb.ApplyRequest) == fake.seen(pb.ApplyRequest)


# -- waiting


def progress(total: int, acked: int, *pending: str, done: bool = False) -> pb.WaitProgress:
    return pb.WaitProgress(total=total, acked=acked, pending=pending, done=done)


async def test_wait_until_all_have_acked(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    fake.waits = [[progress(2, 0, "shop/b", "shop/a"), progress(2, 1, "shop/b"), progress(2, 2, done=True)]]
    result = await cli("apply", "-f", manifest, "--wait")
    assert result.exit_code == 0
    assert result.stdout.endswith("2 objects changed at revision 11\n2 sidecars run revision 11\n")
    assert result.stderr == (
        "0 of 2 sidecars run revision 11, waiting for shop/a, shop/b\n"
        "1 of 2 sidecars run revision 11, waiting for shop/b\n"
    )
    (wait,) = fake.seen(pb.WaitRequest)
    assert wait == pb.WaitRequest(revision=11)


async def test_wait_names_who_is_revoked(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    last = progress(1, 1, done=True)
    last.revoked.append("shop/orders.a")
    fake.waits = [[last], [last]]
    out = await cli.ok("apply", "-f", manifest, "--wait")
    assert out.endswith("1 sidecar runs revision 11\nrevoked, and not waited for: shop/orders.a\n")
    plain = json.loads(await cli.ok("apply", "-f", manifest, "--wait", "-o", "json"))
    assert plain["wait"]["revoked"] == ["shop/orders.a"]


async def test_wait_tells_when_what_is_open_and_no_longer_allowed_ends(
    cli: Cli, fake: FakeReplica, manifest: str
) -> None:
    last = progress(2, 2, done=True)
    last.open_bound_ms = 2000
    fake.waits = [[last], [last]]
    plain = json.loads(await cli.ok("apply", "-f", manifest, "--wait", "-o", "json"))["wait"]
    assert (plain["openBoundMs"], plain["passedBoundMs"], plain["uncut"], plain["boundUnknown"]) == (2000, None, [], [])
    said = (await cli.ok("apply", "-f", manifest, "--wait")).splitlines()
    assert said[-1] == "2 sidecars run revision 11; what is open and no longer allowed ends within 2 s"
    last.passed_bound_ms = 11_000
    last.bound_unknown.append("shop/orders.old")
    fake.waits = [[last]]
    said = (await cli.ok("apply", "-f", manifest, "--wait")).splitlines()  # an upgrade that is under way is no failure
    ends = "ends within 2 s, where bytes are passed on within 11 s"
    assert said[-2:] == [
        f"2 sidecars run revision 11; what is open and no longer allowed {ends}",
        "when it ends is not known of shop/orders.old: of an older version",
    ]


@pytest.mark.fault(24)
async def test_wait_fails_where_what_is_no_longer_allowed_goes_on(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    last = progress(2, 2, done=True)
    last.open_bound_ms = 2000
    last.uncut.add(sidecar="shop/orders.a", why="allow pidfd_getfd\x1b[2J")
    fake.waits = [[last], [last], [last]]
    result = await cli("apply", "-f", manifest, "--wait")
    assert result.exit_code == 11
    assert "ends within 2 s, but at 1 of them\n" in result.stdout
    assert result.stderr.startswith(
        "error: revision 11 is in force, but what is open and no longer allowed goes on at 1"
    )
    assert "shop/orders.a: allow pidfd_getfd\\x1b[2J\n" in result.stderr
    result = await cli("apply", "-f", manifest, "--wait", "-o", "json")
    assert (result.exit_code, json.loads(result.stderr)["error"]["name"]) == (11, "NOT_ENDED")
    assert json.loads(result.stdout)["wait"]["uncut"] == [
        {"sidecar": "shop/orders.a", "why": "allow pidfd_getfd\x1b[2J"}
    ]
    # What takes nothing from anybody is not held up by it.
    spread = codec.dump_yaml([codec.to_builtins(BALANCING)])
    assert "goes on at shop/orders.a: allow" in await cli.ok("apply", "-f", "-", "--wait", stdin=spread)


async def test_wait_of_an_unchanged_apply_waits_for_the_newest_configuration(
    cli: Cli, fake: FakeReplica, manifest: str
) -> None:
    await cli.ok("apply", "-f", manifest)
    assert "no sidecar is connected" in await cli.ok("apply", "-f", manifest, "--wait")
    assert fake.seen(pb.WaitRequest) == [pb.WaitRequest(revision=11)]


async def test_refusal_names_sidecar_resource_and_reason(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    refused = progress(2, 1, "shop/a")
    refused.refusals.add(sidecar="shop/a", resource="listener inbound", message="no such \x1b[2J filter")
    fake.waits = [[progress(2, 0, "shop/a", "shop/b"), refused]]
    result = await cli("apply", "-f", manifest, "--wait", "-o", "json")
    assert result.exit_code == 8
    assert json.loads(result.stdout)["wait"]["refusals"] == [
        {"sidecar": "shop/a", "resource": "listener inbound", "message": "no such \x1b[2J filter"}
    ]
    assert json.loads(result.stderr)["error"]["name"] == "REFUSED_BY_SIDECAR"
    fake.waits = [[refused]]
    result = await cli("apply", "-f", manifest, "--wait")
    assert result.exit_code == 8
    assert "shop/a: listener inbound: no such \\x1b[2J filter\n" in result.stderr
    assert "\x1b[2J" not in result.stderr


async def test_time_out_names_who_is_missing(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    fake.waits = [[progress(3, 1, "shop/b", "shop/a")]]
    result = await cli("apply", "-f", manifest, "--wait", "--timeout", "300ms")
    assert result.exit_code == 7
    assert "2 objects changed at revision 11" in result.stdout
    assert "error: revision 11 is written, and after 0.3 s not every sidecar runs it" in result.stderr
    assert "pending (2 of 3): shop/a, shop/b" in result.stderr


async def test_wait_goes_on_at_the_next_replica(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    fake.waits = [[progress(2, 1, "shop/a")], [progress(2, 2, done=True)]]
    result = await cli("apply", "-f", manifest, "--wait")
    assert result.exit_code == 0
    assert "going on with the next replica" in result.stderr
    assert len(fake.seen(pb.WaitRequest)) == 2


@pytest.mark.parametrize("when", ["waiting", "applying"])
async def test_interrupt_tells_what_became_of_the_change(
    cli: Cli, fake: FakeReplica, manifest: str, tmp_path: Path, when: str
) -> None:
    fake.waits = [[progress(1, 0, "shop/a")]]
    if when == "applying":
        fake.refuse["Apply"] = [RpcAbort(StatusCode.UNKNOWN, "busy")] * 999
    command = [sys.executable, "-m", "controlplane.meshadm", "apply", "-f", manifest, "--wait", "-e", *cli.endpoints]
    process = await trio.to_thread.run_sync(
        lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    )
    try:
        first = await trio.to_thread.run_sync(process.stderr.readline)  # type: ignore[union-attr]  # it is a pipe
        assert "waiting for shop/a" in first if when == "waiting" else "asking again" in first
        os.kill(process.pid, signal.SIGINT)
        out, said = await trio.to_thread.run_sync(process.communicate)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in said
    if when == "waiting":
        assert "changed at revision 11" in out
        assert "interrupted: the change itself is in, at revision 11" in said
    else:
        assert "whether the change was written is unknown" in said


# -- delete


async def test_delete_by_name_and_by_file(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    fake.add(SERVICE, POLICY)
    assert await cli.ok("delete", "services", "orders", "-n", "shop") == (
        "Service shop/orders deleted\n1 object changed at revision 13\n"
    )
    gone = await cli("delete", "-f", manifest)
    assert gone.exit_code == 3
    assert "Service shop/orders: does not exist" in gone.stderr
    assert await cli.ok("delete", "authz", "web-may-order", "-n", "shop", "--wait") == (
        "AuthorizationPolicy shop/web-may-order deleted\n1 object changed at revision 14\nno sidecar is connected\n"
    )
    assert not fake.objects


@pytest.mark.parametrize("args", [(), ("svc",), ("svc", "a", "-f", "x.yaml"), ("teapot", "a"), ("svc", "A_")])
async def test_delete_of_nothing_clear(cli: Cli, fake: FakeReplica, args: tuple[str, ...]) -> None:
    result = await cli("delete", *args)
    assert result.exit_code == 2
    assert not fake.requests


# -- validate


async def test_validate_needs_no_replica(manifest: str) -> None:
    out = await Cli(["unix:/nonexistent/api.sock"]).ok("validate", "-f", manifest)
    assert re.fullmatch(rf"{manifest}:1: Service shop/orders is valid\n.*\n2 objects are valid \(schema only\)\n", out)
    plain = json.loads(await Cli(["unix:/nonexistent"]).ok("validate", "-f", manifest, "-o", "json"))
    assert [one["name"] for one in plain["valid"]] == ["orders", "web-may-order"]
    bad = await Cli([])("validate", "-f", "-", stdin=MANIFEST.replace("8080", "x"))
    assert bad.exit_code == 2


async def test_validate_with_a_replica(cli: Cli, fake: FakeReplica, manifest: str) -> None:
    assert (await cli.ok("validate", "-f", manifest, "--server")).endswith("2 objects are valid\n")
    assert json.loads(await cli.ok("validate", "-f", manifest, "--server", "-o", "json"))["dryRun"] is True
    assert not fake.objects
