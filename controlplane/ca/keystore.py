"""[edge] The key-encryption key from a file, and with it the open CA of a replica."""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from controlplane.ca import authority
from controlplane.ca.authority import Authority
from controlplane.ca.records import chain_of
from controlplane.ca.seal import KEY_BYTES, KeyEncryption, KeyRing, LocalKey, certificate_of, unseal_key
from controlplane.ca.states import active_key
from schemas.errors import Corrupt, InvalidInput, Problem
from schemas.records import SealedKey
from spiffe.x509 import authority_trust_domain


def read_kek(path: Path, environ: Mapping[str, str], random: Callable[[int], bytes] = os.urandom) -> LocalKey:
    """The key-encryption key in `path`: 32 raw bytes that only their owner may read.

    systemd's own credentials (below ``$CREDENTIALS_DIRECTORY``) are excepted: systemd guards them by the directory, and
    where it grants access by ACL the mode shows group bits. Raises InvalidInput; the content is never in the text.
    """

    def refuse(why: str, remedy: str) -> InvalidInput:
        return InvalidInput(Problem(f"key-encryption key {path}", why, remedy=remedy))

    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())  # of what was opened, not of what now has that name
            content = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise refuse(
            f"can't be read: {error.strerror}", "run `meshadm init`, or copy it from the host where that ran"
        ) from error
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) and not _is_credential(path, environ):
        mode = stat.S_IMODE(status.st_mode)
        raise refuse(f"others than its owner may use it (mode {mode:04o})", f"chmod 0600 {path}")
    if len(content) != KEY_BYTES:
        size = "more" if len(content) > KEY_BYTES else str(len(content))
        raise refuse(f"holds {size} bytes, expected {KEY_BYTES}", "restore it from your backup; it can't be remade")
    return LocalKey(content, random)


def read_keks(paths: Sequence[Path], environ: Mapping[str, str], random: Callable[[int], bytes]) -> KeyRing:
    """`read_kek` of each; the first one seals."""
    return KeyRing(*(read_kek(path, environ, random) for path in paths))


def _is_credential(path: Path, environ: Mapping[str, str]) -> bool:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and path.resolve().is_relative_to(Path(directory or "").resolve())


async def open_authority(records: Sequence[SealedKey], kek: KeyEncryption) -> Authority:
    """The CA that a replica signs with, from all records under ``control/ca/``. The root's key stays sealed.

    Raises NoAuthority (no active key, another kek), TwoActiveKeys and Corrupt.
    """
    issuing_record = active_key(records, "mesh-issuing")
    issuing = await unseal_key(issuing_record, kek)
    path = chain_of(issuing_record)
    etcd = await unseal_key(active_key(records, "etcd-client"), kek)
    roots = tuple(certificate_of(record) for record in records if record.role == "mesh-root")
    root = authority.root_of(path[-1], roots)
    trust_domain = authority_trust_domain(issuing.certificate)  # a root of an external CA need not name one
    if trust_domain is None:
        raise Corrupt(Problem("CA key of the mesh's issuing key", "its certificate names no trust domain"))
    return Authority(trust_domain, roots, root, issuing, etcd, path[1:], issuing_record.leaf_seconds)
