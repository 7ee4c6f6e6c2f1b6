"""web-1 is a gateway: requests from outside, certificates that are renewed under way, an agent that starts anew.

It has three certificates: for one name with an ECDSA and an RSA key, and for another name.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from schemas.objects import AnyObject
from tests.e2e.app import HTTP
from tests.e2e.lasting import UPGRADE, Echo, over
from tests.e2e.mesh import E2eMesh
from tests.states.routes import http_route, written
from tests.support.net import eventually
from tests.support.pki import Authority, Leaf

ROOT = Authority.create("a public root")
HOST, OTHER_HOST = "shop.example.com", "admin.example.com"
NAMES = {"ecdsa": HOST, "rsa": HOST, "other": OTHER_HOST}
"""Certificate, and folder of its files -> for whom it is."""
HTTP_PORT, HTTPS_PORT = 18080, 18443
RENEWED_SECONDS = 15.0  # a second by its own bound; a bound for a busy machine


def gateway() -> list[AnyObject]:
    files = ", ".join(f"{{certificate: {one}/fullchain.pem, key: {one}/privkey.pem}}" for one in NAMES)
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
            tls: {{certificateRefs: [{files}]}}
        """
    return [*written(text), route]


def put(directory: Path, certificate: bytes, key: bytes) -> None:
    """As ACME clients do: new files in place of the old ones, one after the other."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (("fullchain.pem", certificate), ("privkey.pem", key)):
        new = directory / f"{name}.new"
        new.write_bytes(content)
        new.rename(directory / name)


def renewed(directory: Path, rsa_key: rsa.RSAPrivateKey) -> dict[str, Leaf]:
    """All of them; a new key of RSA would take its time."""
    leaves = {one: ROOT.issue(dns=[name], key=rsa_key if one == "rsa" else None) for one, name in NAMES.items()}
    for one, leaf in leaves.items():
        put(directory / one, leaf.chain_pem, leaf.key_pem)
    return leaves


@asynccontextmanager
async def client(mesh: E2eMesh) -> AsyncIterator[httpx.AsyncClient]:
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    at = f"https://{mesh.instances['web-1'].local}:{HTTPS_PORT}"
    async with httpx.AsyncClient(base_url=at, verify=context, headers={"Host": HOST}, timeout=20) as one:
        yield one


async def get(one: httpx.AsyncClient) -> httpx.Response:
    return await one.get("/x", extensions={"sni_hostname": HOST})


@asynccontextmanager
async def connected(
    mesh: E2eMesh, name: str = HOST, *, only_rsa: bool = False
) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    if only_rsa:
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose cipher suites say it
        context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    stream = await trio.open_tcp_stream(mesh.instances["web-1"].local, HTTPS_PORT)
    async with trio.SSLStream(stream, context, server_hostname=name, https_compatible=True) as secure:
        await secure.do_handshake()
        yield secure


async def presented(mesh: E2eMesh) -> dict[str, bytes]:
    """The leaves that clients get, DER."""
    found = {}
    for one, name in NAMES.items():
        async with connected(mesh, name, only_rsa=one == "rsa") as secure:
            found[one] = secure.getpeercert(binary_form=True)
    return found


@asynccontextmanager
async def web_socket(mesh: E2eMesh) -> AsyncIterator[Echo]:
    async with connected(mesh) as secure:
        await secure.send_all(f"GET /x HTTP/1.1\r\nHost: {HOST}\r\n{UPGRADE}".encode())
        assert (await secure.receive_some()).startswith(b"HTTP/1.1 101 ")
        yield partial(over, secure)


async def test_requests_come_in_and_certificates_are_renewed(mesh: E2eMesh) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    first = renewed(mesh.certificates, rsa_key)
    async with mesh.applied(*gateway()), client(mesh) as kept, web_socket(mesh) as echo:
        answer = await get(kept)
        assert answer.status_code == 200
        seen = {name.lower(): value for name, value in answer.json()["headers"]}
        assert seen["x-forwarded-client-cert"].endswith("/ns/shop/svc/web")
        assert seen["x-forwarded-scheme"] == "https"
        async with httpx.AsyncClient() as plain:
            moved = await plain.get(f"http://{mesh.instances['web-1'].local}:{HTTP_PORT}/y", headers={"Host": HOST})
        assert (moved.status_code, moved.headers["location"]) == (301, f"https://{HOST}:{HTTPS_PORT}/y")
        assert await presented(mesh) == _der(first)

        second = renewed(mesh.certificates, rsa_key)

        async def is_in_use() -> bool:
            return await presented(mesh) == _der(second)

        await eventually("the renewed certificates are shown", is_in_use, RENEWED_SECONDS)
        assert (await get(kept)).status_code == 200, "the connection from before goes on"

        put(mesh.certificates / "rsa", b"no certificate", second["rsa"].key_pem)

        async def is_said() -> bool:
            said = (await mesh.statuses())["web-1"].problems
            return any("Gateway shop/edge listener https" in one and "rsa/fullchain.pem" in one for one in said)

        await eventually("it is said that the file is bad", is_said, RENEWED_SECONDS)
        assert await presented(mesh) == _der(second)
        await mesh.processes.kill("sidecar-web-1")
        await mesh.local.restart_sidecar(mesh.instances["web-1"])
        await mesh.everyone_current()
        assert await presented(mesh) == _der(second), "an agent that starts anew knows the last good one"
        assert (await get(kept)).status_code == 200, "Envoy has outlived its agent, and so have its connections"
        assert await echo(b"x") == b"x"


def _der(leaves: dict[str, Leaf]) -> dict[str, bytes]:
    return {one: leaf.certificate.public_bytes(Encoding.DER) for one, leaf in leaves.items()}
