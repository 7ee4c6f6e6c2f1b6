"""`meshadm jwks`, and what else tells of fetched keys, against a real replica and a real issuer."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.api.convert import key_of
from controlplane.config import TokenKeysConfig
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.objects.authorization import Source
from tests.controlplane.federation.publisher import publishing
from tests.controlplane.meshadm.fake_replica import Cli
from tests.controlplane.replica import Mesh, Replica, running_replica
from tests.states.build import authentication, policy, rule, service
from tests.support.net import eventually
from tests.support.pki import Authority, pem
from tests.support.tokens import Issuer

WEB = Authority.create("web root")
ONE = Issuer("https://one.example")


ANNAS = policy("annas", "ALLOW", rule(Source(namespaces=("shop",), request_principals=("*/anna",))), on=["orders"])
EXPLAIN = ("authz", "explain", "--from", "web.shop", "--to", "orders.shop", "--jwt")


def jwt(issuer: Issuer, directory: Path, **claims: object) -> str:
    path = directory / "token"
    path.write_text(issuer.token({"sub": "anna", "exp": int(time.time()) + 600, **claims}) + "\n")
    return str(path)


async def meshadm(replica: Replica, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    result = await Cli([f"unix:{replica.config.listen.socket}"])(*arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
async def free_replica(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Replica]:
    """That may ask issuers on its own host."""
    async with running_replica(mesh, tmp_path, token_keys=TokenKeysConfig(refused_networks=())) as running:
        yield running


async def test_fetching_is_seen_and_driven_by_commands(free_replica: Replica, tmp_path: Path) -> None:
    replica = free_replica
    async with publishing(WEB.issue(ip=["127.0.0.1"])) as issuer, replica.admin() as admin:
        issuer.serve(ONE.jwks().encode())
        of_one = {"issuer": ONE.name, "jwksUri": issuer.url, "jwksCa": pem(WEB.certificate).decode()}
        value = authentication("people", of_one)
        objects = (value, service("orders"), ANNAS)
        await admin.apply(*(pb.Change(put=codec.encode(one)) for one in objects))

        async def fetched() -> bool:
            code, said, _ = await meshadm(replica, "jwks", "status", "-n", "shop", "-o", "json")
            found = json.loads(said)["keySets"]
            return code == 0 and [(one["uri"], one["objects"], one["keys"]) for one in found] == [
                (issuer.url, ["shop/people"], 3)
            ]

        try:
            await eventually("the replica has fetched by itself", fetched)
            code, said, _ = await meshadm(replica, "jwks", "fetch", issuer.url)
            assert (code, issuer.url in said, "3 keys, unchanged for" in said) == (0, True, True)
            assert len(issuer.asked) == 2

            code, said, why = await meshadm(replica, *EXPLAIN, jwt(ONE, tmp_path))
            assert (code, "allowed by rule 0 of" in said) == (0, True), said + why
            code, said, _ = await meshadm(replica, *EXPLAIN, jwt(Issuer(ONE.name), tmp_path))
            assert (code, "refused with 401: Jwt verification fails" in said) == (6, True)
            code, said, _ = await meshadm(replica, *EXPLAIN, jwt(ONE, tmp_path, sub="bob"))
            assert (code, "the token's principal" in said) == (6, True)

            issuer.serve(b"<html>")
            code, _, why = await meshadm(replica, "jwks", "fetch", issuer.url)
            assert (code, "gives no usable keys" in why) == (5, True)
            code, said, _ = await meshadm(replica, "jwks", "status")
            assert (code, "gives no usable keys" in said) == (5, True)
            code, said, _ = await meshadm(replica, "describe", "requestauthentication", "people", "-n", "shop")
            assert (code, "3 keys" in said, "gives no usable keys" in said) == (0, True, True)
            form = ("describe", "requestauthentication", "people", "-n", "shop", "-o", "json")
            _, said, _ = await meshadm(replica, *form)
            assert json.loads(said)["keySets"][0]["failures"] == 1

            code, _, why = await meshadm(replica, "jwks", "fetch", "https://elsewhere.example/")
            assert (code, "no RequestAuthentication names" in why) == (3, True)
        finally:
            await admin.apply(*(pb.Change(delete=key_of(one.ref)) for one in objects))
