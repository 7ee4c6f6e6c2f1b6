"""[edge] A bundle document over HTTPS, from a server that proves to be the one that was meant.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md, section 5.2. A redirect is followed by the
same rules: to an https URL, to a server that proves the same.
"""

import ssl
from dataclasses import dataclass
from functools import partial
from urllib.parse import urljoin

import trio
from cryptography import x509

from controlplane.https_get import Tls, get, web_context
from schemas.errors import MeshError, Unauthenticated, Unavailable
from schemas.names import SpiffeId
from spiffe.bundle import pem
from spiffe.jwks import MAX_DOCUMENT_BYTES
from spiffe.x509 import UNREADABLE, leaf_identity

# For all of it, redirects too; well within the life of the lock under which it is done.
FETCH_SECONDS = 6.0
MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


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
    context = await _context(server)
    check = partial(_check_identity, server) if isinstance(server, SpiffeServer) else None
    where = url
    try:
        with trio.fail_after(seconds):
            for _ in range(1 + MAX_REDIRECTS):
                status, said, body = await get(where, context, max_bytes=MAX_DOCUMENT_BYTES, check_peer=check)
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
        return said  # no URL, as `get` will say


async def _context(server: Server) -> ssl.SSLContext:
    """Raises Unauthenticated for a server that nothing can prove, InvalidInput for CAs that can't be read."""
    if isinstance(server, WebServer):
        return await web_context(server.ca_pem, "webCa")
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


def _check_identity(server: SpiffeServer, tls: Tls, url: str) -> None:
    try:
        der = tls.getpeercert(binary_form=True)
        found = leaf_identity(x509.load_der_x509_certificate(der or b""))
    except (MeshError, *UNREADABLE) as error:
        raise Unauthenticated(f"{url}: the server has no X.509-SVID: {error}") from error
    if found != server.identity:
        raise Unauthenticated(f"{url}: the server is {found}, and {server.identity} was meant")
