"""[edge] The files of `meshadm init`: each is made if it is not there, whole or not at all, and never overwritten,
but for a certificate near its end: that is renewed in place, for the same key (etcd reads its own at each handshake).

A file appears under its name by `link`, complete and on disk, so a run that is cut short leaves nothing half-written.
The key of a pair comes before its certificate: a key alone is taken up again by the next run.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from controlplane.bootstrap import layout as names
from controlplane.bootstrap.layout import Layout, Pair
from controlplane.bootstrap.options import InitOptions, Step
from controlplane.ca import template as templates
from controlplane.ca.check import checked
from controlplane.ca.etcd_revocation import revocation_list
from controlplane.ca.keystore import read_kek
from controlplane.ca.seal import KEY_BYTES, LocalKey
from controlplane.ca.sign import Issuer, self_signed, serial_number, signed
from controlplane.ca.template import DAY, Template, Validity
from schemas.errors import Conflict, InvalidInput, Problem
from spiffe.x509 import UNREADABLE

_SERIAL_BYTES = 20
_SECRET_MODE = 0o600
_PUBLIC_MODE = 0o644
_RENEW_SECONDS = 90 * DAY  # before the end: a run in that time renews; enough for whoever looks once a quarter


@dataclass(frozen=True, slots=True)
class EtcdMaterial:
    """What a later step needs of the files. `ca` is None once its key was sealed into etcd and the file removed."""

    ca_certificate: x509.Certificate
    ca: Issuer | None
    root_certificate_pem: bytes
    root_key_pem: bytes = field(repr=False)

    @property
    def ca_pem(self) -> bytes:
        return self.ca_certificate.public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Prepared:
    kek: LocalKey
    etcd: EtcdMaterial
    steps: tuple[Step, ...]


@contextlib.contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """Hold the directory against a second run on it. The kernel lets go when the process ends, however it ends.

    Raises Conflict at once when another holds it.
    """
    _make_directory(layout.directory)
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _SECRET_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another `meshadm init` works on {layout.directory}; run again when it has ended") from None
        yield
    finally:
        os.close(descriptor)


def needs_sealed_ca(layout: Layout, now: float) -> bool:
    """True where a certificate has to be made that only the CA key which went into etcd can sign."""
    if not layout.ca.certificate.exists() or layout.ca.key.exists():
        return False
    return any(
        not pair.certificate.exists() or not pair.key.exists() or _near_end(_load_certificate(pair.certificate), now)
        for pair in (layout.server, layout.root, layout.replica, layout.tooling)
    )


def prepare(
    options: InitOptions, layout: Layout, now: float, environ: Mapping[str, str], sealed_ca: Issuer | None = None
) -> Prepared:
    """Make what is missing, check what is there. Call it under `only_one`.

    `sealed_ca`: the CA out of etcd, where `needs_sealed_ca`. Raises InvalidInput for a file that is not what it
    should be, naming it and what to do.
    """
    steps: list[Step] = []
    for directory in (layout.directory, layout.etcd):
        _make_directory(directory)

    made = _create(layout.kek, lambda: secrets.token_bytes(KEY_BYTES), _SECRET_MODE)
    steps.append(_step(layout.kek, made, "key-encryption key; back it up apart from etcd's backups"))
    kek = read_kek(layout.kek, environ)

    validity = Validity.starting(now, templates.ETCD_CA_SECONDS)
    certificate, issuer, made = _authority(layout.ca, validity)
    steps.append(_step(layout.ca.certificate, made, "CA of etcd's server and clients"))

    ca_seconds = int(certificate.not_valid_after_utc.timestamp() - now)  # none outlives its CA
    validity = Validity.starting(now, min(templates.ETCD_FILE_SECONDS, ca_seconds))
    hosts = names.etcd_hosts(options)
    for pair, template, what in (
        (layout.server, templates.etcd_server(hosts, validity), f"etcd's server certificate for {', '.join(hosts)}"),
        (layout.root, templates.etcd_client(names.ROOT_USER, validity), "etcd's administrator; keep it off this host"),
        (layout.replica, templates.etcd_client(names.REPLICA_USER, validity), "replicas' access to etcd"),
        (layout.tooling, templates.etcd_client(names.TOOLING_USER, validity), "read-only access for your own tools"),
    ):
        made = _leaf(pair, template, certificate, issuer or sealed_ca, now)
        steps.append(_step(pair.certificate, made, what))

    steps.append(_revocation_list(layout, issuer or sealed_ca, now))

    made = _create(layout.config, lambda: names.replica_config(options, layout).encode(), _PUBLIC_MODE)
    steps.append(_step(layout.config, made, "configuration of this replica"))
    root = EtcdMaterial(certificate, issuer, _read(layout.root.certificate), _read(layout.root.key))
    return Prepared(kek, root, tuple(steps))


def remove_ca_key(layout: Layout) -> bool:
    """True if there was one to remove. Only once the key is sealed in etcd."""
    try:
        os.unlink(layout.ca.key)
    except FileNotFoundError:
        return False
    _sync_directory(layout.ca.key.parent)
    return True


# -- pairs


def _authority(pair: Pair, validity: Validity) -> tuple[x509.Certificate, Issuer | None, bool]:
    """The CA's certificate, its key if that still is a file, and whether the certificate was made now."""
    if pair.certificate.exists() and not pair.key.exists():
        return _load_certificate(pair.certificate), None, False
    _create(pair.key, _new_key, _SECRET_MODE)
    key = _load_key(pair.key)
    template = templates.etcd_ca(secrets.token_hex(8), validity)

    def certificate() -> bytes:
        made = self_signed(template, key, serial_number(secrets.token_bytes(_SERIAL_BYTES)))
        return checked(made, template, key.public_key(), None).public_bytes(Encoding.PEM)

    made = _create(pair.certificate, certificate, _PUBLIC_MODE)
    found = _load_certificate(pair.certificate)
    _check_pair(pair, found, key, found)
    return found, Issuer(found, key), made


def _leaf(pair: Pair, template: Template, ca: x509.Certificate, issuer: Issuer | None, now: float) -> bool:
    """Whether the certificate was made now."""
    present = pair.certificate.exists()
    if present and not pair.key.exists():
        raise InvalidInput(
            Problem(str(pair.key), "is missing", remedy=f"restore it; or remove {pair.certificate} too and run again")
        )
    if present:
        found = _load_certificate(pair.certificate)
        _check_pair(pair, found, _load_key(pair.key), ca)
        if not _near_end(found, now):
            return False
    if issuer is None:
        raise InvalidInput(
            Problem(
                f"{pair.certificate} or {pair.key}",
                "is missing or near its end, and the key of etcd's CA, which would make it, is sealed in etcd",
                remedy="restore both from a backup or from the host where `meshadm init` ran",
            )
        )
    _create(pair.key, _new_key, _SECRET_MODE)
    key = _load_key(pair.key)
    certificate = signed(template, key.public_key(), issuer, serial_number(secrets.token_bytes(_SERIAL_BYTES)))
    certificate = checked(certificate, template, key.public_key(), issuer.certificate)
    _put(pair.certificate, certificate.public_bytes(Encoding.PEM), _PUBLIC_MODE, os.replace)
    return True


def _revocation_list(layout: Layout, issuer: Issuer | None, now: float) -> Step:
    """With nobody on it, so that etcd can be told to read one before there is a replica that writes it."""
    what = "etcd's list of revoked clients, empty; docs/revocation.md says how it is kept"
    if layout.crl.exists() or issuer is not None:
        made = issuer is not None and _create(layout.crl, lambda: revocation_list(issuer, {}, now), _PUBLIC_MODE)
        return _step(layout.crl, made, what)
    missing = "is missing, and the key that signs it is sealed in etcd: `meshadm identity crl` makes it"
    return Step(str(layout.crl), "warning", missing)


def _near_end(certificate: x509.Certificate, now: float) -> bool:
    return certificate.not_valid_after_utc.timestamp() - now < _RENEW_SECONDS


def _check_pair(pair: Pair, found: x509.Certificate, key: ec.EllipticCurvePrivateKey, ca: x509.Certificate) -> None:
    if found.public_key() != key.public_key():
        raise InvalidInput(
            Problem(
                f"{pair.certificate}", f"does not belong to {pair.key}", remedy="restore the two that belong together"
            )
        )
    try:
        found.verify_directly_issued_by(ca)
    except (*UNREADABLE, InvalidSignature) as error:
        raise InvalidInput(
            Problem(f"{pair.certificate}", "was not signed by the CA beside it", remedy="restore files of one init")
        ) from error


def _new_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(Problem(str(path), "is not an unencrypted PEM key", remedy="restore it")) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInput(Problem(str(path), "is not an elliptic-curve key", remedy="restore it"))
    return key


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except UNREADABLE as error:
        raise InvalidInput(Problem(str(path), "is not a PEM certificate", remedy="restore it")) from error


# -- single files


def _step(path: Path, made: bool, detail: str) -> Step:
    return Step(str(path), "done" if made else "already", detail)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(Problem(str(path), f"can't be read: {error.strerror}", remedy="run as its owner")) from error


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)  # what is secret in it is guarded by its own mode
    except OSError as error:
        raise InvalidInput(
            Problem(str(path), f"can't be made: {error.strerror}", remedy="run as root, or choose another --dir")
        ) from error


def _create(path: Path, content: Callable[[], bytes], mode: int) -> bool:
    """Make `path` with what `content` gives, unless it exists. True if this call made it."""
    if path.exists():
        return False
    try:
        _put(path, content(), mode, os.link)  # fails where the name is taken, unlike a rename
    except FileExistsError:
        return False
    return True


def _put(path: Path, data: bytes, mode: int, publish: Callable[[Path, Path], None]) -> None:
    """Write `data` beside `path`, then give it that name by `publish`, once it is whole and on disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)  # whatever the umask
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise InvalidInput(
            Problem(str(path), f"can't be written: {error.strerror}", remedy="run as root, or choose another --dir")
        ) from error


def _sync_directory(path: Path) -> None:
    """So that the new name is on disk before anything relies on it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
