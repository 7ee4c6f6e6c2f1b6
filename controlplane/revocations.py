"""[edge] Which identities are revoked, as far as this replica has ever heard: in etcd, and in a file of its own.

The file is the floor below which no restore of etcd takes the mesh: what it holds and etcd lacks is written again.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from controlplane import floor_file
from controlplane.api.caller import Caller, CallerKind
from controlplane.log import event
from controlplane.store.etcd import Store
from controlplane.store.ops import KeyGuard, Put
from schemas import codec
from schemas.errors import Corrupt, InvalidInput, MeshError, PermissionDenied, Problem
from schemas.keys import RevocationRef
from schemas.names import ServiceRef
from schemas.records import Revocation
from schemas.revocations import newer
from trio_etcd import KeyValue, Listing, WatchBatch

# Between two attempts to write to etcd or to the disk what is missing there.
RETRY_SECONDS = 1.0
FLOOR_FILE = "revocations.msgpack"

logger = logging.getLogger(__name__)
audit = logging.getLogger("mesh.audit")


class Revocations:
    """A sink of `follow`; `run` it beside. `synced`: etcd has been listed, and nothing is issued before.

    on_loss: is told when etcd lacks a record, which is never deleted, or has an older one: it was restored.
    Raises InvalidInput for a floor that can't be read: issuing without it could undo what it holds.
    """

    def __init__(self, store: Store, state_dir: Path | None, on_loss: Callable[[], None] = lambda: None) -> None:
        self._on_loss = on_loss
        self._store = store
        self._path = state_dir / FLOOR_FILE if state_dir is not None else None
        self._held = dict(_read_floor(self._path))
        self._stored: dict[ServiceRef, KeyValue] = {}
        self._unreadable: set[ServiceRef] = set()
        self._touched = trio.Event()
        self._saved = dict(self._held)
        self.synced = trio.Event()
        self.changed_event = trio.Event()
        """Set, and replaced by a new one, at each change."""

    # -- what counts

    def record(self, service: ServiceRef) -> Revocation | None:
        return self._held.get(service)

    def records(self) -> tuple[Revocation, ...]:
        return tuple(self._held.values())

    def check(self, service: ServiceRef) -> None:
        """Raises PermissionDenied for an identity that is revoked, or whose only record can't be read."""
        record = self._held.get(service)
        name = f"{service.namespace}/{service.name}"
        if record is None and service in self._unreadable:
            raise PermissionDenied(
                f"the revocation record of {name} can't be read: `meshadm identity restore` mends it"
            )
        if record is not None and record.revoked:
            raise PermissionDenied(f"the identity of {name} is revoked; an operator may take that back")

    def refuses(self, service: ServiceRef) -> bool:
        """Whether `check` raises."""
        try:
            self.check(service)
        except PermissionDenied:
            return True
        return False

    def check_issued(self, service: ServiceRef, issued: float) -> None:
        """For a certificate whose time is over, made at `issued`: what was revoked since and restored does not count.

        Raises PermissionDenied.
        """
        self.check(service)
        record = self._held.get(service)
        if record is not None and record.at >= issued:
            name = f"{service.namespace}/{service.name}"
            raise PermissionDenied(f"the identity of {name} was revoked after this SVID was made: use a new join file")

    def check_caller(self, caller: Caller) -> None:
        if caller.kind is CallerKind.SIDECAR:
            self.check(caller.service)

    # -- fed by follow

    def listed(self, listing: Listing) -> None:
        self._stored.clear()
        self._unreadable.clear()
        for kv in listing.kvs:
            self._take(kv)
        self.synced.set()
        self._touched.set()

    def changed(self, batch: WatchBatch) -> None:
        for one in batch.events:
            if not one.deleted:
                self._take(one.kv)
            else:
                ref = self._store.keyspace.parse(one.kv.key)
                if isinstance(ref, RevocationRef):
                    self._stored.pop(ref.service, None)
                    self._unreadable.discard(ref.service)
        self._touched.set()

    def _take(self, kv: KeyValue) -> None:
        ref = self._store.keyspace.parse(kv.key)
        if not isinstance(ref, RevocationRef):
            return
        self._stored[ref.service] = kv
        self._unreadable.discard(ref.service)
        try:
            record = codec.decode(kv.value, Revocation, str(ref))
            if ServiceRef(record.namespace, record.service) != ref.service:
                raise Corrupt(Problem(str(ref), "holds another identity's record"))
        except Corrupt as error:
            event(logger, logging.ERROR, "a revocation can't be read: the identity is refused", why=error)
            self._unreadable.add(ref.service)
            self._tell()
            return
        if newer(record, self._held.get(ref.service)):
            self._held[ref.service] = record
            self._tell()

    def _tell(self) -> None:
        changed, self.changed_event = self.changed_event, trio.Event()
        changed.set()

    # -- the floor

    async def run(self) -> None:
        """For ever: what is known goes to the disk, and to etcd where it is missing there or older."""
        while True:
            await self._touched.wait()
            self._touched = trio.Event()
            try:
                await self._save()
                await self._write_missing()
            except (MeshError, OSError) as error:
                event(logger, logging.WARNING, "revocations could not be secured, trying again", why=error)
                await trio.sleep(RETRY_SECONDS)
                self._touched.set()

    async def _save(self) -> None:
        if self._path is None or self._held == self._saved:
            return
        held = dict(self._held)
        data = msgspec.msgpack.encode([codec.encode(held[service]) for service in sorted(held)])
        await trio.to_thread.run_sync(floor_file.replace, self._path, data)
        self._saved = held

    async def _write_missing(self) -> None:
        for service in sorted(self._held):
            record, kv = self._held[service], self._stored.get(service)
            if kv is not None and service not in self._unreadable:
                stored = codec.decode(kv.value, Revocation, str(RevocationRef(service)))
                if not newer(record, stored):
                    continue
            key = self._store.keyspace.revocation(service)
            guard = KeyGuard(key, kv.mod_revision if kv is not None else 0)
            revision = await self._store.transact((guard,), (Put(key, codec.encode(record)),))
            if service not in self._unreadable:
                self._on_loss()
            if revision is not None:  # else another replica was first, and the watch tells
                event(
                    audit, logging.WARNING, "etcd had lost a revocation; it is there again",
                    caller="automatic", peer="this replica",
                    identity=f"{service.namespace}/{service.name}", serial=record.serial, revision=revision,
                )  # fmt: skip


def _read_floor(path: Path | None) -> dict[ServiceRef, Revocation]:
    if path is None:
        event(logger, logging.WARNING, "no stateDir: revocations do not survive a restore of etcd by this replica")
        return {}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        values = msgspec.msgpack.decode(path.read_bytes(), type=list[bytes])
        records = [codec.decode(value, Revocation, str(path)) for value in values]
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, Corrupt) as error:
        remedy = "restore the file, or remove it where every revocation that it may hold is in etcd"
        raise InvalidInput(Problem(str(path), f"can't be read: {error}", remedy=remedy)) from error
    return {ServiceRef(record.namespace, record.service): record for record in records}
