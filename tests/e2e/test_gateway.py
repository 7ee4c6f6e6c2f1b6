"""web-1 is a gateway: requests from outside, certificates that are renewed under way, an agent that starts anew."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from schemas.objects import AnyObject
from tests.e2e.app import HTTP
from tests.e2e.mesh import E2eMesh
from tests.states.routes import http_route, written
from tests.support.net import eventually
from tests.support.pki import Authority, Leaf

ROOT = Authority.create("a public root")
HOST = "shop.example.com"
HTTP_PORT, HTTPS_PORT = 18080, 18443
RENEWED_SECONDS = 15.0  # a second by its own bound; a bound for a busy machine


def gateway() -> list[AnyObject]:
    route = http_route(
        f"- backendRefs: [{{name: api, port: {HTTP}}}]",
        name="public",
        spec="parentRefs: [{kind: Gateway, name: edge, sectionName: https}]",
    )
    text = f"""
        kind: Gateway
        metadata: {{name: edge}}
        spec:
          service: web
          listeners:
          - {{name: http, port: {HTTP_PORT}, protocol: HTTP, tls: {{httpsRedirect: true}}}}
          - name: https
            port: {HTTPS_PORT}
            protocol: HTTPS
            tls: {{certificateRefs: [{{certificate: edge/fullchain.pem, key: edge/privkey.pem}}]}}
        """
    return [*written(text), route]


def put(directory: Path, certificate: bytes, key: bytes) -> None:
    """As ACME clients do: new files in place of the old ones, one after the other."""
    (directory / "edge").mkdir(parents=True, exist_ok=True)
    for name, content in (("fullchain.pem", certificate), ("privkey.pem", key)):
        new = directory / "edge" / f"{name}.new"
        new.write_bytes(content)
        new.rename(directory / "edge" / name)


def renewed(directory: Path) -> Leaf:
    leaf = ROOT.issue(dns=[HOST])
    put(directory, leaf.chain_pem, leaf.key_pem)
    return leaf


@asynccontextmanager
async def client(mesh: E2eMesh) -> AsyncIterator[httpx.AsyncClient]:
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    at = f"https://{mesh.instances['web-1'].local}:{HTTPS_PORT}"
    async with httpx.AsyncClient(base_url=at, verify=context, headers={"Host": HOST}, timeout=20) as one:
        yield one


async def get(one: httpx.AsyncClient) -> httpx.Response:
    return await one.get("/x", extensions={"sni_hostname": HOST})


async def presented(mesh: E2eMesh) -> bytes:
    """The leaf, DER."""
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    stream = await trio.open_tcp_stream(mesh.instances["web-1"].local, HTTPS_PORT)
    async with trio.SSLStream(stream, context, server_hostname=HOST, https_compatible=True) as secure:
        await secure.do_handshake()
        found = secure.getpeercert(binary_form=True)
        assert isinstance(found, bytes)
        return found


async def test_requests_come_in_and_certificates_are_renewed(mesh: E2eMesh) -> None:
    first = renewed(mesh.certificates)
    async with mesh.applied(*gateway()), client(mesh) as kept:
        answer = await get(kept)
        assert answer.status_code == 200
        seen = {name.lower(): value for name, value in answer.json()["headers"]}
        assert seen["x-forwarded-client-cert"].endswith("/ns/shop/svc/web")
        assert seen["x-forwarded-scheme"] == "https"
        async with httpx.AsyncClient() as plain:
            moved = await plain.get(f"http://{mesh.instances['web-1'].local}:{HTTP_PORT}/y", headers={"Host": HOST})
        assert (moved.status_code, moved.headers["location"]) == (301, f"https://{HOST}:{HTTPS_PORT}/y")
        assert await presented(mesh) == _der(first)

        second = renewed(mesh.certificates)

        async def is_in_use() -> bool:
            return await presented(mesh) == _der(second)

        await eventually("the renewed certificate is shown", is_in_use, RENEWED_SECONDS)
        assert (await get(kept)).status_code == 200, "the connection from before goes on"

        put(mesh.certificates, b"no certificate", second.key_pem)

        async def is_said() -> bool:
            said = (await mesh.statuses())["web-1"].problems
            return any("Gateway shop/edge listener https" in one and "edge/fullchain.pem" in one for one in said)

        await eventually("it is said that the file is bad", is_said, RENEWED_SECONDS)
        assert await presented(mesh) == _der(second)
        await mesh.processes.kill("sidecar-web-1")
        await mesh.local.restart_sidecar(mesh.instances["web-1"])
        await mesh.everyone_current()
        assert await presented(mesh) == _der(second), "an agent that starts anew knows the last good one"
        assert (await get(kept)).status_code == 200, "Envoy has outlived its agent, and so have its connections"


def _der(leaf: Leaf) -> bytes:
    return leaf.certificate.public_bytes(Encoding.DER)
