"""Keys and certificates of both ends, all PEM bytes; private keys never appear in a repr."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import grpc


class _Secret:
    def __repr__(self) -> str:
        return "[redacted]"


@dataclass(frozen=True, slots=True, repr=False)
class TLS:
    """A client's side of TLS, in PEM: the roots it trusts and, for mutual TLS, its own chain (leaf first) and key."""

    ca: bytes
    cert: bytes | None = None
    key: bytes | None = field(default=None)

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("TLS needs both cert and key for a client certificate, or neither")

    def __repr__(self) -> str:
        return f"TLS(ca={self.ca!r}, cert={self.cert!r}, key={None if self.key is None else _Secret()!r})"

    def credentials(self) -> grpc.ChannelCredentials:
        """grpcio's form; it is static for the life of a channel."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


@dataclass(frozen=True, slots=True, repr=False)
class ServerTLS:
    """A server's side of TLS, in PEM: its chain (leaf first) and key.

    With `client_ca` every client must show a certificate that chains to it; without it none is asked for. There is no
    "optional" in grpcio's reloadable credentials: what serves both kinds of caller listens on two addresses.
    """

    cert: bytes
    key: bytes
    client_ca: bytes | None = None

    def __repr__(self) -> str:
        return f"ServerTLS(cert={self.cert!r}, key={_Secret()!r}, client_ca={self.client_ca!r})"


class ReloadableTLS:
    """A `ServerTLS` that can be replaced while the server runs: new connections meet the new one.

    Open connections keep what they were made with. Whether client certificates are asked for can't change.
    """

    def __init__(self, initial: ServerTLS) -> None:
        self._current = initial

    @property
    def current(self) -> ServerTLS:
        return self._current

    def replace(self, new: ServerTLS) -> None:
        """Raises ValueError when `new` would switch client certificates on or off."""
        if (new.client_ca is None) != (self._current.client_ca is None):
            raise ValueError("a running server can't switch client certificates on or off: open another listener")
        self._current = new  # one reference assignment: a handshake sees the old or the new, never a mix

    def credentials(self) -> grpc.ServerCredentials:
        """grpcio's form for one listener; grpcio asks `fetch` before every handshake."""
        seen = self._current

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal seen
            newest = self._current
            if newest is seen:
                return None  # keep what the last handshake used
            seen = newest
            return _certificate_configuration(newest)

        fetcher = cast("Callable[[], Any]", fetch)  # the stubs forget that None means "no change"
        return grpc.dynamic_ssl_server_credentials(
            _certificate_configuration(seen), fetcher, require_client_authentication=seen.client_ca is not None
        )


def _certificate_configuration(tls: ServerTLS) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.key, tls.cert)], root_certificates=tls.client_ca)
