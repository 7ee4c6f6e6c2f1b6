"""`authz explain`: the verdict, what decided or was missing, and the exit code."""

import json
from pathlib import Path

import msgspec
import pytest

from controlplane.exit_codes import ExitCode
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.names import SYSTEM_NAMESPACE
from schemas.objects import Mesh, Metadata
from schemas.objects.authorization import ClaimMatch, HeaderMatch, Operation, Rule, Source
from schemas.objects.mesh import MeshSpec
from tests.controlplane.meshadm.fake_replica import Cli, FakeReplica
from tests.states.build import TRUST_DOMAIN, mesh_saying, policy, port, revocation, rule, service, who

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
    plain["spec"]["rules"][0]["unless"] = [{"key": "a"}]
    fake.objects["AuthorizationPolicy", "shop", "web-reads"] = (msgspec.msgpack.encode(plain), 20)
    result = await cli(*ASK, "--path", "/orders/7", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["reason"]) == (ExitCode.DENIED, "UNREADABLE")


@pytest.mark.fault(20)
async def test_a_mesh_that_says_more_of_who_is_let_in_than_is_known_lets_nobody_in(cli: Cli, fake: FakeReplica) -> None:
    """As of a sidecar of the same version, which starts then."""
    allowing = mesh_saying(authorization={"defaultAction": "ALLOW"})
    fake.add(allowing)
    assert "authorization.defaultAction" in await cli.ok(*ASK, "--path", "/other")
    plain = msgspec.msgpack.decode(codec.encode(allowing))
    plain["spec"]["authorization"]["exceptNamespaces"] = ["shop"]
    fake.objects["Mesh", "mesh-system", "mesh"] = (msgspec.msgpack.encode(plain), 20)
    result = await cli(*ASK, "--path", "/other")
    assert (result.exit_code, "unknown field 'exceptNamespaces'" in result.stderr) == (ExitCode.DENIED, True)


async def test_claims_of_a_token(cli: Cli, fake: FakeReplica, tmp_path: Path) -> None:
    when = (ClaimMatch(key="request.auth.claims[groups]", values=("admin",)),)
    fake.add(policy("admins", "ALLOW", Rule(from_=(Source(request_principals=("*/anna",)),), when=when)))
    ask = (*ASK, "--path", "/admin")
    claims = tmp_path / "claims.json"
    claims.write_text('{"iss": "https://one.example", "groups": ["admin"]}')
    words = (await cli(*ask, "--claims", str(claims))).stdout
    assert "the token's principal: it wants */anna, got nothing" in words
    claims.write_text('{"iss": "https://one.example", "sub": "anna", "groups": ["guest"]}')
    words = (await cli(*ask, "--claims", str(claims))).stdout
    assert "the token's claim groups: it wants admin, got guest" in words
    claims.write_text('{"iss": "https://one.example", "sub": "anna", "groups": ["guest", "admin"]}')
    assert "allowed by rule 0 of AuthorizationPolicy shop/admins" in await cli.ok(*ask, "--claims", str(claims))
    claims.write_text("no JSON")
    assert (await cli(*ask, "--claims", str(claims))).exit_code == ExitCode.BAD_INPUT


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
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "::FFFF:a01:203"):
        result = await cli(*ASK, "--path", "/orders/7", "--address", address, "-o", "json")
        assert json.loads(result.stdout)["policy"] == {"namespace": "mesh-system", "name": "blocked"}
    result = await cli(*ASK, "--path", "/orders/7", "--address", "foo")
    assert (result.exit_code, "'foo' is no IP address" in result.stderr) == (ExitCode.BAD_INPUT, True)


CASES = """
objects: [objects]
trustDomain: mesh.test
cases:
  - {name: reads, from: web.shop, to: orders.shop, path: /orders/7, expect: allowed, by: "shop/web-reads[0]"}
  - {from: web.shop, to: orders.shop, path: /orders/7, method: DELETE, expect: denied, by: none}
  - {from: "spiffe://other.test/ns/a/svc/b", to: orders.shop, expect: denied}
  - {from: web.shop, to: orders.shop, path: "/a/%2e%2e;/b", expect: refused}
  - {from: web.shop, to: orders.shop, address: "::ffff:10.1.2.3", expect: denied, by: "shop/blocked[0]"}
  - {from: web.shop, to: orders.shop, claims: {iss: "https://one.example", sub: anna}, expect: denied}
  - {from: web.shop, to: orders.shop, claims: {iss: "https://one.example", sub: eve}, expect: allowed}
"""
EVES = policy("eves", "ALLOW", rule(Source(namespaces=("shop",), request_principals=("https://one.example/eve",))))
BLOCKED = policy("blocked", "DENY", rule(Source(ip_blocks=("10.0.0.0/8",))))


def written(directory: Path, cases: str = CASES) -> str:
    (directory / "objects").mkdir()
    objects = [codec.to_builtins(one) for one in (service("orders", port("http", 8080)), ALLOW, BLOCKED, EVES)]
    (directory / "objects" / "shop.yaml").write_text(codec.dump_yaml(objects))
    (directory / "cases.yaml").write_text(cases)
    return str(directory / "cases.yaml")


async def test_cases_as_expected(cli: Cli, tmp_path: Path) -> None:
    assert await cli.ok("authz", "test", "-f", written(tmp_path)) == "7 of 7 cases as expected\n"


@pytest.mark.parametrize(
    ("old", "new"), [("expect: denied, by: none", "expect: allowed"), ("web-reads[0]", "web-reads[1]")]
)
async def test_a_case_that_is_not_as_expected(cli: Cli, tmp_path: Path, old: str, new: str) -> None:
    result = await cli("authz", "test", "-f", written(tmp_path, CASES.replace(old, new)), "-o", "json")
    said = json.loads(result.stdout)
    assert (result.exit_code, said["passed"]) == (ExitCode.DENIED, False)
    assert [one["passed"] for one in said["cases"]].count(False) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("expect: refused", "expect: perhaps"),
        ("expect: refused", "expect: refused, unknown: 1"),
        ("to: orders.shop, path: /orders/7, expect", "to: nobody.shop, expect"),
        ("trustDomain: mesh.test\n", ""),
        ("objects: [objects]", "objects: [nothing]"),
        ("from: web.shop", "from: WEB"),
        ("::ffff:10.1.2.3", "foo"),
    ],
)
async def test_cases_that_say_nothing(cli: Cli, tmp_path: Path, old: str, new: str) -> None:
    result = await cli("authz", "test", "-f", written(tmp_path, CASES.replace(old, new)))
    assert result.exit_code == ExitCode.BAD_INPUT


async def test_the_schema_of_cases(cli: Cli) -> None:
    schema = json.loads(await cli.ok("authz", "test", "--schema"))
    assert "cases" in schema["$defs"]["CasesFile"]["properties"]
