"""[edge] One GET over HTTPS from a stranger's server: bounded in size, and only at addresses where it may be asked.

A document that somebody named in an object is fetched by a replica, from within its network: who may write the object
must not learn by that what else is there. So addresses may be refused, before anything is said to them, and nothing
but the server that the URL names is ever sent a request.
"""

import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult, urlsplit

import h11
import trio

from schemas.errors import InvalidInput, Problem, Unauthenticated, Unavailable

_MAX_HEADER_BYTES = 16 * 1024
_CHUNK = 64 * 1024

Tls = trio.SSLStream[trio.SocketStream]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
CheckPeer = Callable[[Tls, str], None]
"""After the handshake, with the URL; raises Unauthenticated."""


def checked_url(url: str) -> SplitResult:
    """Raises InvalidInput."""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.hostname.isascii() and parts.port != 0  # type: ignore[union-attr]  # not None
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or parts.scheme != "https" or "@" in parts.netloc or not url.isascii() or not url.isprintable():
        remedy = "the endpoint, and wherever it redirects, must be https without user info"
        raise InvalidInput(Problem(f"URL {url[:200]!r}", "nothing is fetched from there", remedy=remedy))
    return parts


async def web_context(ca_pem: str | None, field: str) -> ssl.SSLContext:
    """For a server with a certificate for the URL's host, of the CAs in `ca_pem` or, without, of this host's.

    Raises InvalidInput about `field` for CAs that can't be read.
    """
    try:
        if ca_pem is not None and not ca_pem.strip():
            raise ValueError("it is empty")  # which Python would take for "those of this host"
        if ca_pem is None:  # 60 ms of a CPU, which nobody in the loop should wait for
            context = await trio.to_thread.run_sync(ssl.create_default_context)
        else:
            context = ssl.create_default_context(cadata=ca_pem)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise InvalidInput(Problem(field, f"no CA certificates: {error}", remedy="give them in PEM")) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def get(
    url: str,
    context: ssl.SSLContext,
    *,
    max_bytes: int,
    check_peer: CheckPeer | None = None,
    refused: Sequence[Network] = (),
) -> tuple[int, str, bytes]:
    """(status, Location, body); the body of a 200 only. Redirects are not followed, time is the caller's to bound.

    refused: networks whose addresses are not asked. Raises Unavailable, Unauthenticated, InvalidInput (the URL).
    """
    parts = checked_url(url)
    host, port = parts.hostname or "", parts.port or 443
    try:
        if refused:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            _check_addresses(url, [str(one[4][0]) for one in found], refused)
        stream = await trio.open_tcp_stream(host, port)
        async with stream:
            # Names may mean another address a moment later.
            _check_addresses(url, [str(stream.socket.getpeername()[0])], refused)
            tls = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
            await tls.do_handshake()
            if check_peer is not None:
                check_peer(tls, url)
            return await _exchange(tls, parts, url, max_bytes)
    except (OSError, UnicodeError, trio.BrokenResourceError) as error:  # UnicodeError: a name that no resolver takes
        cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Unauthenticated(
                f"{url}: the server's certificate is not to be believed: {cause.verify_message}"
            ) from error
        raise Unavailable(f"{url} does not answer: {cause or error}") from error
    except h11.RemoteProtocolError as error:
        raise Unavailable(f"{url} does not speak HTTP as it must: {error}") from error


def _check_addresses(url: str, addresses: Sequence[str], refused: Sequence[Network]) -> None:
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in refused):
            raise Unavailable(f"{url} is at {address}, where this replica may not ask")


async def _exchange(tls: Tls, parts: SplitResult, url: str, max_bytes: int) -> tuple[int, str, bytes]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER_BYTES)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [
        ("Host", parts.netloc),
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    try:
        request = connection.send(h11.Request(method="GET", target=target, headers=headers)) or b""
    except h11.LocalProtocolError as error:
        raise InvalidInput(Problem(f"URL {url[:200]!r}", f"can't be asked for: {error}")) from error
    await tls.send_all(request + (connection.send(h11.EndOfMessage()) or b""))
    status, location = 0, ""
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await tls.receive_some(_CHUNK)))
        elif isinstance(event, h11.Response):
            status = event.status_code
            location = next((value.decode("latin-1") for name, value in event.headers if name == b"location"), "")
            if status != 200:
                return status, location, b""
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > max_bytes:
                raise Unavailable(f"{url} gives more than {max_bytes} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return status, location, bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            raise Unavailable(f"{url} closed the connection before it answered")
