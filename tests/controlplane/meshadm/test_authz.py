"""`authz explain`: the verdict, what decided or was missing, and the exit code."""

import json

import msgspec
import pytest

from controlplane.exit_codes import ExitCode
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.names import SYSTEM_NAMESPACE
from schemas.objects import Mesh, Metadata
from schemas.objects.authorization import HeaderMatch, Operation, Source
from schemas.objects.mesh import MeshSpec
from tests.controlplane.meshadm.fake_replica import Cli, FakeReplica
from tests.states.build import TRUST_DOMAIN, policy, port, revocation, rule, service, who

ASK = ("authz", "explain", "--from", "web.shop", "--to", "orders.shop")
ALLOW = policy("web-reads", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",), paths=("/orders/*",))]))


@pytest.fixture
def fake() -> FakeReplica:
    replica = FakeReplica()
    metadata = Metadata(name="mesh", namespace=SYSTEM_NAMESPACE)
    mesh = Mesh(api_version="mesh/v1", metadata=metadata, spec=MeshSpec(trust_domain=TRUST_DOMAIN))
    replica.add(mesh, service("orders", port("http", 8080)), ALLOW)
    return replica


async def test_allowed(cli: Cli) -> None:
    said = await cli.ok(*ASK, "--path", "/x/../orders/7?q=1")
    assert said.splitlines()[0] == "allowed by rule 0 of AuthorizationPolicy shop/web-reads"
    assert "path as judged: /orders/7" in said


async def test_denied_names_the_nearest_miss(cli: Cli) -> None:
    result = await cli(*ASK, "--path", "/orders/7", "--method", "DELETE", "-o", "json")
    assert result.exit_code == ExitCode.DENIED
    said = json.loads(result.stdout)
    assert (said["outcome"], said["reason"], said["policy"]) == ("denied", "NOTHING_ALLOWS", None)
    lack = {"field": "methods", "wanted": ["GET"], "negated": False, "got": "DELETE", "never": ""}
    assert said["nearest"] == {"policy": {"namespace": "shop", "name": "web-reads"}, "rule": 0, "lacks": [lack]}
    words = await cli(*ASK, "--path", "/orders/7", "--method", "DELETE")
    assert "the method: it wants GET, got DELETE" in words.stdout


async def test_a_revoked_caller(cli: Cli, fake: FakeReplica) -> None:
    fake.revocations.append(revocation("web")[1])
    result = await cli(*ASK, "--path", "/orders/7")
    assert (result.exit_code, "revoked" in result.stdout) == (ExitCode.DENIED, True)


async def test_a_policy_with_a_field_that_nobody_knows_closes(cli: Cli, fake: FakeReplica) -> None:
    plain = msgspec.msgpack.decode(codec.encode(ALLOW))
    plain["spec"]["rules"][0]["when"] = [{"key": "a"}]
    fake.objects["AuthorizationPolicy", "shop", "web-reads"] = (msgspec.msgpack.encode(plain), 20)
    result = await cli(*ASK, "--path", "/orders/7", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["reason"]) == (ExitCode.DENIED, "UNREADABLE")


async def test_refused_before_policies(cli: Cli) -> None:
    result = await cli(*ASK, "--path", "/orders/7", "-H", "X_User=anna")
    assert (result.exit_code, "underscore" in result.stdout) == (ExitCode.DENIED, True)


async def test_other_trust_domains(cli: Cli, fake: FakeReplica) -> None:
    ask = (*ASK[:3], "spiffe://other.test/ns/shop/svc/web", *ASK[4:], "-o", "json")
    assert json.loads((await cli(*ask)).stdout)["reason"] == "NOT_ADMITTED"
    fake.domains.append(pb.FederatedDomain(trust_domain="other.test", objects=["other"], x509_authorities=1))
    assert json.loads((await cli(*ask)).stdout)["reason"] == "NOTHING_ALLOWS"


async def test_services_and_ports_that_are_not_there(cli: Cli, fake: FakeReplica) -> None:
    assert (await cli(*ASK[:4], "--to", "nothing.shop")).exit_code == ExitCode.NOT_FOUND
    assert (await cli(*ASK, "--port", "1")).exit_code == ExitCode.NOT_FOUND
    fake.add(service("orders", port("http", 8080), port("raw", 7, "tcp")))
    assert (await cli(*ASK)).exit_code == ExitCode.BAD_INPUT


async def test_policies_of_the_mesh_and_audits(cli: Cli, fake: FakeReplica) -> None:
    block = Source(ip_blocks=("10.0.0.0/8",))
    fake.add(
        policy("blocked.mesh-system", "DENY", rule(block)),
        policy("shadow", "AUDIT", rule(to=[Operation(headers=(HeaderMatch(name="x-role", values=("admin",)),))])),
    )
    said = await cli.ok(*ASK, "--path", "/orders/7", "-H", "x-role=admin", "--address", "192.0.2.1")
    assert "rule 0 of AuthorizationPolicy shop/shadow would deny it" in said
    result = await cli(*ASK, "--path", "/orders/7", "--address", "10.1.2.3", "-o", "json")
    assert json.loads(result.stdout)["policy"] == {"namespace": "mesh-system", "name": "blocked"}
