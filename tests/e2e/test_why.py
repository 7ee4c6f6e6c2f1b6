"""`meshadm why`: a denied request, found by the id in its answer, in the log of the sidecar that denied it."""

from __future__ import annotations

import json
from typing import Any

from schemas.objects.authorization import Operation
from tests.e2e.app import HTTP
from tests.e2e.mesh import API_ID, KEYS, REPORTS_ID, WEB_ID, E2eMesh, caller
from tests.states.build import policy, rule

READS = policy("reports-read", "ALLOW", rule(caller(REPORTS_ID), to=[Operation(methods=("GET",))]), on=["api"])
NO_ADMIN = policy("no-admin", "DENY", rule(caller(WEB_ID), to=[Operation(paths=("/admin/*",))]), on=["api"])


async def why(mesh: E2eMesh, request_id: str, *more: str) -> dict[str, Any]:
    _, output = await mesh.local.meshadm("why", request_id, "-o", "json", *more)
    said: dict[str, Any] = json.loads(output)
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
    code, said = await mesh.local.meshadm("why", "no-such-request", check=False)
    assert code == 3
    assert "api-1 of api.shop: " in said
    assert "Telemetry" in said
