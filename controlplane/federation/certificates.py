"""[edge] What the bundle endpoint serves with, as Python's TLS takes it; the newest at each handshake."""

import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

from controlplane.log import event
from schemas.errors import InvalidInput, Problem, Unavailable
from trio_grpc import ServerTLS

logger = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class FileCertificate:
    """A certificate chain and its key, in PEM files that somebody renews: read again when they have changed.

    What can't be used leaves the last good one in place, with a word in the log. The first must be good: raises
    InvalidInput.
    """

    _told = ""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._stamp = self._current_stamp()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        try:
            stamp = self._current_stamp()
            if stamp != self._stamp:
                # One of two files may be new before the other: what fails is tried again when they change again.
                self._stamp = stamp
                self._context = self._load()
                event(logger, logging.INFO, "bundle endpoint: new certificate", file=self._files[0])
        except InvalidInput as error:
            if str(error) != self._told:
                event(logger, logging.ERROR, "bundle endpoint: keeps its last certificate", why=error)
            self._told = str(error)
        else:
            self._told = ""
        return self._context

    def _load(self) -> ssl.SSLContext:
        context = _server_context()
        try:
            context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            raise self._bad(error) from error
        return context

    def _bad(self, error: OSError) -> InvalidInput:
        remedy = "give a chain and its key in PEM, readable for the replica"
        return InvalidInput(Problem(" and ".join(map(str, self._files)), f"can't be used: {error}", remedy=remedy))

    def _current_stamp(self) -> _Stamp:
        try:
            found = [path.stat() for path in self._files]
        except OSError as error:
            raise self._bad(error) from error
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


class SvidCertificate:
    """The replica's own SVID. `serving`: what it serves with now; None: nothing yet."""

    def __init__(self, serving: Callable[[], ServerTLS | None]) -> None:
        self._serving = serving
        self._used: ServerTLS | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Raises Unavailable."""
        newest = self._serving()
        if newest is None:
            raise Unavailable("this replica has no SVID yet")
        if newest is not self._used or self._context is None:
            self._context, self._used = context_of(newest.cert, newest.key), newest
        return self._context


def context_of(chain: bytes, key: bytes) -> ssl.SSLContext:
    """Python's TLS takes keys from files only: this one never has a name, and never touches a disk."""
    descriptor = os.memfd_create("mesh", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(chain + key)
        context = _server_context()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def _server_context() -> ssl.SSLContext:
    """No client certificate is asked for (SPIFFE Federation 5.2.1 and 5.2.2)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context
