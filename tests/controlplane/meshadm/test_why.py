"""`why`: what log lines say of a request, and what only the policies of that time can say."""

import json
from pathlib import Path
from typing import Any

import pytest

from controlplane.exit_codes import ExitCode
from schemas.names import SYSTEM_NAMESPACE
from schemas.objects import Mesh, Metadata
from schemas.objects.authorization import HeaderMatch, Operation, Source
from schemas.objects.mesh import MeshSpec
from schemas.questions import MAX_ENTRIES, Answer
from tests.controlplane.meshadm.fake_replica import Cli, FakeReplica
from tests.states.build import TRUST_DOMAIN, identity, policy, port, rule, service, who
from trio_grpc import RpcAbort, StatusCode

ID = "0dc1f3ab-7f0e-9a35-8c41-3f1c5d1b2a77"
READS = policy("web-reads", "ALLOW", rule(who("web"), to=[Operation(methods=("GET",), paths=("/orders/*",))]))
TENANTS = policy(
    "tenants", "ALLOW", rule(who("web"), to=[Operation(headers=(HeaderMatch(name="x-tenant", values=("one",)),))])
)


def line(details: str = "rbac_access_denied_matched_policy[none]", **fields: object) -> str:
    said = {
        "request_id": ID, "time": "2026-11-23T18:00:00.000Z", "side": "server", "source": identity("web"),
        "destination": identity("orders"), "method": "DELETE", "authority": "orders.shop", "path": "/orders/7",
        "port": 8080, "downstream": "10.1.0.2:4711", "status": 403, "details": details, "revision": 7, "flags": "-",
        "duration_ms": 1,
    }  # fmt: skip
    return json.dumps({**said, **fields}, separators=(",", ":"))


@pytest.fixture
def fake() -> FakeReplica:
    replica = FakeReplica()
    metadata = Metadata(name="mesh", namespace=SYSTEM_NAMESPACE)
    mesh = Mesh(api_version="mesh/v1", metadata=metadata, spec=MeshSpec(trust_domain=TRUST_DOMAIN))
    replica.add(mesh, service("orders", port("http", 8080)))
    return replica


def answer(*lines: str, instance: str = "orders-1", problem: str = "") -> Answer:
    looked = "" if problem else "/var/lib/mesh/orders/access.log (4711 bytes)"
    return Answer(
        service="orders", namespace="shop", instance=instance, entries=lines, looked_at=looked, problem=problem
    )


async def asked(cli: Cli, *more: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(await cli.ok("why", ID, "-o", "json", *more))
    return said


async def test_a_rule_that_denied(cli: Cli, fake: FakeReplica) -> None:
    fake.answers = [answer(line("rbac_access_denied_matched_policy[shop/no-deletes[2]]")), answer(instance="orders-2")]
    words = await cli.ok("why", ID)
    assert "denied at 2026-11-23T18:00:00.000Z, by the log of orders-1 of orders.shop, server" in words
    assert f"from      {identity('web')} (10.1.0.2:4711)" in words
    assert f"to        {identity('orders')}, port 8080" in words
    assert "request   DELETE orders.shop/orders/7" in words
    assert "verdict   denied by rule 2 of AuthorizationPolicy shop/no-deletes" in words
    assert "revision  7" in words
    (record,) = (await asked(cli))["records"]
    assert (record["policy"], record["rule"], record["explained"]) == (
        {"namespace": "shop", "name": "no-deletes"},
        2,
        None,
    )


@pytest.mark.parametrize(
    ("details", "says"),
    [
        ("revoked", "denied: the caller's identity is revoked"),
        ("closed", "the identity of the sidecar that was called has expired"),
        ("shop/x:_unreadable", "AuthorizationPolicy shop/x can't be read"),
        ("path|escaped-twice", "refused before any policy is asked: the path has a part that is escaped twice"),
        ("method", "refused before any policy is asked: the method is not in upper case"),
    ],
)
async def test_what_is_no_rule(cli: Cli, fake: FakeReplica, details: str, says: str) -> None:
    fake.answers = [answer(line(f"rbac_access_denied_matched_policy[{details}]"))]
    assert says in await cli.ok("why", ID)


async def test_the_nearest_miss_by_the_policies_of_that_time(cli: Cli, fake: FakeReplica) -> None:
    fake.answers = [answer(line())]
    fake.past[7] = {**fake.objects}
    fake.add(READS)
    fake.past[7] |= {key: value for key, value in fake.objects.items() if key[0] == "AuthorizationPolicy"}
    fake.objects = {key: value for key, value in fake.objects.items() if key[0] != "AuthorizationPolicy"}
    words = await cli.ok("why", ID)
    assert "nearest: rule 0 of AuthorizationPolicy shop/web-reads, but for" in words
    assert "the method: it wants GET, got DELETE" in words
    assert "by the policies at revision 7" in words


async def test_the_nearest_miss_that_the_sidecar_has_told(cli: Cli, fake: FakeReplica) -> None:
    fake.answers = [answer(line(nearest="but for when realm.groups: shop/web-reads[0]"))]
    words = await cli.ok("why", ID)
    assert "as the sidecar saw it: rule 0 of AuthorizationPolicy shop/web-reads, but for when realm.groups" in words
    (record,) = (await asked(cli))["records"]
    assert record["nearest"] == "but for when realm.groups: shop/web-reads[0]"


@pytest.mark.parametrize(
    ("details", "says"),
    [
        ("jwt_authn_access_denied{Jwt_is_expired}", "Jwt is expired"),
        ("direct_response", "not in the form of one"),
    ],
)
async def test_a_bad_token(cli: Cli, fake: FakeReplica, details: str, says: str) -> None:
    fake.answers = [answer(line(details, status=401))]
    words = await cli.ok("why", ID)
    assert words.startswith("denied at")
    assert f"refused before any policy is asked, for its token: {says}" in words
    (record,) = (await asked(cli))["records"]
    assert (record["denied"], record["badToken"]) == (True, says)


@pytest.mark.parametrize(("downstream", "inside"), [("[::ffff:10.1.0.2]:4711", True), ("pipe:0", False), ("", False)])
async def test_the_callers_address_is_as_sidecars_see_it(
    cli: Cli, fake: FakeReplica, downstream: str, inside: bool
) -> None:
    fake.answers = [answer(line(downstream=downstream, method="GET"))]
    fake.add(policy("near", "ALLOW", rule(Source(ip_blocks=("10.0.0.0/8",)), to=[Operation(methods=("PUT",))])))
    words = await cli.ok("why", ID)
    assert "the method: it wants PUT, got GET" in words
    assert ("the caller's address: it wants 10.0.0.0/8" in words) is not inside


async def test_an_allow_that_had_been_deleted(cli: Cli, fake: FakeReplica) -> None:
    """The revision is that of the newest object that is left: what was deleted after it can't be told from it."""
    fake.answers = [answer(line(method="GET"))]
    fake.add(READS)
    fake.past[7] = dict(fake.objects)
    fake.objects = {key: value for key, value in fake.objects.items() if key[0] != "AuthorizationPolicy"}
    (record,) = (await asked(cli))["records"]
    assert record["explained"]["verdict"]["reason"] == "NOTHING_ALLOWS"
    assert "allowed by rule 0 of AuthorizationPolicy shop/web-reads" in record["explained"]["note"]
    assert "deleted" in record["explained"]["note"]


async def test_what_no_log_holds_is_said_to_be_unknown(cli: Cli, fake: FakeReplica) -> None:
    fake.answers = [answer(line())]
    fake.add(TENANTS)
    words = await cli.ok("why", ID)  # revision 7 can't be had
    assert "the headers: it wants x-tenant: one; no log says what the request had" in words
    assert "judged by the policies of now" in words
    (record,) = (await asked(cli))["records"]
    assert record["explained"]["verdict"]["nearest"]["lacks"][0]["known"] is False


async def test_what_can_not_be_judged_hides_nothing_that_was_found(cli: Cli, fake: FakeReplica) -> None:
    fake.answers = [answer(line("rbac_access_denied_matched_policy[shop/no-deletes[2]]"), line())]
    fake.revocations = [b"\0bad"]
    words = await cli.ok("why", ID)
    assert "verdict   denied by rule 2 of AuthorizationPolicy shop/no-deletes" in words
    assert "which rule came nearest can't be said: a revocation" in words
    fake.revocations = []
    fake.refuse["Federation"] = [RpcAbort(StatusCode.UNAVAILABLE, "going away")] * 9
    words = await cli.ok("why", ID)
    assert "verdict   denied by rule 2 of AuthorizationPolicy shop/no-deletes" in words
    assert "which rule came nearest can't be said: " in words


async def test_what_one_sidecar_makes_up_is_bounded(cli: Cli, fake: FakeReplica) -> None:
    made_up = [line(revision=1000 + number) for number in range(500)]
    fake.answers = [answer(*made_up, instance="a-stolen-one"), answer(line(), line())]
    fake.add(READS)
    fake.past[7] = dict(fake.objects)
    records = (await asked(cli))["records"]
    assert len(records) == MAX_ENTRIES + 2
    assert [one["explained"]["revision"] for one in records[-2:]] == [7, 7]
    services = [one for path, one in fake.requests if path == "Get" and one.key.kind == "Service"]  # type: ignore[attr-defined]  # a GetRequest
    assert len(services) == 2 + MAX_ENTRIES, "now, at revision 7, and those that are made up: each once"


async def test_a_request_on_its_way_through_several(cli: Cli, fake: FakeReplica) -> None:
    client = line("via_upstream", side="client", source=identity("web"), revision=3)
    let_in = line("via_upstream", status=200, authorization_policy="shop/web-reads[0]", method="GET")
    fake.answers = [answer(let_in), answer(client, instance="web-1")]
    records = (await asked(cli))["records"]
    assert [(one["side"], one["denied"]) for one in records] == [("client", False), ("server", False)]
    assert (records[1]["policy"], records[1]["rule"]) == ({"namespace": "shop", "name": "web-reads"}, 0)
    assert "allowed by rule 0 of AuthorizationPolicy shop/web-reads" in await cli.ok("why", ID)
    limited = line("local_rate_limited", status=429, authorization_policy="shop/web-reads[0]", rate_limit="shop/few[0]")
    fake.answers = [answer(limited)]
    assert "refused by a rate limit: RateLimitPolicy shop/few[0]" in await cli.ok("why", ID)


async def test_nobody_has_it(cli: Cli, fake: FakeReplica) -> None:
    fake.answers = [answer(), answer(instance="orders-2", problem="it keeps no access log")]
    fake.silent = ["shop/orders.orders-3"]
    result = await cli("why", ID, "--to", "orders.shop")
    assert result.exit_code == ExitCode.NOT_FOUND
    for text in (
        "orders-1 of orders.shop: /var/lib/mesh/orders/access.log",
        "orders-2 of orders.shop: it keeps no access log",
        "shop/orders.orders-3",
    ):
        assert text in result.stderr
    (request,) = [request for path, request in fake.requests if path == "Ask"]
    assert list(request.services) == ["orders.shop"]  # type: ignore[attr-defined]  # an AskRequest


async def test_logs_that_were_kept(cli: Cli, fake: FakeReplica, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    others = [line().replace(ID, "another"), "no JSON at all", f"Nov 23 18:00:00 host envoy[1]: {line()}"]
    log.write_text("\n".join(others))
    fake.add(READS)
    said = await asked(cli, "--log", str(log))
    assert [one["sidecar"] for one in said["records"]] == [str(log)]
    assert said["records"][0]["explained"]["verdict"]["nearest"]["policy"]["name"] == "web-reads"
    words = await cli.ok("why", ID, "--log", "-", stdin=log.read_text())
    assert "denied: no policy allows it" in words
    # Where no replica answers, what the log itself says.
    alone = await Cli([f"unix:{tmp_path}/nobody.sock"])("why", ID, "--log", str(log), "--request-timeout", "100ms")
    assert (alone.exit_code, "which rule came nearest can't be said" in alone.stdout) == (0, True)


async def test_no_request_id(cli: Cli, fake: FakeReplica) -> None:
    result = await cli("why", 'x" or "y')
    assert (result.exit_code, fake.requests) == (ExitCode.BAD_INPUT, [])


async def test_explain_at_a_revision(cli: Cli, fake: FakeReplica) -> None:
    fake.past[7] = dict(fake.objects)
    fake.add(READS)
    ask = ("authz", "explain", "--from", "web.shop", "--to", "orders.shop", "--path", "/orders/7", "-o", "json")
    now = json.loads(await cli.ok(*ask))
    assert (now["outcome"], now["policyRevision"], now["revision"]) == ("allowed", fake.revision, fake.revision)
    then = await cli(*ask, "--at-revision", "7")
    assert (then.exit_code, json.loads(then.stdout)["revision"]) == (ExitCode.DENIED, 7)
    gone = await cli(*ask, "--at-revision", "6")
    assert (gone.exit_code, "compacted" in gone.stderr) == (ExitCode.NOT_FOUND, True)
