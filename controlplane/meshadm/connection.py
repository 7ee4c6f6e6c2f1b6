"""[edge] Where the replicas are, and as whom they are called."""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from schemas.errors import InvalidInput, PermissionDenied, Problem, Unauthenticated, Unavailable
from trio_grpc import TLS

DEFAULT_ENDPOINT = "unix:/run/mesh/controlplane/api.sock"

_UNIX = "unix:"
_IDENTITY_FILES = ("svid.pem", "key.pem", "bundle.pem")


@dataclass(frozen=True, slots=True)
class Connection:
    """Endpoints in the order to be tried. `tls` is for those that are host:port."""

    endpoints: tuple[str, ...]
    tls: TLS | None


def connection(
    endpoints: tuple[str, ...], identity: Path | None, now: float, logged_in: TLS | None = None
) -> Connection:
    """`now`: seconds since 1970, to tell an expired identity before a replica does. `logged_in`: used without one.

    Raises InvalidInput, Unauthenticated (expired), PermissionDenied and Unavailable (Unix sockets).
    """
    for endpoint in endpoints:
        _check_form(endpoint)
    remote = [endpoint for endpoint in endpoints if not endpoint.startswith(_UNIX)]
    if remote and identity is None and logged_in is None:
        remedy = (
            f"`meshadm login` first, or give --identity DIR with {', '.join(_IDENTITY_FILES)}, "
            "or use a replica's Unix socket"
        )
        raise InvalidInput(Problem(f"endpoint {remote[0]}", "a replica is called over mTLS", remedy=remedy))
    if not remote:
        _check_sockets(endpoints)
    if not remote:
        return Connection(endpoints, None)
    return Connection(endpoints, load_identity(identity, now) if identity else logged_in)


def _check_form(endpoint: str) -> None:
    if endpoint.startswith(_UNIX):
        if endpoint.startswith("unix:/"):
            return
    else:
        host, _, port = endpoint.rpartition(":")
        if host and port.isdecimal() and 0 < int(port) < 65536 and "/" not in host:
            return
    raise InvalidInput(Problem(f"endpoint {endpoint!r}", "not understood", remedy="write host:port or unix:/path"))


def _check_sockets(endpoints: tuple[str, ...]) -> None:
    """One clear line instead of gRPC's, where no socket of them can be had."""
    missing: list[str] = []
    for endpoint in endpoints:
        path = endpoint.removeprefix(_UNIX)
        try:
            os.stat(path)
        except PermissionError as error:
            remedy = "run it as root, or call a replica's host:port with --identity"
            raise PermissionDenied(f"{path}: permission denied ({remedy})") from error
        except OSError:
            missing.append(path)
        else:
            return
    remedy = "start it (systemctl start mesh-controlplane), or name another one with --endpoint"
    raise Unavailable(f"no replica listens on {', '.join(missing)} ({remedy})")


def load_identity(directory: Path, now: float) -> TLS:
    """``svid.pem`` (chain, leaf first), ``key.pem`` and ``bundle.pem`` as TLS material, checked to fit together."""
    svid, key, bundle = (_read(directory / name) for name in _IDENTITY_FILES)
    try:
        leaf = x509.load_pem_x509_certificates(svid)[0]
        private = load_pem_private_key(key, None)
        x509.load_pem_x509_certificates(bundle)
    except (ValueError, TypeError) as error:
        remedy = "svid.pem and bundle.pem hold certificates, key.pem an unencrypted key, all in PEM"
        raise InvalidInput(Problem(f"identity in {directory}", "can't be read", remedy=remedy)) from error
    if private.public_key() != leaf.public_key():
        raise InvalidInput(Problem(str(directory / "key.pem"), "not the key of svid.pem", remedy="take both anew"))
    if leaf.not_valid_after_utc.timestamp() <= now:
        raise Unauthenticated(f"the identity in {directory} expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    return TLS(bundle, svid, key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise PermissionDenied(f"{path}: permission denied (run it as the owner of that identity)") from error
    except OSError as error:
        remedy = f"an identity is a directory with {', '.join(_IDENTITY_FILES)}"
        raise InvalidInput(Problem(str(path), error.strerror or "can't be read", remedy=remedy)) from error
