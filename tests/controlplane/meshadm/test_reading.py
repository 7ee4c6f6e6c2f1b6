"""`get`, `describe`, `status`, `watch`, `token create`: what is shown, in each form."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from schemas import codec, joinfile
from schemas.api import mesh_pb2 as pb
from schemas.records import Endpoint, Nack, OpenStreams, Revocation, SidecarStatus
from tests.controlplane.meshadm.fake_replica import Cli, FakeReplica
from tests.schemas.values import LIMITS, MESH, OBJECTS, POLICY, SERVICE
from trio_grpc import RpcAbort, StatusCode

FAR = 4_000_000_000  # 2096


def sidecar(instance: str, **changes: Any) -> SidecarStatus:
    plain: dict[str, Any] = {
        "service": "orders",
        "namespace": "shop",
        "instance": instance,
        "applied_revision": 10,
        "acked_revision": 10,
        "svid_expires": FAR,
    }
    return SidecarStatus(**(plain | changes))


def cells(table: str) -> list[list[str]]:
    return [[cell for cell in line.split("  ") if cell] for line in table.splitlines()]


# -- get


async def test_get_table_of_each_kind(cli: Cli, fake: FakeReplica) -> None:
    fake.add(*OBJECTS)
    assert [[cell.strip() for cell in row] for row in cells(await cli.ok("get", "svc", "-n", "shop"))] == [
        ["NAMESPACE", "NAME", "PORTS", "DEPENDENCIES", "VIRTUAL ADDRESS", "REVISION"],
        ["shop", "orders", "web:8080/http, db:5432/tcp", "payments.money", "127.240.3.4", "11"],
    ]
    for kind, said in {
        "mesh": "example.org",
        "AuthorizationPolicies": "ALLOW",
        "btp": "RoundRobin",
        "BackendTrafficPolicy": "RoundRobin",
        "rlp": "10/Minute",
    }.items():
        assert said in await cli.ok("get", kind, "-A")


async def test_get_of_a_namespace_of_all_and_of_none(cli: Cli, fake: FakeReplica) -> None:
    fake.add(SERVICE)
    assert await cli.ok("get", "services") == "no object of kind Service in namespace default (-A: all)\n"
    assert "orders" in await cli.ok("get", "services", "-A")
    namespaces = [request.namespace for request in fake.seen(pb.ListRequest) if isinstance(request, pb.ListRequest)]
    assert namespaces == ["default", ""]


async def test_get_one_as_json_and_yaml(cli: Cli, fake: FakeReplica) -> None:
    fake.add(SERVICE)
    plain = json.loads(await cli.ok("get", "Service", "orders", "-n", "shop", "-o", "json"))
    assert plain == {**codec.to_builtins(SERVICE), "metadata": {**plain["metadata"], "revision": 11}}
    (again,) = codec.load_yaml(await cli.ok("get", "svc", "orders", "-n", "shop", "-o", "yaml"), "f")
    assert again.object.spec == SERVICE.spec


async def test_get_list_as_json_and_yaml(cli: Cli, fake: FakeReplica) -> None:
    fake.add(*OBJECTS)
    listed = json.loads(await cli.ok("get", "svc", "-A", "-o", "json"))
    assert (listed["kind"], listed["revision"], len(listed["items"])) == ("List", 10 + len(OBJECTS), 1)
    assert [one["kind"] for one in yaml.safe_load_all(await cli.ok("get", "svc", "-A", "-o", "yaml"))] == ["Service"]
    assert json.loads(await cli.ok("get", "svc", "-n", "x", "-o", "json"))["items"] == []


async def test_mesh_needs_no_namespace(cli: Cli, fake: FakeReplica) -> None:
    fake.add(MESH)
    assert "600s" in await cli.ok("get", "mesh", "mesh")
    assert "600s" in await cli.ok("get", "meshes")


async def test_get_what_is_not_there(cli: Cli) -> None:
    result = await cli("get", "svc", "nobody", "-n", "shop")
    assert result.exit_code == 3
    assert result.stderr == "error: Service shop/nobody does not exist\n"


async def test_an_unreadable_object_does_not_hide_the_others(cli: Cli, fake: FakeReplica) -> None:
    fake.add(SERVICE)
    fake.objects["Service", "shop", "broken"] = (b"\xc1", 12)
    result = await cli("get", "svc", "-n", "shop")
    assert result.exit_code == 0
    assert "orders" in result.stdout
    assert "left out: Service shop/broken: not MessagePack" in result.stderr
    one = await cli("get", "svc", "broken", "-n", "shop")
    assert (one.exit_code, "not MessagePack" in one.stderr) == (1, True)


@pytest.mark.parametrize("args", [("get",), ("get", "svcs"), ("get", "svc", "a", "-A"), ("get", "svc", "A!")])
async def test_get_misused(cli: Cli, fake: FakeReplica, args: tuple[str, ...]) -> None:
    assert (await cli(*args)).exit_code == 2
    assert not fake.requests


# -- describe


async def test_describe_service_tells_what_belongs_to_it(cli: Cli, fake: FakeReplica) -> None:
    web = codec.load_yaml(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n"
        "spec: {ports: [{name: w, port: 1, protocol: http}], dependencies: [{name: orders}]}\n",
        "f",
    )[0].object
    loner = codec.load_yaml(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {name: loner, namespace: shop}\n"
        "spec: {ports: [{name: w, port: 1, protocol: http}], dependencies: []}\n",
        "f",
    )[0].object
    fake.add(*OBJECTS, web, loner)
    fake.report(sidecar("orders-1"), sidecar("web-1", service="web"))
    out = await cli.ok("describe", "svc", "orders", "-n", "shop")
    assert (
        "  AuthorizationPolicy shop/web-may-order: allow identity spiffe://example.org/ns/shop/svc/web"
        " to GET at /orders/* on port 8080\n"
    ) in out
    assert "  BackendTrafficPolicy shop/spread\n" in out
    limit = (
        "10 a minute (20 at once) for all callers together of namespace shop at POST /orders x-batch=yes on port 8080"
    )
    assert f"  RateLimitPolicy shop/orders: {limit}\n" in out
    assert "Depending services:\n  Service shop/web\n\nSidecars:\n" in out
    assert "orders-1" in out
    assert "web-1" not in out
    plain = json.loads(await cli.ok("describe", "svc", "orders", "-n", "shop", "-o", "json"))
    assert plain["dependants"] == [{"namespace": "shop", "name": "web"}]
    assert [one["instance"] for one in plain["sidecars"]] == ["orders-1"]
    assert plain["object"]["spec"]["ports"][0]["port"] == 8080


async def test_describe_policy_in_words(cli: Cli, fake: FakeReplica) -> None:
    fake.add(POLICY)
    assert "In words:\n  allow identity" in await cli.ok("describe", "authz", "web-may-order", "-n", "shop")
    fake.add(LIMITS)
    assert "In words:\n  10 a minute" in await cli.ok("describe", "rlp", "orders", "-n", "shop")


# -- status


async def test_status_of_a_sound_mesh(cli: Cli, fake: FakeReplica) -> None:
    assert await cli.ok("status") == "no sidecar is connected\n"
    fake.report(sidecar("b", acked_revision=9), sidecar("a"))
    rows = cells(await cli.ok("status"))
    assert [row[2].strip() for row in rows] == ["INSTANCE", "a", "b"]
    assert [row[4].strip() for row in rows] == ["STATE", "current", "behind"]
    assert [row[5].strip() for row in rows] == ["ACKED", "10 of 10", "9 of 10"]


async def test_status_with_a_refusal(cli: Cli, fake: FakeReplica) -> None:
    nack = Nack(type_url="t", resource="inbound", message="bad \x1b[31mfilter", revision=9)
    fake.report(
        sidecar("a"),
        sidecar("b", nacks=(nack,), problems=("Service shop/x: no such port",), app_health="unhealthy: 503"),
    )
    result = await cli("status")
    assert result.exit_code == 8
    assert "shop/orders.b refused inbound of revision 9: bad \\x1b[31mfilter\n" in result.stdout
    assert "shop/orders.b reports: Service shop/x: no such port\n" in result.stdout
    assert "the app of shop/orders.b is unhealthy: 503\n" in result.stdout
    plain = json.loads((await cli("status", "-o", "json")).stdout)
    assert [(one["instance"], one["state"]) for one in plain["sidecars"]] == [("a", "current"), ("b", "refused")]
    assert plain["sidecars"][1]["nacks"][0]["message"] == "bad \x1b[31mfilter"


@pytest.mark.parametrize(
    ("changes", "state"), [({"stale_since": 1_700_000_000}, "stale"), ({"svid_expires": 1_700_000_000}, "expired")]
)
async def test_status_with_a_sidecar_out_of_contact(
    cli: Cli, fake: FakeReplica, changes: dict[str, Any], state: str
) -> None:
    fake.report(sidecar("a"), sidecar("b", **changes))
    result = await cli("status")
    assert result.exit_code == 7
    assert f"error: 1 of 2 sidecars needs a look: 1 {state}\n  shop/orders.b is {state}\n" in result.stderr
    plain = json.loads((await cli("status", "-o", "json")).stdout)
    assert plain["sidecars"][1]["connected"] is (state != "stale")
    assert (await cli("status", "-n", "elsewhere")).exit_code == 0


@pytest.mark.fault(24)
async def test_status_says_who_is_revoked_and_what_that_leaves_open(cli: Cli, fake: FakeReplica) -> None:
    nack = Nack(type_url="t", resource="inbound", message="old", revision=9)
    fake.report(sidecar("a", nacks=(nack,), stale_since=1_700_000_000), sidecar("w", service="web"))
    for service, revoked in (("orders", True), ("web", False)):
        record = Revocation(namespace="shop", service=service, serial=1, revoked=revoked, at=1, by="anna")
        fake.revocations.append(codec.encode(record))
    said = await cli.ok("status")  # meant to be out: no failure
    assert [row[4].strip() for row in cells(said)[:3]] == ["STATE", "revoked", "current"]
    assert "shop/orders.a is revoked; its open watch of etcd" in said
    assert "shop/web.w is revoked" not in said
    plain = json.loads(await cli.ok("status", "-o", "json"))
    assert [one["state"] for one in plain["sidecars"]] == ["revoked", "current"]


@pytest.mark.fault(24)
async def test_status_says_when_what_is_open_ends_and_fails_where_it_goes_on(cli: Cli, fake: FakeReplica) -> None:
    fake.report(sidecar("a", open_streams=OpenStreams(bound_ms=2000)), sidecar("old"))
    assert (await cli.ok("status")).endswith("\nwhat is open and no longer allowed ends within 2 s\n")
    plain = json.loads(await cli.ok("status", "-o", "json"))
    ends = {"boundMs": 2000, "passedBoundMs": 0, "problem": ""}
    assert [one["openStreams"] for one in plain["sidecars"]] == [ends, None]
    fake.report(sidecar("b", open_streams=OpenStreams(bound_ms=0, problem="allow pidfd_getfd")))
    result = await cli("status")
    assert (result.exit_code, "shop/orders.b: allow pidfd_getfd" in result.stderr) == (11, True)
    record = Revocation(namespace="shop", service="orders", serial=1, revoked=True, at=1, by="anna")
    fake.revocations.append(codec.encode(record))
    await cli.ok("status")  # of whom nobody hears


@pytest.mark.fault(24)
async def test_a_revocation_says_when_what_is_open_ends_and_where_it_goes_on(cli: Cli, fake: FakeReplica) -> None:
    revoke = ("identity", "revoke", "shop/web")
    assert await cli.ok(*revoke) == "the identity of shop/web is revoked at revision 11\n"
    goes_on = OpenStreams(bound_ms=0, problem="allow pidfd_getfd")
    fake.report(sidecar("a", open_streams=OpenStreams(bound_ms=2000)), sidecar("old"))
    fake.report(sidecar("w", service="web", open_streams=goes_on))  # nobody hears it any more
    assert (await cli.ok(*revoke)).endswith("\nwhat is open and no longer allowed ends within 2 s\n")
    plain = json.loads(await cli.ok(*revoke, "-o", "json"))
    assert (plain["service"], plain["revision"], plain["openBoundMs"]) == ("web", 13, 2000)
    assert (plain["passedBoundMs"], plain["uncut"], plain["boundUnknown"]) == (None, [], ["shop/orders.old"])
    fake.report(sidecar("b", open_streams=goes_on))
    result = await cli(*revoke)
    assert (result.exit_code, "is revoked at revision 14" in result.stdout) == (11, True)
    assert "shop/orders.b: allow pidfd_getfd" in result.stderr
    assert json.loads((await cli(*revoke, "-o", "json")).stdout)["uncut"][0]["sidecar"] == "shop/orders.b"


@pytest.mark.fault(25)
async def test_an_alarm_of_the_mesh_is_shown_and_fails_the_command(cli: Cli, fake: FakeReplica) -> None:
    fake.report(sidecar("a"))
    fake.alarms = ["etcd holds 9999 leases\x1b[2J"]
    result = await cli("status")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (10, "ALARM: etcd holds 9999 leases\\x1b[2J")
    assert result.stderr == "error: etcd holds 9999 leases\\x1b[2J\n"
    result = await cli("status", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["alarms"]) == (10, fake.alarms)
    assert json.loads(result.stderr)["error"]["name"] == "ALARM"
    fake.report(sidecar("b", stale_since=1_700_000_000))
    result = await cli("status")  # what is wrong with a sidecar is not hidden by it, nor it by that
    assert (result.exit_code, "ALARM: etcd" in result.stdout) == (7, True)


async def test_status_passes_over_what_it_can_not_read(cli: Cli, fake: FakeReplica) -> None:
    fake.report(sidecar("a"))
    fake.statuses.append(b"\xc1")
    result = await cli("status")
    assert (result.exit_code, "left out: status of a sidecar" in result.stderr) == (0, True)


# -- watch


def event(revision: int, key: str, value: bytes = b"") -> pb.WatchEvent:
    return pb.WatchEvent(revision=revision, key=f"/mesh/v1/{key}", value=value, deleted=not value)


ENDPOINT = codec.encode(Endpoint(address="10.0.0.7", ports={"web": 8080}))
CONFIG = "data/config/Service/shop/orders"


async def test_watch_lines(cli: Cli, fake: FakeReplica) -> None:
    fake.watches = [
        [
            event(11, CONFIG, codec.encode(SERVICE)),
            event(12, "data/endpoints/shop/orders/orders-1", ENDPOINT),
            event(13, CONFIG),
            event(14, "data/config/Service/shop/bad", b"\xc1"),
            event(15, "data/new/\x1b[2J", b"\x01"),
        ]
    ]
    lines = (await cli.ok("watch", "--count", "5")).splitlines()
    assert lines[0].startswith('11  put     Service shop/orders  spec={"dependencies":[{')
    assert lines[1] == '12  put     Endpoint shop/orders/orders-1  address="10.0.0.7" ports={"web":8080}'
    assert lines[2] == "13  delete  Service shop/orders"
    assert lines[3].startswith("14  put     Service shop/bad  not MessagePack")
    assert lines[4] == "15  put     /mesh/v1/data/new/\\x1b[2J"


async def test_watch_as_json_lines(cli: Cli, fake: FakeReplica) -> None:
    newer = msgspec.msgpack.encode({"apiVersion": "mesh/v2", "kind": "New", "blob": b"\x00\x01", "n": float("nan")})
    fake.watches = [[event(11, CONFIG, codec.encode(SERVICE)), event(12, "data/trust/x", newer), event(13, CONFIG)]]
    first, second, third = map(json.loads, (await cli.ok("watch", "-o", "json", "--count", "3")).splitlines())
    assert first["value"]["spec"]["ports"][0]["port"] == 8080
    assert (first["revision"], first["action"], first["of"]) == (11, "put", "Service shop/orders")
    assert second["value"] == {"apiVersion": "mesh/v2", "kind": "New", "blob": "AAE=", "n": None}
    assert third == {"revision": 13, "action": "delete", "key": f"/mesh/v1/{CONFIG}", "of": "Service shop/orders"}


async def test_watch_filters(cli: Cli, fake: FakeReplica) -> None:
    told = [
        event(11, "data/config/Service/money/pay", codec.encode(SERVICE)),
        event(12, "data/endpoints/shop/orders/o", ENDPOINT),
        event(13, CONFIG, codec.encode(SERVICE)),
    ]
    fake.watches = [told]
    assert (await cli.ok("watch", "--kind", "svc", "-n", "shop", "--count", "1")).startswith("13 ")
    fake.watches = [told]
    assert (await cli.ok("watch", "-n", "shop", "--count", "1")).startswith("12 ")


async def test_watch_goes_on_after_a_cut_each_change_once(cli: Cli, fake: FakeReplica) -> None:
    a, b, c = (event(11, CONFIG, codec.encode(SERVICE)), event(12, "data/epoch", b"\xc0"), event(12, CONFIG))
    later = event(13, CONFIG)
    fake.watches = [[a, b], [b, c, later]]
    result = await cli("watch", "--count", "4")
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == ["11", "12", "12", "13"]
    assert fake.seen(pb.WatchRequest) == [pb.WatchRequest(), pb.WatchRequest(after_revision=11)]


async def test_watch_from_a_revision_that_is_gone(cli: Cli, fake: FakeReplica) -> None:
    fake.refuse["Watch"] = [RpcAbort(StatusCode.INVALID_ARGUMENT, "revision 5 has been compacted")]
    result = await cli("watch", "--after-revision", "5")
    assert result.exit_code == 2
    assert "revision 5 has been compacted" in result.stderr
    assert fake.seen(pb.WatchRequest) == [pb.WatchRequest(after_revision=5)]


# -- token


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
async def test_token_file_is_for_its_owner_only(cli: Cli, fake: FakeReplica, tmp_path: Path) -> None:
    out = tmp_path / "orders.join"
    said = await cli.ok("token", "create", "--service", "orders.shop", "--ttl", "15m", "--out", str(out))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "mjt1" not in said
    found = joinfile.load(out.read_bytes(), "f")
    assert (found.service, found.namespace, found.token) == ("orders", "shop", "mjt1.id.secret")
    assert found.join_endpoints == ("10.0.0.1:7444",)
    (request,) = fake.seen(pb.CreateTokenRequest)
    assert isinstance(request, pb.CreateTokenRequest)
    assert (request.service, request.namespace, request.ttl_seconds) == ("orders", "shop", 900)
    assert sorted(os.listdir(tmp_path)) == ["api.sock", "orders.join"]


async def test_token_does_not_write_over_a_file(cli: Cli, fake: FakeReplica, tmp_path: Path) -> None:
    out = tmp_path / "orders.join"
    out.write_text("mine")
    command = ("token", "create", "--service", "orders.shop", "--out", str(out))
    refused = await cli(*command)
    assert (refused.exit_code, "exists already" in refused.stderr) == (2, True)
    assert not fake.requests
    await cli.ok(*command, "--force")
    assert joinfile.load(out.read_bytes(), "f").service == "orders"


async def test_token_to_standard_output(cli: Cli) -> None:
    result = await cli("token", "create", "--service", "orders.shop")
    assert joinfile.load(result.stdout_bytes, "f").token == "mjt1.id.secret"
    assert "for one use until 2096-10-02 07:06 UTC" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("--service", "orders"),
        ("--service", "Orders.shop"),
        ("--service", "a.b", "--ttl", "soon"),
        ("--service", "a.b", "--ttl", "0s"),
        ("--service", "a.b", "--out", "/nonexistent/x"),
        (),
    ],
)
async def test_token_misused(cli: Cli, fake: FakeReplica, args: tuple[str, ...]) -> None:
    assert (await cli("token", "create", *args)).exit_code == 2
    assert not fake.requests
