"""A bundle endpoint of somebody else, which serves whatever a test wants it to, honest or not."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from controlplane.federation.certificates import context_of
from tests.support.pki import Leaf


@dataclass
class Publisher:
    port: int
    answers: dict[str, bytes] = field(default_factory=dict)
    """Whole HTTP answers by path."""
    asked: list[str] = field(default_factory=list)
    certificates: list[bytes | None] = field(default_factory=list)
    """What each client has shown."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/"

    def serve(self, document: bytes, path: str = "/") -> None:
        self.answers[path] = answer(200, document)

    def redirect(self, where: str, path: str = "/", status: int = 302) -> None:
        self.answers[path] = answer(status, b"", f"Location: {where}\r\n")


def answer(status: int, body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} x\r\n{more}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@asynccontextmanager
async def publishing(leaf: Leaf, *, client_ca: bytes | None = None) -> AsyncIterator[Publisher]:
    context = context_of(leaf.chain_pem, leaf.key_pem)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=client_ca.decode())
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    publisher = Publisher(listeners[0].socket.getsockname()[1])

    async def handle(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            data = b""
            while b"\r\n\r\n" not in data:
                received = await tls.receive_some()
                if not received:
                    return
                data += received
            path = data.split(b" ")[1].decode()
            publisher.asked.append(path)
            publisher.certificates.append(tls.getpeercert(binary_form=True))
            if path in publisher.answers:
                await tls.send_all(publisher.answers[path])
                await tls.aclose()
            else:
                await trio.sleep_forever()  # silent
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield publisher
        nursery.cancel_scope.cancel()
