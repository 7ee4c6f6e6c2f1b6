"""Last known good on disk: what a sidecar serves when it starts and nobody answers.

One MessagePack file, replaced atomically, with the bytes of every key that was in force and the revision and epoch
they belong to. It holds nothing secret: it is what any sidecar may read from etcd.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from dataplane.snapshot.state import MeshState, Stored, from_stored
from schemas.errors import Problem
from schemas.keys import Keyspace, RevocationRef
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import AuthorizationPolicy, PeerAuthentication, RequestAuthentication
from schemas.records import Revocation

FORMAT = 1  # of the file; another one is not read


class LastGood(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    revision: int
    epoch: str | None
    saved: int
    """Seconds since 1970."""
    prefix: str
    """Of the mesh's keys."""
    values: dict[bytes, tuple[bytes, int]]
    """Key to value and mod revision."""
    unreadable_policies: tuple[tuple[str, str], ...] = ()
    """Namespace and name; they close their namespaces, after a restart too."""
    unreadable_authentications: tuple[tuple[str, str], ...] = ()
    """The same of each RequestAuthentication."""
    unreadable_peer_authentications: tuple[tuple[str, str], ...] = ()
    """The same of each PeerAuthentication; they keep plaintext out."""
    learnt: tuple[str, ...] = ()
    """Authorities that the app turned out to call."""
    revocations: tuple[Revocation, ...] = ()
    """All that were ever seen, with the highest serial of each identity: they outlive etcd's contents."""
    unreadable_revocations: tuple[tuple[str, str], ...] = ()
    """Namespace and service."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LastGood)


def dump(state: MeshState, learnt: Iterable[str] = (), *, now: int) -> bytes:
    return _encoder.encode(
        LastGood(
            format=FORMAT,
            revision=state.revision,
            epoch=state.epoch,
            saved=now,
            prefix=state.keyspace.prefix,
            values={key: (one.value, one.revision) for key, one in state.stored.items()},
            unreadable_policies=_unreadable(state, AuthorizationPolicy),
            unreadable_authentications=_unreadable(state, RequestAuthentication),
            unreadable_peer_authentications=_unreadable(state, PeerAuthentication),
            learnt=tuple(learnt),
            revocations=tuple(state.revoked.records[service] for service in sorted(state.revoked.records)),
            unreadable_revocations=tuple(sorted((one.namespace, one.name) for one in state.revoked.unreadable)),
        )
    )


def _unreadable(state: MeshState, kind: type) -> tuple[tuple[str, str], ...]:
    found = (ref for ref in state.unreadable_policies if ref.kind == kind.__name__)
    return tuple(sorted((ref.namespace, ref.name) for ref in found))


def parse(data: bytes) -> LastGood | None:
    """None for what was cut short, damaged or written by another version: then there is no last good."""
    try:
        value = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    return value if value.format == FORMAT else None


def restore(saved: LastGood) -> MeshState:
    stored = {key: Stored(value, revision) for key, (value, revision) in saved.values.items()}
    unreadable = [ObjectRef(AuthorizationPolicy.__name__, *one) for one in saved.unreadable_policies]
    unreadable += [ObjectRef(RequestAuthentication.__name__, *one) for one in saved.unreadable_authentications]
    unreadable += [ObjectRef(PeerAuthentication.__name__, *one) for one in saved.unreadable_peer_authentications]
    state = from_stored(Keyspace(saved.prefix), saved.revision, stored, unreadable, saved.revocations)
    for service in (ServiceRef(*one) for one in saved.unreadable_revocations):
        state.revoked.unreadable.add(service)
        key = state.keyspace.revocation(service)
        # In quarantine as well, so that a listing without it takes it away.
        state.quarantine[key] = Problem(str(RevocationRef(service)), "could not be read when it was last seen")
    return state


def write_file(path: Path, data: bytes) -> None:
    """Replaces `path` with `data`, whole or not at all, mode 0600. Blocks; raises OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_file(path: Path) -> LastGood | None:
    try:
        return parse(path.read_bytes())
    except OSError:
        return None
