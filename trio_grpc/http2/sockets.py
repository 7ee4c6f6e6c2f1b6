"""A connected, non-blocking socket, with TLS or without; the peer is verified by the time it is given out."""

import os
import socket
import ssl
from dataclasses import dataclass

import trio

from trio_grpc.tls import TLS


@dataclass(frozen=True, slots=True)
class Target:
    """`authority` is what HTTP calls it; `host` what its certificate must name, empty for a Unix socket."""

    authority: str
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Target":
        """`host:port`, `[v6]:port` or `unix:/path`. Raises ValueError."""
        if text.startswith("unix:"):
            return cls("localhost", path=text.removeprefix("unix:"))
        host, _, port = text.rpartition(":")
        if not host or not port.isascii() or not port.isdigit():
            raise ValueError(f"not a target: {text!r}; expected host:port or unix:/path")
        return cls(text, host.removeprefix("[").removesuffix("]"), int(port))


def context_of(tls: TLS) -> ssl.SSLContext:
    """For HTTP/2 to servers that chain to `tls.ca`. Raises ssl.SSLError where something in `tls` can't be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name, TLS 1.2 or newer
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=tls.ca.decode("ascii"))
    if tls.cert is not None and tls.key is not None:
        # OpenSSL reads files only: this one has no name, and no place on any disk.
        descriptor = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(tls.key + b"\n" + tls.cert)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    return context


async def open_socket(target: Target, context: ssl.SSLContext | None) -> socket.socket:
    """Raises OSError, ssl.SSLError too."""
    if target.path:
        stream = await trio.open_unix_socket(target.path)
    else:
        stream = await trio.open_tcp_stream(target.host, target.port)
    found = socket.socket(fileno=stream.socket.detach())
    found.setblocking(False)  # or the ssl module waits, and trio with it
    if context is None:
        return found
    try:
        secure = context.wrap_socket(found, server_hostname=target.host, do_handshake_on_connect=False)
    except BaseException:
        found.close()
        raise
    try:
        await _shake_hands(secure)
    except BaseException:
        secure.close()
        raise
    if secure.selected_alpn_protocol() != "h2":
        secure.close()
        raise OSError(f"{target.authority} does not speak HTTP/2")
    return secure


async def _shake_hands(secure: ssl.SSLSocket) -> None:
    while True:
        try:
            secure.do_handshake()
            return
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(secure)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(secure)
