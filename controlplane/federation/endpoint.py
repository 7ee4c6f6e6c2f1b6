"""[edge] The bundle endpoint: the mesh's newest trust bundle over HTTPS, for other trust domains.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md, section 5. Anybody may connect, so every
connection is one request, bounded in time and size; where there are too many, the oldest gives way, since an honest
exchange is over within milliseconds.
"""

import logging
import ssl
from collections.abc import Callable
from typing import Protocol

import h11
import trio

from controlplane.https_get import Tls
from controlplane.log import event
from schemas.errors import MeshError
from schemas.records import TrustBundle
from spiffe.jwks import encode

# Three round trips and a handshake, across the world and with a lost packet.
CONNECTION_SECONDS = 10.0
# A connection costs about 50 KB and a descriptor.
MAX_CONNECTIONS = 256
MAX_REQUEST_BYTES = 8 * 1024  # of headers: a GET has a few hundred; a body is read by nobody
_CHUNK = 16 * 1024

logger = logging.getLogger(__name__)


class Certificate(Protocol):
    def context(self) -> ssl.SSLContext:
        """The newest. Raises MeshError where there is none."""


class BundleEndpoint:
    """path: of the URL; bundle: the newest one, raises MeshError where there is none."""

    def __init__(
        self,
        certificate: Certificate,
        bundle: Callable[[], TrustBundle],
        path: str,
        *,
        connection_seconds: float = CONNECTION_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._certificate = certificate
        self._bundle = bundle
        self._path = path
        self._seconds = connection_seconds
        self._most = max_connections
        self._open: dict[trio.CancelScope, None] = {}  # the oldest first
        self._encoded: tuple[TrustBundle, bytes] | None = None

    @property
    def connections(self) -> int:
        return len(self._open)

    async def serve(self, host: str, port: int, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever. Started with the port, which the kernel chooses for 0. Raises OSError where it can't listen."""
        listeners = await trio.open_tcp_listeners(port, host=host)
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(self._handle, listeners)

    async def _handle(self, stream: trio.SocketStream) -> None:
        with trio.move_on_after(self._seconds) as scope:
            self._open[scope] = None
            if len(self._open) > self._most:
                next(iter(self._open)).cancel()
            try:
                await self._answer(trio.SSLStream(stream, self._certificate.context(), server_side=True))
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
                pass  # theirs to know
            except MeshError as error:
                event(logger, logging.WARNING, "bundle endpoint: can't serve", why=error)
            finally:
                del self._open[scope]
                await trio.aclose_forcefully(stream)

    async def _answer(self, stream: Tls) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
        request = None
        try:
            request = await self._request(connection, stream)
            if request is None:
                return
            status, body = self._reply(request)
        except h11.RemoteProtocolError as error:
            status, body = error.error_status_hint, b"not a request\n"
        headers = [
            ("Content-Type", "application/json" if status == 200 else "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-cache"),
            ("Connection", "close"),
        ]
        if connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        data = connection.send(h11.Response(status_code=status, headers=headers)) or b""
        if request is None or request.method != b"HEAD":
            data += connection.send(h11.Data(data=body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        await stream.send_all(data)
        await stream.aclose()

    async def _request(self, connection: h11.Connection, stream: Tls) -> h11.Request | None:
        """None: the peer went."""
        while True:
            found = connection.next_event()
            if found is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(_CHUNK)))
            elif isinstance(found, h11.Request):
                return found
            else:
                return None

    def _reply(self, request: h11.Request) -> tuple[int, bytes]:
        if request.target.partition(b"?")[0].decode("latin-1") != self._path:
            return 404, b"the trust bundle is elsewhere\n"
        if request.method not in (b"GET", b"HEAD"):
            return 405, b"use GET\n"
        try:
            return 200, self._document()
        except MeshError as error:
            event(logger, logging.WARNING, "bundle endpoint: no bundle", why=error)
            return 503, b"there is no trust bundle at present\n"

    def _document(self) -> bytes:
        newest = self._bundle()
        if self._encoded is None or self._encoded[0] != newest:
            self._encoded = (newest, encode(newest))
        return self._encoded[1]
