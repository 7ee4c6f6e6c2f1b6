"""Two real meshes call each other: exactly who is named may, by the bundle of its own trust domain only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from deploy.etcd import EtcdBinary
from schemas.errors import NotFound
from schemas.objects import AnyObject
from spiffe.bundle import record
from spiffe.jwks import encode
from tests.e2e.app import GREETING, TCP
from tests.e2e.mesh import E2eMesh, caller
from tests.e2e_federation.meshes import API_ID, PARTNER, SHOP, WEB_ID, Meshes
from tests.e2e_identity.mesh import Peer
from tests.states.build import federates, policy, rule
from tests.support.etcd_server import new_data_directory
from tests.support.net import eventually
from tests.support.pki import Authority

MALLORY = Authority.create("mallory's root")
MALLORY_ID = "spiffe://mallory.example/anybody"


@pytest.fixture(scope="module")
def meshes(etcd_binary: EtcdBinary) -> Iterator[Meshes]:
    directory = new_data_directory()
    both = Meshes.in_directory(directory)
    try:
        trio.run(both.start)
        yield both
    finally:
        trio.run(both.stop)
        shutil.rmtree(directory, ignore_errors=True)


async def test_each_calls_the_other_and_nobody_else_does(meshes: Meshes) -> None:
    for caller_mesh, name, host, identity in (
        (meshes.shop, "web-1", "api.other", WEB_ID),
        (meshes.partner, "api-1", "web.other", API_ID),
    ):
        answer = await caller_mesh.get("/x", by=name, host=host)
        assert answer.status_code == 200, (name, answer.text)
        seen = dict(answer.json()["headers"])
        assert seen["x-forwarded-client-cert"].endswith(f"URI={identity}")
        assert await caller_mesh.status(by="reports-1", host=host) == 403  # of the same trust domain, and not named


async def test_tcp_between_meshes(meshes: Meshes) -> None:
    for name, greeting in (("web-1", f"{GREETING}api-1"), ("reports-1", "")):
        stream = await trio.open_tcp_stream(meshes.shop.instances[name].local, 15001)
        async with stream:
            await stream.send_all(f"CONNECT api.other:{TCP} HTTP/1.1\r\nHost: api.other:{TCP}\r\n\r\n".encode())
            said = b""
            with trio.fail_after(10):
                while b"\r\n\r\n" not in said or (greeting and greeting.encode() not in said):
                    data = await stream.receive_some()
                    if not data:
                        break
                    said += data
        assert (b" 200 " in said.split(b"\r\n")[0]) == bool(greeting)


async def test_the_server_must_be_exactly_who_was_meant(meshes: Meshes) -> None:
    """Another workload of the same, trusted, trust domain at that address is not spoken to."""
    assert await meshes.shop.status(by="web-1", host="impostor.other") == 503
    assert await meshes.partner.status(by="api-1", host="impostor.other") == 503


def forged(directory: Path, mesh: E2eMesh, claims: str) -> Peer:
    paths = MALLORY.issue(uri=claims).write(directory, "forged")
    return Peer(mesh.instances["web-1"], paths.cert, paths.key)


@pytest.mark.spiffe(8)
@pytest.mark.spiffe(14)
async def test_a_trust_domain_speaks_for_nobody_but_itself(meshes: Meshes, tmp_path: Path) -> None:
    """Mallory's is federated too, and its CA signs whatever it likes."""
    mesh = meshes.shop
    document = encode(record("mallory.example", [MALLORY.certificate], 1)).decode()
    await mesh.apply(federates("mallory", "mallory.example", bundle=document))

    async def comes_in() -> bool:
        try:
            return "403" in (await forged(tmp_path, mesh, MALLORY_ID).ask()).status
        except OSError:
            return False

    await eventually("mallory.example is trusted, and not allowed", comes_in)
    for claimed in (WEB_ID, f"spiffe://{SHOP}/ns/back-office/svc/reports", API_ID, f"spiffe://{PARTNER}/control-plane"):
        with pytest.raises(OSError, match=r"alert|reset|closed|EOF|peer"):
            await forged(tmp_path, mesh, claimed).ask()
    named = policy("mallory-may", "ALLOW", rule(caller(MALLORY_ID)), on=["web"])
    everybody = policy("everybody-may", "ALLOW", rule(), on=["web"])
    async with mesh.applied(everybody):
        assert "403" in (await forged(tmp_path, mesh, MALLORY_ID).ask()).status  # a foreigner is let in by name only
        assert await meshes.partner.status(by="reports-1", host="web.other") == 403
    async with mesh.applied(named):
        assert "200" in (await forged(tmp_path, mesh, MALLORY_ID).ask()).status
        assert "403" in (await forged(tmp_path, mesh, f"{MALLORY_ID}else").ask()).status
    await mesh.restore([federates("mallory", "mallory.example").ref])


@pytest.mark.spiffe(12)
@pytest.mark.fault(28)
async def test_trust_ends_with_its_object_on_open_connections_too(meshes: Meshes) -> None:
    shop, partner = meshes.shop, meshes.partner
    trust: AnyObject = await meshes.trust_of(partner)
    async with shop.http("web-1") as out, partner.http("api-1") as back:  # connections that are kept

        async def both_answer() -> bool:
            answers = [await out.get("http://api.other/"), await back.get("http://web.other/")]
            return [one.status_code for one in answers] == [200, 200]

        await eventually("they call each other", both_answer)
        await shop.delete(trust.ref)
        assert (await out.get("http://api.other/")).status_code == 503
        assert (await back.get("http://web.other/")).status_code in (403, 503)  # by the open connection, or a new one
        status = (await shop.statuses())["web-1"]
        assert any("partner.example" in problem for problem in status.problems)
        with pytest.raises(NotFound, match="no TrustBundle object"):
            await meshes.fetch(shop, PARTNER)
        await shop.apply(trust)
        await meshes.fetch(shop, PARTNER)
        await eventually("they call each other again", both_answer)


@pytest.mark.spiffe(12)
@pytest.mark.fault(28)
async def test_a_bundle_that_is_emptied_ends_it_as_well(meshes: Meshes) -> None:
    """An operator does it here; what is fetched comes the same way."""
    shop = meshes.shop
    trust = await meshes.trust_of(meshes.partner)
    await shop.apply(federates("other", PARTNER, bundle='{"keys": []}'))

    async def refused() -> bool:
        return await shop.status(by="web-1", host="api.other") == 503

    await eventually("nobody of partner.example is called", refused)
    _, table = await shop.local.meshadm("federation", "status")
    assert "nobody is trusted" in table
    await shop.apply(trust)
    await meshes.fetch(shop, PARTNER)

    async def answers() -> bool:
        return await shop.status(by="web-1", host="api.other") == 200

    await eventually("it is called again", answers)
