"""Our bundle endpoint over real TLS: what it serves, to whom, and that those who misuse it harm nobody else."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.federation.certificates import FileCertificate, SvidCertificate
from controlplane.federation.endpoint import MAX_REQUEST_BYTES, BundleEndpoint, Certificate
from controlplane.federation.fetch import SpiffeServer, WebServer, fetch
from schemas.errors import InvalidInput, Unauthenticated, Unavailable
from schemas.names import SpiffeId
from schemas.records import TrustBundle
from spiffe.bundle import record
from spiffe.jwks import decode, encode
from tests.support.pki import Authority, pem
from trio_grpc import ServerTLS

CA = Authority.create()
WEB = WebServer(pem(CA.certificate).decode())
ID = "spiffe://shop.example/control-plane"
BUNDLES = [record("shop.example", [CA.certificate], number) for number in (1, 2)]


class Served:
    def __init__(self, endpoint: BundleEndpoint, port: int) -> None:
        self.endpoint = endpoint
        self.port = port
        self.url = f"https://127.0.0.1:{port}/bundle"

    async def ask(self, text: bytes) -> bytes:
        async with await self.tls() as stream:
            await stream.send_all(text)
            return await _all(stream)

    async def tls(self) -> trio.SSLStream[trio.SocketStream]:
        context = ssl.create_default_context(cadata=WEB.ca_pem)
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        return trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)

    async def plain(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


async def _all(stream: trio.abc.ReceiveStream) -> bytes:
    data = bytearray()
    try:
        async for chunk in stream:
            data += chunk
    except trio.BrokenResourceError:
        pass
    return bytes(data)


current = {"bundle": BUNDLES[0]}


def newest() -> TrustBundle:
    return current["bundle"]


@asynccontextmanager
async def serving(certificate: Certificate, **options: object) -> AsyncIterator[Served]:
    endpoint = BundleEndpoint(certificate, newest, "/bundle", **options)  # type: ignore[arg-type]  # by name
    current["bundle"] = BUNDLES[0]
    async with trio.open_nursery() as nursery:
        port = await nursery.start(endpoint.serve, "127.0.0.1", 0)
        yield Served(endpoint, port)
        nursery.cancel_scope.cancel()


def file_certificate(directory: Path) -> FileCertificate:
    paths = CA.issue(ip=["127.0.0.1"]).write(directory, "web")
    return FileCertificate(paths.cert, paths.key)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(file_certificate(tmp_path)) as endpoint:
        yield endpoint


@pytest.mark.spiffe(22)
async def test_anybody_gets_the_newest_bundle(served: Served) -> None:
    """Without a client certificate."""
    assert await fetch(served.url, WEB) == encode(BUNDLES[0])
    current["bundle"] = BUNDLES[1]
    data = await fetch(served.url, WEB)
    data.decode("utf-8")
    found = decode(data, "ours")
    assert found.x509_authorities == BUNDLES[1].x509_authorities
    assert (found.sequence, found.refresh_hint_seconds) == (2, 300)


@pytest.mark.spiffe(22)
async def test_https_spiffe_serves_with_the_replicas_svid() -> None:
    leaf, renewed = CA.issue(uri=ID), CA.issue(uri=ID)
    held: list[ServerTLS] = []
    server = SpiffeServer(SpiffeId.parse(ID), (CA.certificate.public_bytes(Encoding.DER),))
    async with serving(SvidCertificate(lambda: held[-1] if held else None)) as endpoint:
        with pytest.raises(Unavailable):
            await fetch(endpoint.url, server)
        held.append(ServerTLS(leaf.chain_pem, leaf.key_pem))
        assert await fetch(endpoint.url, server) == encode(BUNDLES[0])
        with pytest.raises(Unauthenticated):
            await fetch(endpoint.url, WEB)  # it names no host
        held.append(ServerTLS(renewed.chain_pem, renewed.key_pem))
        assert await fetch(endpoint.url, server) == encode(BUNDLES[0])
        assert await shown(endpoint, server) == renewed.certificate.public_bytes(Encoding.DER)


async def shown(endpoint: Served, server: SpiffeServer | None = None) -> bytes | None:
    """The certificate of the server."""
    context = ssl.create_default_context(cadata=WEB.ca_pem)
    context.check_hostname = server is None
    async with await endpoint.plain() as stream:
        tls = trio.SSLStream(stream, context, server_hostname="127.0.0.1")
        await tls.do_handshake()
        found: bytes | None = tls.getpeercert(binary_form=True)
        return found


async def test_a_renewed_file_is_served_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(file_certificate(tmp_path)) as endpoint:
        first = await shown(endpoint)
        renewed = CA.issue(ip=["127.0.0.1"])
        (tmp_path / "web.crt").write_bytes(renewed.chain_pem)
        assert await shown(endpoint) == first  # the key is not there yet: the last good pair serves
        assert "keeps its last certificate" in caplog.text
        (tmp_path / "web.key").write_bytes(renewed.key_pem)
        assert await shown(endpoint) == renewed.certificate.public_bytes(Encoding.DER)
        (tmp_path / "web.key").unlink()
        assert await shown(endpoint) == renewed.certificate.public_bytes(Encoding.DER)


def test_files_that_can_not_serve_are_refused_at_the_start(tmp_path: Path) -> None:
    paths = CA.issue(ip=["127.0.0.1"]).write(tmp_path, "one")
    other = CA.issue(ip=["127.0.0.1"]).write(tmp_path, "two")
    for cert, key in ((paths.cert, other.key), (paths.cert, tmp_path / "none"), (paths.key, paths.key)):
        with pytest.raises(InvalidInput, match="can't be used"):
            FileCertificate(cert, key)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /bundle?x=1 HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"HEAD /bundle HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /bundle/../bundle HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /bundle HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", b"405"),
        (b"GET /bundle HTTP/1.1\r\n\r\n", b"400"),
        (b"\x00\x01\r\n\r\n", b"400"),
        (b"GET /bundle HTTP/1.1\r\n" + b"X: y\r\n" * MAX_REQUEST_BYTES, b"431"),
    ],
)
async def test_requests(served: Served, text: bytes, status: bytes) -> None:
    reply = await served.ask(text)
    assert reply.split(b" ")[1] == status
    assert (b'"keys"' in reply) == (status == b"200" and text.startswith(b"GET"))


# -- those who misuse it


@pytest.mark.fault(23)
async def test_slow_silent_and_half_open_clients_harm_nobody(tmp_path: Path) -> None:
    """More of them than there is room for: honest clients are served at once, and the others are gone in time."""
    async with serving(file_certificate(tmp_path), connection_seconds=1.0, max_connections=8) as endpoint:
        everyone: list[trio.abc.Stream] = []
        silent = [await endpoint.plain() for _ in range(6)]  # never begin TLS
        slow = [await endpoint.tls() for _ in range(3)]  # never end their request
        half = [await endpoint.plain() for _ in range(3)]
        for request in slow:
            await request.send_all(b"GET /bundle HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        for stream in half:
            await stream.send_all(b"\x16\x03\x01")
            await stream.send_eof()
        everyone += [*silent, *slow, *half]
        with trio.fail_after(0.9):  # less than what a connection may take
            for _ in range(5):
                assert await fetch(endpoint.url, WEB) == encode(BUNDLES[0])
        assert endpoint.endpoint.connections <= 8
        with trio.fail_after(5):
            for one in everyone:
                assert await _all(one) == b""
        assert endpoint.endpoint.connections == 0
        for one in everyone:
            await trio.aclose_forcefully(one)


@pytest.mark.fault(23)
async def test_a_client_that_trickles_is_cut_off(tmp_path: Path) -> None:
    """A byte now and then does not buy more time."""
    async with serving(file_certificate(tmp_path), connection_seconds=0.5) as endpoint:
        stream = await endpoint.tls()
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await _trickle(stream)
        await trio.aclose_forcefully(stream)


async def _trickle(stream: trio.SSLStream[trio.SocketStream]) -> None:
    while True:
        await stream.send_all(b"G")
        await trio.sleep(0.05)
