"""What sidecars tell who asks: why a request was denied, by its id; which flows a change of policies would break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import Result

from schemas import codec
from schemas.objects.authorization import Operation
from tests.controlplane.meshadm.fake_replica import Cli
from tests.e2e.app import HTTP
from tests.e2e.mesh import API_ID, KEYS, REPORTS_ID, WEB_ID, E2eMesh, caller
from tests.states.build import policy, rule
from tests.support.net import eventually

READS = policy("reports-read", "ALLOW", rule(caller(REPORTS_ID), to=[Operation(methods=("GET",))]), on=["api"])
NO_ADMIN = policy("no-admin", "DENY", rule(caller(WEB_ID), to=[Operation(paths=("/admin/*",))]), on=["api"])


async def meshadm(mesh: E2eMesh, *args: str) -> Result:
    """In this process: half a second less of a core than one of its own."""
    return await Cli([f"unix:{mesh.local.socket(one)}" for one in mesh.local.replicas])(*args)


async def why(mesh: E2eMesh, request_id: str, *more: str) -> dict[str, Any]:
    result = await meshadm(mesh, "why", request_id, "-o", "json", *more)
    assert result.exit_code == 0, result.stderr
    said: dict[str, Any] = json.loads(result.stdout)
    return said


async def test_why_names_the_rule_or_the_nearest_miss(mesh: E2eMesh) -> None:
    async with mesh.applied(READS, NO_ADMIN) as revision:
        denied = await mesh.get("/admin/1?card=4711", method="POST")
        missed = await mesh.get("/orders/7", by="reports-1", method="POST")
        assert [denied.status_code, missed.status_code] == [403, 403]
        ids = [one.headers["x-request-id"] for one in (denied, missed)]

        by_rule = await why(mesh, ids[0])
        (record,) = by_rule["records"]
        assert (record["from"], record["to"], record["port"]) == (WEB_ID, API_ID, HTTP)
        assert (record["method"], record["path"], record["status"]) == ("POST", "/admin/1", 403)
        assert (record["policy"], record["rule"]) == ({"namespace": "shop", "name": "no-admin"}, 0)
        assert (record["denied"], record["revision"]) == (True, revision)
        assert record["sidecar"] in ("api-1 of api.shop", "api-2 of api.shop")
        assert (len(by_rule["lookedAt"]), by_rule["silent"], by_rule["problems"]) == (len(mesh.instances), [], [])

        (record,) = (await why(mesh, ids[1], "--to", "api.shop"))["records"]
        assert (record["deniedBy"], record["explained"]["revision"]) == ("none", revision)
        nearest = record["explained"]["verdict"]["nearest"]
        assert nearest["policy"]["name"] == "reports-read"
        assert [(one["field"], one["got"]) for one in nearest["lacks"]] == [("methods", "POST")]
    # The policies are others now; the request is judged by those that it met.
    (record,) = (await why(mesh, ids[1]))["records"]
    assert record["explained"]["verdict"]["nearest"]["policy"]["name"] == "reports-read"
    async with mesh.etcd() as etcd:  # nothing of it stays
        assert not (await etcd.list(KEYS.questions())).kvs
        assert not (await etcd.list(f"{KEYS.prefix}/control/answers/".encode())).kvs


async def test_why_of_what_nobody_has_logged(mesh: E2eMesh) -> None:
    allowed = await mesh.get()
    assert "x-request-id" not in allowed.headers
    result = await meshadm(mesh, "why", "no-such-request")
    assert result.exit_code == 3
    assert "api-1 of api.shop: " in result.stderr
    assert "Telemetry" in result.stderr


async def test_preview_names_the_flow_that_would_break(mesh: E2eMesh, tmp_path: Path) -> None:
    """And what an AUDIT policy would have denied is counted."""
    attempt = policy("attempt", "AUDIT", rule(caller(WEB_ID), to=[Operation(methods=("PUT",))]), on=["api"])
    narrow = policy("web-may", "ALLOW", rule(caller(WEB_ID), to=[Operation(methods=("GET",))]), on=["api"])
    file = tmp_path / "policies.yaml"
    file.write_text(codec.dump_yaml([codec.to_builtins(narrow)]))
    async with mesh.applied(attempt):
        for _ in range(2):
            assert await mesh.status("/previewed/4711", method="PUT") == 200
        assert await mesh.status("/previewed/4711") == 200
        said: dict[str, Any] = {}

        async def seen() -> bool:
            result = await meshadm(mesh, "authz", "preview", "-f", str(file), "-o", "json")
            said.update(json.loads(result.stdout), code=result.exit_code)
            return any(one["route"] == "/previewed/{*}" for one in said["changes"])

        await eventually("the samples have come to the agents", seen, 20)
        assert said["code"] == 6
        (broken,) = [one for one in said["changes"] if one["route"] == "/previewed/{*}"]
        assert (broken["effect"], broken["from"], broken["to"]) == ("DENIED", WEB_ID, "api.shop")
        assert (broken["method"], broken["path"], broken["rule"]) == ("PUT", "/previewed/4711", "shop/web-may[0]")
        nearest = broken["verdict"]["nearest"]
        assert (nearest["policy"]["name"], nearest["lacks"][0]["got"]) == ("web-may", "PUT")
        assert said["audits"] == {"shop/attempt[0]": 2}
        assert sorted(one["instance"] for one in said["sidecars"]) == ["api-1", "api-2"]
        assert said["notReported"] == []
