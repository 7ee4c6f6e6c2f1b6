"""[edge] A bundle document over HTTPS, from a server that proves to be the one that was meant.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md, section 5.2. A redirect is followed by the
same rules: to an https URL, to a server that proves the same.
"""

import ssl
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import h11
import trio
from cryptography import x509

from schemas.errors import InvalidInput, MeshError, Problem, Unauthenticated, Unavailable
from schemas.names import SpiffeId
from spiffe.bundle import pem
from spiffe.jwks import MAX_DOCUMENT_BYTES
from spiffe.x509 import UNREADABLE, leaf_identity

# For all of it, redirects too; well within the life of the lock under which it is done.
FETCH_SECONDS = 6.0
MAX_REDIRECTS = 3
_MAX_HEADER_BYTES = 16 * 1024
_CHUNK = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Tls = trio.SSLStream[trio.SocketStream]


@dataclass(frozen=True, slots=True)
class WebServer:
    """Profile https_web: a certificate for the URL's host, of the CAs in `ca_pem` or, without, of this host's."""

    ca_pem: str | None = None


@dataclass(frozen=True, slots=True)
class SpiffeServer:
    """Profile https_spiffe: an X.509-SVID of exactly that identity, by its trust domain's authorities (DER)."""

    identity: SpiffeId
    authorities: tuple[bytes, ...]


Server = WebServer | SpiffeServer


async def fetch(url: str, server: Server, *, seconds: float = FETCH_SECONDS) -> bytes:
    """The document behind `url`. Raises Unavailable, Unauthenticated (not who was meant), InvalidInput (the URL)."""
    context = _context(server)
    where = url
    try:
        with trio.fail_after(seconds):
            for _ in range(1 + MAX_REDIRECTS):
                status, said, body = await _get(where, _checked(where), context, server)
                if status == 200:
                    return body
                if status not in _REDIRECTS:
                    raise Unavailable(f"{where} answers {status}")
                if not said:
                    raise Unavailable(f"{where} answers {status} and does not say where to go")
                where = _redirected(where, said)
    except trio.TooSlowError:
        raise Unavailable(f"{where} has not given its bundle within {seconds:g} s") from None
    raise Unavailable(f"{url} redirects more than {MAX_REDIRECTS} times")


def _redirected(where: str, said: str) -> str:
    try:
        return urljoin(where, said)
    except ValueError:
        return said  # no URL, as `_checked` will say


def _checked(url: str) -> SplitResult:
    """Raises InvalidInput."""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.hostname.isascii() and parts.port != 0  # type: ignore[union-attr]  # not None
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or parts.scheme != "https" or "@" in parts.netloc or not url.isascii() or not url.isprintable():
        remedy = "the endpoint, and wherever it redirects, must be https without user info"
        raise InvalidInput(Problem(f"URL {url[:200]!r}", "no bundle is fetched from there", remedy=remedy))
    return parts


def _context(server: Server) -> ssl.SSLContext:
    """Raises Unauthenticated for a server that nothing can prove, InvalidInput for CAs that can't be read."""
    if isinstance(server, WebServer):
        try:
            if server.ca_pem is not None and not server.ca_pem.strip():
                raise ValueError("it is empty")  # which Python would take for "those of this host"
            context = ssl.create_default_context(cadata=server.ca_pem)
        except (ssl.SSLError, ValueError, TypeError) as error:
            raise InvalidInput(Problem("webCa", f"no CA certificates: {error}", remedy="give them in PEM")) from error
    else:
        if not server.authorities:
            domain = server.identity.trust_domain
            raise Unauthenticated(f"{domain} has no authorities that are known here: nobody can prove to be of it")
        # OpenSSL builds and checks the path, with these authorities only; who it is, is for `_check_identity`.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority need not be self-signed
        try:
            certificates = [x509.load_der_x509_certificate(der) for der in server.authorities]
            context.load_verify_locations(cadata=pem(certificates).decode())
        except (ssl.SSLError, *UNREADABLE) as error:
            domain = server.identity.trust_domain
            raise Unauthenticated(f"the bundle of {domain} that is known here can't be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def _get(url: str, parts: SplitResult, context: ssl.SSLContext, server: Server) -> tuple[int, str, bytes]:
    """(status, Location, body)."""
    host, port = parts.hostname or "", parts.port or 443
    try:
        stream = await trio.open_tcp_stream(host, port)
        async with stream:
            tls = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
            await tls.do_handshake()
            if isinstance(server, SpiffeServer):
                _check_identity(tls.getpeercert(binary_form=True), server, url)
            return await _exchange(tls, parts, url)
    except (OSError, UnicodeError, trio.BrokenResourceError) as error:  # UnicodeError: a name that no resolver takes
        cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Unauthenticated(
                f"{url}: the server's certificate is not to be believed: {cause.verify_message}"
            ) from error
        raise Unavailable(f"{url} does not answer: {cause or error}") from error
    except h11.RemoteProtocolError as error:
        raise Unavailable(f"{url} does not speak HTTP as it must: {error}") from error


def _check_identity(der: bytes | None, server: SpiffeServer, url: str) -> None:
    try:
        found = leaf_identity(x509.load_der_x509_certificate(der or b""))
    except (MeshError, *UNREADABLE) as error:
        raise Unauthenticated(f"{url}: the server has no X.509-SVID: {error}") from error
    if found != server.identity:
        raise Unauthenticated(f"{url}: the server is {found}, and {server.identity} was meant")


async def _exchange(tls: Tls, parts: SplitResult, url: str) -> tuple[int, str, bytes]:
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
            if len(body) > MAX_DOCUMENT_BYTES:
                raise Unavailable(f"{url} gives more than {MAX_DOCUMENT_BYTES} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return status, location, bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            raise Unavailable(f"{url} closed the connection before it answered")
