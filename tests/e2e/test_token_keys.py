"""Keys of token issuers: fetched by replicas from a server outside, which sidecars never ask and never miss."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from schemas.api import mesh_pb2 as pb
from schemas.objects.authorization import Source
from tests.controlplane.federation.publisher import publishing
from tests.e2e.mesh import REPORTS_ID, E2eMesh, caller
from tests.e2e.test_crashes import restart
from tests.states.build import authentication, policy, rule
from tests.support.net import eventually
from tests.support.pki import Authority, pem
from tests.support.tokens import Issuer

WEB = Authority.create("web root")
NAME = "https://login.example"
FIRST, NEXT = Issuer(NAME), Issuer(NAME, 1)
REPORTS_MAY = policy("reports-may", "ALLOW", rule(caller(REPORTS_ID)), on=["web"])
NOBODYS = policy("tokens-only", "DENY", rule(Source(not_request_principals=("*",))), on=["web"])


@dataclass
class Reports:
    """Calls web with tokens, over one connection."""

    client: httpx.AsyncClient

    async def ask(self, token: str | None) -> tuple[int, str]:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        answer = await self.client.get("http://web.shop/", headers=headers)
        return answer.status_code, "" if answer.status_code == 200 else answer.text.strip()


def token(issuer: Issuer, kid: str = "e", **claims: object) -> str:
    return issuer.token({"sub": "anna", "aud": "web", "exp": int(time.time()) + 600, **claims}, kid=kid)


@asynccontextmanager
async def reports(mesh: E2eMesh) -> AsyncIterator[Reports]:
    async with mesh.http("reports-1") as client:
        yield Reports(client)


async def fetch(mesh: E2eMesh, uri: str) -> pb.KeySet:
    async with mesh.client() as client:
        reply = await client.call("/mesh.v1.KeySets/Fetch", pb.FetchKeySetsRequest(uri=uri), pb.KeySetsReply)
    (found,) = reply.key_sets
    return found


@pytest.mark.fault(27)
async def test_keys_reach_sidecars_through_etcd(mesh: E2eMesh) -> None:
    async with publishing(WEB.issue(ip=["127.0.0.1"])) as issuer:
        people = authentication(
            "people",
            {
                "issuer": NAME,
                "audiences": ["web"],
                "jwksUri": issuer.url,
                "jwksCa": pem(WEB.certificate).decode(),
            },
            on=["web"],
        )
        refs = [one.ref for one in (people, REPORTS_MAY, NOBODYS)]
        try:
            await mesh.apply(people, REPORTS_MAY, NOBODYS)  # the issuer is silent as yet
            async with reports(mesh) as one:
                assert await one.ask(token(FIRST)) == (401, "Jwks remote fetch is failed")
                [problem] = (await mesh.statuses())["web-1"].problems
                assert "have yet to be fetched" in problem

                issuer.serve(FIRST.jwks().encode())
                assert (await fetch(mesh, issuer.url)).keys == 3
                await eventually("a token is believed", lambda: believed(one, FIRST))
                for bad, answer in {
                    None: (403, "RBAC: access denied"),
                    "nonsense": (401, "Jwt is malformed: authorization is not 'Bearer HEADER.PAYLOAD.SIGNATURE', once"),
                    token(FIRST, exp=1): (401, "Jwt is expired"),
                    token(FIRST, aud="api"): (403, "Audiences in Jwt are not allowed"),
                    token(NEXT): (401, "Jwt verification fails"),
                    token(FIRST, kid="x"): (401, "Jwks doesn't have key to match kid or alg from Jwt"),
                }.items():
                    assert await one.ask(bad) == answer

                issuer.serve(NEXT.jwks().encode())  # rotated
                await fetch(mesh, issuer.url)
                await eventually("the new key is believed", lambda: believed(one, NEXT))
                assert (await one.ask(token(FIRST)))[0] == 401

                issuer.answers["/"] = b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"
                failed = await fetch(mesh, issuer.url)
                assert (failed.keys, failed.problem) == (3, f"{issuer.url} answers 503")
                asked = len(issuer.asked)
            os.kill(mesh.agent_pid("web-1"), signal.SIGKILL)
            mesh.kill_envoy("web-1")
            await restart(mesh, "web-1")
            async with reports(mesh) as one:
                await eventually("its keys outlive the issuer", lambda: believed(one, NEXT))
                assert (await one.ask(token(FIRST)))[0] == 401
            assert len(issuer.asked) == asked
        finally:
            await mesh.delete(*refs)


async def believed(one: Reports, issuer: Issuer) -> bool:
    return (await one.ask(token(issuer)))[0] == 200
