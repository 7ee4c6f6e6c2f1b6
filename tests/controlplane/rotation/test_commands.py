"""`meshadm ca` and `meshadm check` against a real replica, as processes."""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import trio

from controlplane.config import BundleEndpointConfig
from controlplane.store.lease_alarm import SPARE
from schemas.api import mesh_pb2 as pb
from schemas.records import OpenStreams
from tests.controlplane.api.test_revocation import revoke
from tests.controlplane.replica import Mesh, Replica, running_replica
from tests.controlplane.test_etcd_crl import credential
from tests.support.net import eventually
from tests.support.pki import Authority
from trio_etcd import open_etcd


async def meshadm(replica: Replica, *arguments: str) -> tuple[int, str, str]:
    done = await trio.run_process(
        [sys.executable, "-m", "controlplane.meshadm", *arguments],
        check=False,
        capture_stdout=True,
        capture_stderr=True,
        env={**os.environ, "MESHADM_ENDPOINT": f"unix:{replica.config.listen.socket}"},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_check_fails_before_anything_ends(own_mesh: Mesh, own_replica: Replica) -> None:
    where = ("--dir", str(own_mesh.directory))
    code, said, _ = await meshadm(own_replica, "check", *where)
    assert code == 0, said
    for what in ("mesh-root-", "mesh-issuing-", "etcd-client-", "etcd/server.crt", "SVID of replica"):
        assert what in said
    code, said, why = await meshadm(own_replica, "check", "--fail-if-expiring", "100d", *where, "-o", "json")
    assert code == 9
    bad = [one["what"] for one in json.loads(said)["certificates"] if not one["ok"]]
    assert len(bad) == 1
    assert bad[0].startswith("mesh-issuing-")
    assert json.loads(why)["error"]["name"] == "EXPIRING"


async def test_check_knows_what_others_have_to_renew(own_mesh: Mesh, tmp_path: Path) -> None:
    """A certificate of the web, on whichever host it is used, and a CA that hosts join by."""
    web, corp = Authority.create("web"), Authority.create("corp")
    files = web.issue(ip=["127.0.0.1"], lifetime=timedelta(days=5)).write(tmp_path / "web", "web")
    endpoint = BundleEndpointConfig(listen="127.0.0.1:0", profile="https_web", cert=str(files.cert), key=str(files.key))
    (tmp_path / "corp.pem").write_bytes(corp.pem)
    corp_add = ("attestor", "x509", "add", "corp", "--ca", str(tmp_path / "corp.pem"), "--allow", "any=shop/web")
    check = ("check", "--dir", str(own_mesh.directory), "-o", "json", "--fail-if-expiring")

    def of(said: str, *, ok: bool) -> set[str]:
        found = json.loads(said)["certificates"]
        return {one["what"].partition(" of replica")[0] for one in found if one["ok"] == ok}

    async with running_replica(own_mesh, tmp_path / "a", bundle_endpoint=endpoint) as replica:
        url = f"https://127.0.0.1:{replica.serving.bundle_port}/"
        async with httpx.AsyncClient(verify=ssl.create_default_context(cadata=web.pem.decode())) as client:
            assert (await client.get(url)).json()["keys"], "the endpoint serves with the file"
        assert (await meshadm(replica, *corp_add))[0] == 0

        left = int(corp.certificate.not_valid_after_utc.timestamp() - time.time())
        code, said, _ = await meshadm(replica, *check, f"{left - 600}s")
        assert code == 0, said
        # Five days are short, and as they should be: what nobody has renewed in time is a fifth of a life.
        assert {str(files.cert), str(replica.config.etcd.cert), "host authority corp"} <= of(said, ok=True)
        code, said, _ = await meshadm(replica, *check, f"{left + 600}s")
        assert (code, of(said, ok=False)) == (9, {"host authority corp"})

        web.issue(ip=["127.0.0.1"], lifetime=timedelta(seconds=60)).write(tmp_path / "web", "web")
    async with running_replica(own_mesh, tmp_path / "a", bundle_endpoint=endpoint) as replica:
        code, said, _ = await meshadm(replica, *check, "1d")
        assert (code, of(said, ok=False)) == (9, {str(files.cert)})


async def test_check_knows_sidecars_that_do_not_renew_and_leaves_out_who_is_revoked(
    own_mesh: Mesh, own_replica: Replica
) -> None:
    check = ("check", "--dir", str(own_mesh.directory))
    now = int(time.time())
    for service, left in (("orders", 3600), ("web", 600)):  # of an hour
        joined = await own_replica.join(service, "shop")
        async with joined.calls() as sidecar:
            lease = (await joined.register(sidecar, "one")).lease_id
            goes_on = OpenStreams(bound_ms=0, problem=f"of {service}")
            await joined.report(sidecar, "one", lease, svid_expires=now + left, open_streams=goes_on)
    code, said, why = await meshadm(own_replica, *check)
    assert code == 9
    lines = {line.split("  ")[0].strip(): line for line in said.splitlines()}
    assert lines["SVID of shop/orders.one"].endswith("ok")
    assert lines["SVID of shop/web.one"].endswith("TOO SOON")
    assert said.splitlines()[1].startswith("SVID of shop/web.one")  # what is wrong comes first
    assert why.splitlines()[0] == "error: 1 certificate ends too soon"
    assert "SVID of shop/web.one: 9m" in why
    await revoke(own_replica, "shop", "web")
    code, said, why = await meshadm(own_replica, *check, "-o", "json")
    assert (code, json.loads(why)["error"]["name"]) == (11, "NOT_ENDED")
    found = json.loads(said)
    assert (found["ok"], found["uncut"]) == (False, [{"sidecar": "shop/orders.one", "why": "of orders"}])
    whose = {one["what"]: one for one in found["certificates"]}
    assert "SVID of shop/web.one" not in whose
    assert whose["SVID of shop/orders.one"]["notAfter"] == now + 3600
    assert whose["SVID of shop/orders.one"]["ok"] is True


@pytest.mark.fault(25)
async def test_a_flood_of_leases_by_a_stolen_sidecar_credential_is_alarmed(
    own_mesh: Mesh, own_replica: Replica, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stolen = await credential(own_replica, "orders")
    async with open_etcd(own_mesh.etcd.endpoint, tls=stolen) as thief, trio.open_nursery() as nursery:
        for _ in range(SPARE + 20):
            nursery.start_soon(thief.grant, 3600)
    async with running_replica(own_mesh, tmp_path / "b") as other:  # looks at once, and then every minute

        async def alarmed() -> bool:
            async with other.admin() as admin:
                reply = await admin.call("Sidecars/List", pb.ListSidecarsRequest(), pb.ListSidecarsReply)
            return bool(reply.alarms)

        await eventually("the replica is alarmed", alarmed, 10)
        assert "etcd is flooded with leases" in caplog.text
        code, said, _ = await meshadm(other, "check", "--dir", str(own_mesh.directory))
        assert (code, "ALARM: etcd holds 10" in said) == (10, True)
        code, said, why = await meshadm(other, "status", "-o", "json")
        assert (code, json.loads(why)["error"]["name"]) == (10, "ALARM")
        assert "A flood of leases" in json.loads(said)["alarms"][0]


async def test_check_that_can_not_ask_is_no_check_that_found_nothing(own_mesh: Mesh, tmp_path: Path) -> None:
    done = await trio.run_process(
        [sys.executable, "-m", "controlplane.meshadm", "check", "--endpoint", f"unix:{tmp_path}/none", "-o", "json"],
        check=False, capture_stdout=True, capture_stderr=True,
    )  # fmt: skip
    assert done.returncode == 5
    assert json.loads(done.stderr)["error"]["name"] == "UNAVAILABLE"
    assert done.stdout == b""


async def test_rotate_is_followed_until_the_time_is_up_and_force_is_loud(own_replica: Replica) -> None:
    code, said, why = await meshadm(own_replica, "ca", "rotate", "issuing", "--reason", "test", "--timeout", "4s")
    assert code == 7, why
    assert "started by root-local (test): next: remove mesh-issuing-" in said
    assert "may still be valid" in said
    code, _, why = await meshadm(own_replica, "ca", "rotate")
    assert code == 4
    assert "is under way" in why
    code, said, _ = await meshadm(own_replica, "ca", "status", "-o", "json")
    found = json.loads(said)
    (old,) = (key["id"] for key in found["keys"] if key["state"] == "retired")
    assert found["rotation"]["holds"][0]["until"] > 0
    code, _, why = await meshadm(own_replica, "ca", "remove", old)
    assert code == 4
    assert "held back by 1" in why
    code, _, why = await meshadm(own_replica, "ca", "remove", old, "--force")
    assert code == 0
    assert why.count("FORCE") == 2
    code, said, _ = await meshadm(own_replica, "ca", "status")
    assert "FORCED: " in said
    assert "forced by root-local" in said


async def test_a_request_goes_to_a_file(own_replica: Replica, tmp_path: Path) -> None:
    out = tmp_path / "mesh.csr"
    code, _, why = await meshadm(own_replica, "ca", "csr", "--out", str(out))
    assert code == 0, why
    assert out.read_text().startswith("-----BEGIN CERTIFICATE REQUEST-----")
    code, _, why = await meshadm(own_replica, "ca", "install", "-f", str(out))
    assert code == 2
    assert "holds no certificates" in why
