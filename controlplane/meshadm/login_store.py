"""[edge] Who is logged in here: one file in the user's configuration directory, for its owner only."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controlplane.meshadm import private_file
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, MeshError, PermissionDenied, Problem, Unauthenticated, Unavailable
from schemas.records import TrustBundle
from spiffe.bundle import certificates
from spiffe.bundle import pem as to_pem
from spiffe.x509 import leaf_identity, parse_chain
from trio_grpc import TLS, is_of_unknown_root

_MAX_BYTES = 1024 * 1024
# gRPC's words where a server ends the connection, as one does that does not trust the client's certificate: TLS 1.3 has
# told the client by then that all is well.
_HUNG_UP = "Socket closed"


class _File(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="Login", tag_field="kind"):
    """PEM as text."""

    api_version: Literal["mesh/v1"] = "mesh/v1"
    spiffe_id: str
    key: str
    chain: str
    bundle: str
    api_endpoints: tuple[str, ...]
    issued: int
    expires: int


@dataclass(frozen=True, slots=True)
class Login:
    """An operator's identity. Times are seconds since 1970."""

    spiffe_id: str
    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    bundle_pem: bytes
    api_endpoints: tuple[str, ...]
    issued: int
    expires: int

    @property
    def tls(self) -> TLS:
        return TLS(self.bundle_pem, self.chain_pem, self.key_pem)

    def due(self, now: float) -> bool:
        """Past its half-life, and still good enough to be renewed by itself."""
        return (self.issued + self.expires) / 2 <= now < self.expires


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #10, DER, without names: who it is for is said by the token or the present certificate."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def login_of(reply: pb.OperatorReply, key: ec.EllipticCurvePrivateKey, now: float) -> Login:
    """A replica's answer, once it is found to be for our key and for an operator. Raises MeshError, Unauthenticated."""
    chain = parse_chain(reply.chain)
    identity = leaf_identity(chain[0])
    bundle = codec.decode(reply.trust_bundle, TrustBundle, "trust bundle of the answer")
    if str(identity) != reply.spiffe_id or not identity.path.startswith("/operator/"):
        raise MeshError(f"the replica's certificate is {identity}'s, and it says {reply.spiffe_id}'s")
    if chain[0].public_key() != key.public_key():
        raise MeshError("the replica's certificate is for another key")
    return Login(
        spiffe_id=reply.spiffe_id,
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        chain_pem=to_pem(chain),
        bundle_pem=to_pem(certificates(bundle)),
        api_endpoints=tuple(reply.api_endpoints),
        issued=int(now),
        expires=int(chain[0].not_valid_after_utc.timestamp()),
    )


def path_of(environ: Mapping[str, str]) -> Path | None:
    """``$XDG_CONFIG_HOME/meshadm/login.json``, below ``~/.config`` where that is unset; None without a home."""
    base = environ.get("XDG_CONFIG_HOME") or (environ.get("HOME") and str(Path(environ["HOME"], ".config")))
    return Path(base, "meshadm", "login.json") if base else None


def load(path: Path) -> Login | None:
    """None: nobody is logged in. Raises PermissionDenied for one that others may read, InvalidInput for a bad one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                raise PermissionDenied(f"{path} may be read by others: chmod 0600 {path}, or log in anew")
            data = file.read(_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PermissionDenied(f"{path}: {error.strerror}") from error
    try:
        held = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise InvalidInput(Problem(str(path), "not a login", remedy="`meshadm logout`, then log in anew")) from error
    return Login(
        held.spiffe_id,
        held.key.encode(),
        held.chain.encode(),
        held.bundle.encode(),
        held.api_endpoints,
        held.issued,
        held.expires,
    )


def check_writable(path: Path) -> None:
    """Before a token is used up for what could not be kept. Raises InvalidInput."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(Problem(str(path.parent), f"can't be made: {error.strerror}")) from error
    private_file.check_place(path, force=True)


def save(path: Path, login: Login) -> None:
    """Raises InvalidInput where it can't be written."""
    held = _File(
        spiffe_id=login.spiffe_id,
        key=login.key_pem.decode(),
        chain=login.chain_pem.decode(),
        bundle=login.bundle_pem.decode(),
        api_endpoints=login.api_endpoints,
        issued=login.issued,
        expires=login.expires,
    )
    private_file.write(path, msgspec.json.format(msgspec.json.encode(held), indent=2) + b"\n")


def check_time(login: Login, now: float) -> None:
    """Raises Unauthenticated for one that has expired."""
    if now >= login.expires:
        raise Unauthenticated(
            f"the login as {login.spiffe_id} has expired: log in with a new token (`meshadm login FILE`), "
            "or name a replica's socket with --endpoint"
        )


def outdated(error: Unavailable, what: str) -> MeshError:
    """What a failed call may mean for `what`, a login or login file: CA keys are replaced without waiting for them."""
    remedy = (
        "log in with a new login file (`meshadm token create --operator`), or name a replica's socket with --endpoint"
    )
    if is_of_unknown_root(str(error)):
        return Unauthenticated(
            f"{what} knows none of the roots by which the replicas are trusted now: the mesh's root was replaced "
            f"since; {remedy}\n{error}"
        )
    if _HUNG_UP in str(error):
        return Unavailable(f"{error}\nif it stays so, the root that {what} chains to is gone: {remedy}")
    return error
