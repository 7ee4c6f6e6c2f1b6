"""Bundles over real TLS: from whom they are taken, and from whom not."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.federation.fetch import MAX_REDIRECTS, Server, SpiffeServer, WebServer, fetch
from schemas.errors import InvalidInput, MeshError, Unauthenticated, Unavailable
from schemas.names import SpiffeId
from spiffe.jwks import MAX_DOCUMENT_BYTES
from tests.controlplane.federation.publisher import Publisher, answer, publishing
from tests.support.pki import Authority, pem

CA, MALLORY = Authority.create(), Authority.create("mallory's root")
BELOW = CA.intermediate()
ENDPOINT = "spiffe://td.example/bundles"
WEB = WebServer(pem(CA.certificate).decode())
SPIFFE = SpiffeServer(SpiffeId.parse(ENDPOINT), (CA.certificate.public_bytes(Encoding.DER),))
DOCUMENT = b'{"keys": []}'


@asynccontextmanager
async def web(ca: Authority = CA) -> AsyncIterator[Publisher]:
    async with publishing(ca.issue(ip=["127.0.0.1"]), client_ca=pem(CA.certificate)) as publisher:
        publisher.serve(DOCUMENT)
        yield publisher


@pytest.mark.spiffe(22)
@pytest.mark.spiffe(23)
async def test_https_web() -> None:
    async with web() as publisher:
        assert await fetch(publisher.url, WEB) == DOCUMENT
        assert publisher.certificates == [None]  # the client shows none
        with pytest.raises(Unauthenticated, match="not to be believed"):
            await fetch(publisher.url, WebServer())  # the CAs of this host
        with pytest.raises(Unauthenticated, match="not to be believed"):
            await fetch(publisher.url.replace("127.0.0.1", "localhost"), WEB)  # another name
    async with web(MALLORY) as publisher:
        with pytest.raises(Unauthenticated):
            await fetch(publisher.url, WEB)


@pytest.mark.spiffe(23)
async def test_https_spiffe_takes_that_identity_whatever_its_names() -> None:
    async with publishing(BELOW.issue(uri=ENDPOINT)) as publisher:  # no name of a host in it
        publisher.serve(DOCUMENT)
        assert await fetch(publisher.url, SPIFFE) == DOCUMENT


ISSUE = {
    "another workload": CA.issue(uri="spiffe://td.example/bundles2"),
    "the path in capitals": CA.issue(uri="spiffe://td.example/Bundles"),
    "another trust domain": CA.issue(uri="spiffe://other.example/bundles"),
    "a web certificate": CA.issue(ip=["127.0.0.1"]),
    "two identities": CA.issue(uri=[ENDPOINT, "spiffe://td.example/x"]),
    "signed by another": MALLORY.issue(uri=ENDPOINT),
    "expired": CA.issue(uri=ENDPOINT, lifetime=datetime.timedelta(hours=-1)),
    "no server": CA.issue(uri=ENDPOINT, server=False),
}


@pytest.mark.spiffe(23)
@pytest.mark.fault(28)
@pytest.mark.parametrize("name", ISSUE)
async def test_https_spiffe_refuses(name: str) -> None:
    async with publishing(ISSUE[name]) as publisher:
        publisher.serve(DOCUMENT)
        with pytest.raises(Unauthenticated):
            await fetch(publisher.url, SPIFFE)
        assert publisher.asked == []


@pytest.mark.spiffe(12)
async def test_an_empty_bundle_trusts_no_server() -> None:
    async with publishing(CA.issue(uri=ENDPOINT)) as publisher:
        with pytest.raises(Unauthenticated, match="no authorities"):
            await fetch(publisher.url, SpiffeServer(SPIFFE.identity, ()))


# -- redirects


@pytest.mark.spiffe(23)
@pytest.mark.fault(28)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_by_the_same_rules(status: int) -> None:
    async with publishing(CA.issue(uri=ENDPOINT)) as honest, publishing(CA.issue(uri=ENDPOINT)) as first:
        honest.serve(DOCUMENT, "/there")
        first.redirect(f"{honest.url}there", status=status)
        assert await fetch(first.url, SPIFFE) == DOCUMENT
    async with publishing(MALLORY.issue(uri=ENDPOINT)) as elsewhere, publishing(CA.issue(uri=ENDPOINT)) as first:
        elsewhere.serve(DOCUMENT)
        first.redirect(elsewhere.url, status=status)
        with pytest.raises(Unauthenticated):
            await fetch(first.url, SPIFFE)
        assert elsewhere.asked == []


@pytest.mark.spiffe(23)
@pytest.mark.fault(28)
@pytest.mark.parametrize(
    "where", ["http://127.0.0.1:1/", "https://me:pw@127.0.0.1/", "file:///etc/passwd", "https://["]
)
async def test_a_redirect_out_of_https_is_refused(where: str) -> None:
    async with web() as publisher:
        publisher.redirect(where)
        with pytest.raises(InvalidInput, match="nothing is fetched from there"):
            await fetch(publisher.url, WEB)


async def test_redirects_without_end() -> None:
    async with web() as publisher:
        publisher.redirect("/")
        with pytest.raises(Unavailable, match="redirects more than"):
            await fetch(publisher.url, WEB)
        assert len(publisher.asked) == 1 + MAX_REDIRECTS
        publisher.answers["/"] = answer(302, b"")
        with pytest.raises(Unavailable, match="does not say where"):
            await fetch(publisher.url, WEB)


# -- bounds


ODD = {
    "too large": answer(200, b"x" * (MAX_DOCUMENT_BYTES + 1)),
    "endless headers": b"HTTP/1.1 200 x\r\n" + b"X: y\r\n" * 10_000,
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "nothing": b"",
    "half of it": b"HTTP/1.1 200 x\r\nContent-Length: 12\r\n\r\n{",
    "not found": answer(404, b""),
    "broken": answer(503, b""),
}


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", ODD)
async def test_odd_answers_are_no_bundle(name: str) -> None:
    async with web() as publisher:
        publisher.answers["/"] = ODD[name]
        with pytest.raises(Unavailable):
            await fetch(publisher.url, WEB)


@pytest.mark.fault(23)
async def test_silence_ends() -> None:
    async with web() as publisher:
        with pytest.raises(Unavailable, match=r"within 0.3 s"):
            await fetch(f"{publisher.url}silent", WEB, seconds=0.3)
        assert publisher.asked == ["/silent"]
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")  # takes connections, and says nothing
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(Unavailable, match=r"within 0.3 s"):
            await fetch(f"https://127.0.0.1:{port}/", WEB, seconds=0.3)


UNUSABLE = [
    WebServer(""),
    WebServer("é"),
    WebServer("-----BEGIN CERTIFICATE-----"),
    SpiffeServer(SPIFFE.identity, (b"x",)),
]


@pytest.mark.parametrize("server", UNUSABLE)
async def test_trust_that_can_not_be_used_trusts_nobody(server: Server) -> None:
    """As somebody may have put it into etcd by hand."""
    async with web() as publisher:
        with pytest.raises((InvalidInput, Unauthenticated)):
            await fetch(publisher.url, server)
        assert publisher.asked == []


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "no-such-host.invalid", "a..b"])
async def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(MeshError):
        await fetch(f"https://{host}/", WEB)


@pytest.mark.parametrize("server", [WEB, SPIFFE])
async def test_nobody_there(server: Server) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        await fetch("https://127.0.0.1:1/", server)


@pytest.mark.spiffe(22)
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "https://a@127.0.0.1/", "https:///x", "https://127.0.0.1:x/", "https://[/"]
)
async def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(MeshError, match="nothing is fetched"):
        await fetch(url, WEB)
