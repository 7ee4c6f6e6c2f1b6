"""[edge] The identity on disk, so that a restart needs no token and no replica.

One file holds all of it: key and certificate can't be torn apart by a crash between two renames.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dataplane.identity.check import UnacceptableIdentity
from dataplane.identity.material import EtcdAccess, Identity
from schemas import codec
from schemas.errors import MeshError, Unavailable
from schemas.names import SpiffeId
from schemas.records import TrustBundle

# An identity is about 6 KiB; a hundred federated roots in the bundle would still fit.
MAX_BYTES = 1024 * 1024


class _Etcd(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    endpoints: tuple[str, ...]
    ca: str
    certificate: str
    key: str
    expires: int


class _File(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="Identity", tag_field="kind"):
    """PEM as text, the bundle as a record in base64."""

    api_version: str = "mesh/v1"
    spiffe_id: str
    key: str
    chain: str
    trust_bundle: bytes
    etcd: _Etcd
    api_endpoints: tuple[str, ...]
    join_endpoints: tuple[str, ...] = ()
    key_prefix: str
    not_before: int
    expires: int


def encode(identity: Identity) -> bytes:
    """JSON; secret, as it holds private keys."""
    etcd = identity.etcd
    return msgspec.json.encode(
        _File(
            spiffe_id=str(identity.spiffe_id),
            key=identity.key_pem.decode(),
            chain=identity.chain_pem.decode(),
            trust_bundle=codec.encode(identity.bundle),
            etcd=_Etcd(
                endpoints=etcd.endpoints,
                ca=etcd.ca_pem.decode(),
                certificate=etcd.cert_pem.decode(),
                key=etcd.key_pem.decode(),
                expires=etcd.expires,
            ),
            api_endpoints=identity.api_endpoints,
            join_endpoints=identity.join_endpoints,
            key_prefix=identity.key_prefix,
            not_before=identity.not_before,
            expires=identity.expires,
        )
    )


def decode(data: bytes) -> Identity:
    """Raises UnacceptableIdentity for any bytes that `encode` did not make. Says nothing about trust."""
    try:
        file = msgspec.json.decode(data, type=_File)
        return Identity(
            spiffe_id=SpiffeId.parse(file.spiffe_id),
            key_pem=file.key.encode(),
            chain_pem=file.chain.encode(),
            bundle=codec.decode(file.trust_bundle, TrustBundle, "trust bundle of the kept identity"),
            etcd=EtcdAccess(
                endpoints=file.etcd.endpoints,
                ca_pem=file.etcd.ca.encode(),
                cert_pem=file.etcd.certificate.encode(),
                key_pem=file.etcd.key.encode(),
                expires=file.etcd.expires,
            ),
            api_endpoints=file.api_endpoints,
            join_endpoints=file.join_endpoints,
            key_prefix=file.key_prefix,
            not_before=file.not_before,
            expires=file.expires,
        )
    except (msgspec.DecodeError, MeshError, UnicodeError, RecursionError) as error:
        # msgspec quotes a field's path and type, never its value: no key can stand in this text.
        raise UnacceptableIdentity(f"the kept identity can't be read: {error}") from error


@dataclass(frozen=True, slots=True, repr=False)
class Asked:
    """The keys that a renewal was asked for, before its answer came. PKCS #8, PEM, not encrypted."""

    fingerprint: str
    """Of the SVID that is to be renewed."""
    key_pem: bytes
    etcd_key_pem: bytes


class _AskedFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="Asked", tag_field="kind"):
    api_version: str = "mesh/v1"
    fingerprint: str
    key: str
    etcd_key: str


def _decode_asked(data: bytes) -> Asked | None:
    """None for what `encode` of another version made, or nobody: then other keys are asked for."""
    try:
        file = msgspec.json.decode(data, type=_AskedFile)
    except (ValueError, RecursionError):
        return None
    return Asked(file.fingerprint, file.key.encode(), file.etcd_key.encode())


class IdentityStore:
    """``identity/identity.json``, ``identity/asked.json`` below the state directory; that is 0700, the files 0600."""

    def __init__(self, state_directory: Path) -> None:
        self._directory = state_directory / "identity"
        self.path = self._directory / "identity.json"
        self._asked_path = self._directory / "asked.json"

    def load(self) -> Identity | None:
        """None where nothing was kept. Raises UnacceptableIdentity, and Unavailable when the disk refuses."""
        data = _read(self.path)
        return decode(data) if data is not None else None

    def save(self, identity: Identity) -> None:
        """Whole or not at all, and on the disk when this returns. Raises Unavailable when the disk refuses."""
        self._write(self.path, encode(identity))

    def load_asked(self) -> Asked | None:
        """None where there is none that can be used. Raises Unavailable when the disk refuses."""
        try:
            data = _read(self._asked_path)
        except UnacceptableIdentity:
            return None
        return _decode_asked(data) if data is not None else None

    def save_asked(self, asked: Asked) -> None:
        """On the disk when this returns. Raises Unavailable."""
        file = _AskedFile(
            fingerprint=asked.fingerprint, key=asked.key_pem.decode(), etcd_key=asked.etcd_key_pem.decode()
        )
        self._write(self._asked_path, msgspec.json.encode(file))

    def forget_asked(self) -> None:
        """Raises Unavailable."""
        try:
            self._asked_path.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"{self._asked_path} can't be removed: {error}") from error

    def _write(self, path: Path, data: bytes) -> None:
        fresh = path.with_suffix(".new")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            fresh.unlink(missing_ok=True)  # of a run that was killed
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            fresh.replace(path)
            _sync_directory(self._directory)
        except OSError as error:
            raise Unavailable(f"the identity can't be kept on disk: {error}") from error


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                os.fchmod(descriptor, 0o600)
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"the kept identity can't be read: {error}") from error
    if len(data) > MAX_BYTES:
        raise UnacceptableIdentity(f"the kept identity is larger than {MAX_BYTES} bytes")
    return data


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
