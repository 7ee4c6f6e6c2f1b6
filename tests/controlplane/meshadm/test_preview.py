"""`authz preview`: which flows would change, by which rule, and what nobody has reported."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.exit_codes import ExitCode
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.names import SYSTEM_NAMESPACE
from schemas.objects import AuthorizationPolicy, Mesh, Metadata
from schemas.objects.authorization import HeaderMatch, Operation, Rule
from schemas.objects.mesh import MeshSpec
from schemas.questions import Answer, FlowRecord
from tests.controlplane.meshadm.fake_replica import Cli, FakeReplica
from tests.states.build import TRUST_DOMAIN, identity, peers, policy, port, rule, service, who

WEB_MAY = policy("web-may", "ALLOW", rule(who("web")))
READ_ONLY = policy("web-may", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",))]))


def flow(method: str = "GET", *, by: str = "web", denied: bool = False, last: int = 1100) -> FlowRecord:
    return FlowRecord(
        source=identity(by), port="http", method=method, route="/orders/{*}", path="/orders/7", denied=denied,
        rule="" if denied else "shop/web-may[0]", first=1000, last=last, samples=3,
    )  # fmt: skip


def answer(*flows: FlowRecord, instance: str = "orders-1", service: str = "orders", **audits: int) -> Answer:
    counts = {f"shop/{name}[0]": count for name, count in audits.items()}
    return Answer(service=service, namespace="shop", instance=instance, flows=flows, since=900, audits=counts)


@pytest.fixture
def fake() -> FakeReplica:
    replica = FakeReplica()
    metadata = Metadata(name="mesh", namespace=SYSTEM_NAMESPACE)
    mesh = Mesh(api_version="mesh/v1", metadata=metadata, spec=MeshSpec(trust_domain=TRUST_DOMAIN))
    replica.add(mesh, service("orders", port("http", 8080)), service("cart", port("http", 8080)), WEB_MAY)
    replica.answers = [answer(flow(), flow("DELETE"), flow("GET", by="cart", denied=True))]
    return replica


def written(directory: Path, *found: AuthorizationPolicy) -> str:
    file = directory / "policies.yaml"
    file.write_text(codec.dump_yaml([codec.to_builtins(one) for one in found]))
    return str(file)


async def asked(cli: Cli, *args: str, code: ExitCode = ExitCode.DENIED) -> dict[str, Any]:
    result = await cli("authz", "preview", *args, "-o", "json")
    assert result.exit_code == code, (result.stdout, result.stderr)
    said: dict[str, Any] = json.loads(result.stdout)
    return said


async def test_a_flow_that_would_break(cli: Cli, fake: FakeReplica, tmp_path: Path) -> None:
    said = await asked(cli, "-f", written(tmp_path, READ_ONLY))
    (change,) = said["changes"]
    assert (change["effect"], change["from"], change["to"]) == ("DENIED", identity("web"), "orders.shop")
    assert (change["method"], change["route"], change["allowed"], change["samples"]) == (
        "DELETE",
        "/orders/{*}",
        True,
        3,
    )
    assert change["verdict"]["nearest"]["lacks"][0]["wanted"] == ["GET"]
    assert (said["wouldDeny"], said["withoutFlows"], said["flows"]) == (True, ["cart.shop"], 3)
    words = (await cli("authz", "preview", "-f", written(tmp_path, READ_ONLY))).stdout
    assert f"newly denied: {identity('web')} to orders.shop, port http: DELETE /orders/{{*}}" in words
    assert "would be denied: no policy allows it" in words
    assert "let in by shop/web-may[0]; 3 samples since 1970-01-01T00:16:40Z" in words
    assert "back to 1970-01-01T00:15:00Z at all of them" in words
    assert "nothing is known of: cart.shop" in words
    (request,) = fake.seen(pb.AskRequest)[:1]
    assert sorted(request.services) == ["cart.shop", "orders.shop"]  # type: ignore[attr-defined]  # an AskRequest
    assert not fake.seen(pb.ApplyRequest)


async def test_what_would_be_let_in(cli: Cli, tmp_path: Path) -> None:
    more = policy("cart-may", "ALLOW", rule(who("cart")), on=["orders"])
    said = await asked(cli, "-f", written(tmp_path, more), code=ExitCode.OK)
    assert [(one["effect"], one["from"]) for one in said["changes"]] == [("ALLOWED", identity("cart"))]
    assert said["changes"][0]["verdict"]["policy"] == {"namespace": "shop", "name": "cart-may"}
    assert (said["wouldDeny"], said["services"]) == (False, ["orders.shop"])


async def test_what_depends_on_headers_counts_as_broken(cli: Cli, tmp_path: Path) -> None:
    tenants = policy("web-may", "ALLOW", rule(who("web"), to=[Operation(headers=(HeaderMatch(name="x-tenant"),))]))
    said = await asked(cli, "-f", written(tmp_path, tenants))
    assert {one["effect"] for one in said["changes"]} == {"UNSURE"}
    words = (await cli("authz", "preview", "-f", written(tmp_path, tenants))).stdout
    assert "unless a header or token says otherwise, denied: no policy allows it" in words


async def test_deletion_and_who_has_not_reported(cli: Cli, fake: FakeReplica) -> None:
    fake.answers = [answer(flow(last=1100)), answer(flow(last=1200), instance="orders-2", attempt=2)]
    fake.answers.append(answer(instance="cart-1", service="cart", attempt=1))
    fake.silent = ["shop/orders.orders-3"]
    said = await asked(cli, "--delete", "shop/web-may")
    assert [(one["effect"], one["last"]) for one in said["changes"]] == [("DENIED", "1970-01-01T00:20:00Z")]
    assert (said["notReported"], said["audits"]) == (["shop/orders.orders-3"], {"shop/attempt[0]": 3})
    words = (await cli("authz", "preview", "--delete", "shop/web-may")).stdout
    assert "not reported: shop/orders.orders-3" in words
    assert "shop/attempt[0] would have denied 3 requests" in words
    gone = await cli("authz", "preview", "--delete", "shop/nothing")
    assert (gone.exit_code, "does not exist" in gone.stderr) == (ExitCode.NOT_FOUND, True)
    assert (await cli("authz", "preview")).exit_code == ExitCode.BAD_INPUT


async def test_a_port_that_nobody_sees_is_named(cli: Cli, fake: FakeReplica, tmp_path: Path) -> None:
    """Of requests to the other one nothing is known, whatever comes to the first."""
    fake.add(service("orders", port("http", 8080), port("admin", 8081, identity_header=False)), READ_ONLY)
    said = await asked(cli, "-f", written(tmp_path, READ_ONLY), code=ExitCode.OK)
    assert (said["changes"], said["withoutFlows"]) == ([], ["cart.shop"])
    assert said["portsWithoutFlows"] == [{"service": "orders.shop", "port": "admin"}]
    words = await cli.ok("authz", "preview", "-f", written(tmp_path, READ_ONLY))
    assert "nothing is known of: cart.shop, port admin of orders.shop\n" in words


async def test_plaintext_that_no_count_has_is_named(cli: Cli, fake: FakeReplica) -> None:
    """Envoy counts by rule what it reads as HTTP, as all is that comes by mTLS. So a count of 0 would say too much."""
    fake.add(service("ledger", port("db", 5432, "tcp"), port("http", 80)), policy("attempt", "AUDIT", Rule()))
    fake.answers = [answer(service="ledger", attempt=0)]
    assert (await asked(cli, "--delete", "shop/web-may", code=ExitCode.OK))["auditsWithout"] == []
    fake.add(peers("permissive", "PERMISSIVE", ["ledger"]))
    said = await asked(cli, "--delete", "shop/web-may", code=ExitCode.OK)
    assert said["auditsWithout"] == [{"service": "ledger.shop", "port": "db"}]
    words = await cli.ok("authz", "preview", "--delete", "shop/web-may")
    assert "not counted: plaintext at port db of ledger.shop" in words


async def test_a_policy_that_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    deny = policy("no-cart", "DENY", rule(who("cart")))
    words = await cli.ok("authz", "preview", "-f", written(tmp_path, deny, policy("shadow", "AUDIT", Rule())))
    assert "nothing that was seen lately would be judged otherwise" in words


async def test_a_mesh_that_has_much_to_tell(cli: Cli, fake: FakeReplica) -> None:
    """More than the 4 MiB that gRPC takes unless it is told to."""
    fake.answers = [
        msgspec.structs.replace(answer(flow(), instance=f"orders-{number}"), looked_at="x" * 256 * 1024)
        for number in range(20)
    ]
    assert (await asked(cli, "--delete", "shop/web-may"))["flows"] == 20
    assert len(fake.seen(pb.AskRequest)) == 1
