"""[edge] What operators and host authorities may, as this replica has last known it: kept out of a restore's reach.

    etcd ─follow─▶ newest known ─▶ a file of this replica
                        │
                        └─▶ asked at each use; and what etcd has of an older time is put right there

Where etcd has an older record, `controlplane.domain.floors` says what is left of it.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import trio

from controlplane import floor_file
from controlplane.domain.floors import KnownAuthority, authority_left, operator_left
from controlplane.log import event
from controlplane.store.etcd import Store
from controlplane.store.ops import Delete, KeyGuard, Op, Put
from schemas import codec
from schemas.errors import Corrupt, InvalidInput, MeshError, Problem
from schemas.records import HostAuthority, Operator
from trio_etcd import KeyValue, Listing, WatchBatch

# Between two attempts to write to etcd or to the disk what is missing there.
RETRY_SECONDS = 1.0
FLOOR_FILE = "rights.msgpack"

logger = logging.getLogger(__name__)
# What is taken away again is a write that no call asked for.
audit = logging.getLogger("mesh.audit")


class _Memory(msgspec.Struct, kw_only=True):
    """What is on the disk."""

    format: Literal[1] = 1
    operators: list[bytes] = msgspec.field(default_factory=list)
    authorities: dict[str, tuple[int, bytes]] = msgspec.field(default_factory=dict)
    """By name: serial and record; no record: it was taken away."""


class Floors:
    """`sinks` are for `follow`; `run` it beside. `synced`: all has been listed, and nobody is let in before.

    on_loss: is told when etcd has an older record than was known: it was restored.
    Raises InvalidInput for a file that can't be read: what it holds could come back.
    """

    def __init__(self, store: Store, state_dir: Path | None, on_loss: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._path = state_dir / FLOOR_FILE if state_dir is not None else None
        self._on_loss = on_loss
        self._operators, self._authorities = _read(self._path)
        self._stored: dict[bytes, KeyValue] = {}
        self._told: set[tuple[bytes, int]] = set()
        self._saved = b""
        self._touched = trio.Event()
        prefixes = store.keyspace.operators(), store.keyspace.attestors()
        self._unlisted = set(prefixes)
        self.sinks = {prefix: _Sink(self, prefix) for prefix in prefixes}
        """By prefix."""
        self.synced = trio.Event()

    # -- what is known

    def operator(self, name: str) -> Operator | None:
        return self._operators.get(name)

    def authority(self, name: str) -> KnownAuthority | None:
        return self._authorities.get(name)

    def vouching(self) -> tuple[HostAuthority, ...]:
        """Host authorities that somebody may join by."""
        return tuple(known.record for known in self._authorities.values() if known.record is not None)

    # -- fed by follow

    def listed(self, prefix: bytes, listing: Listing) -> None:
        for key in [one for one in self._stored if one.startswith(prefix)]:
            del self._stored[key]
        for kv in listing.kvs:
            self._take(kv)
        for name in self._authorities:
            if prefix == self._store.keyspace.attestors() and self._store.keyspace.attestor(name) not in self._stored:
                self._without(name)
        self._unlisted.discard(prefix)
        if not self._unlisted:
            self.synced.set()
        self._touched.set()

    def changed(self, batch: WatchBatch) -> None:
        for one in batch.events:
            if not one.deleted:
                self._take(one.kv)
                continue
            self._stored.pop(one.kv.key, None)
            for name in self._authorities:
                if one.kv.key == self._store.keyspace.attestor(name):
                    self._without(name)
        self._touched.set()

    def _take(self, kv: KeyValue) -> None:
        self._stored[kv.key] = kv
        record = self._record(kv)
        if isinstance(record, Operator):
            known = self._operators.get(record.name)
            if known is None or record.serial > known.serial:
                self._operators[record.name] = record
            elif record.serial == known.serial and (left := operator_left(record, known)) is not None:
                self._operators[record.name] = left
        elif record is not None:
            held = self._authorities.get(record.name)
            if held is None or record.serial > held.serial:
                self._authorities[record.name] = KnownAuthority(record.serial, record)
            elif record.serial == held.serial:
                self._authorities[record.name] = KnownAuthority(record.serial, authority_left(record, held))

    def _without(self, name: str) -> None:
        self._authorities[name] = KnownAuthority(self._authorities[name].serial, None)

    def _record(self, kv: KeyValue) -> Operator | HostAuthority | None:
        """None for what can't be read, and for a record under another's key: neither allows anybody anything."""
        keyspace, text = self._store.keyspace, kv.key.decode("utf-8", "backslashreplace")
        try:
            if kv.key.startswith(keyspace.operators()):
                operator = codec.decode(kv.value, Operator, text)
                return operator if kv.key == keyspace.operator(operator.name) else None
            authority = codec.decode(kv.value, HostAuthority, text)
            return authority if kv.key == keyspace.attestor(authority.name) else None
        except Corrupt:
            return None

    # -- the disk, and etcd

    async def run(self) -> None:
        """For ever: what is known goes to the disk, and what etcd has of an older time is put right."""
        while True:
            await self._touched.wait()
            self._touched = trio.Event()
            try:
                await self._save()
                if self.synced.is_set():
                    await self._put_right()
            except (MeshError, OSError) as error:
                event(logger, logging.WARNING, "rights could not be secured, trying again", why=error)
                await trio.sleep(RETRY_SECONDS)
                self._touched.set()

    async def _save(self) -> None:
        memory = _Memory(
            operators=[codec.encode(one) for _, one in sorted(self._operators.items())],
            authorities={
                name: (known.serial, codec.encode(known.record) if known.record is not None else b"")
                for name, known in sorted(self._authorities.items())
            },
        )
        data = msgspec.msgpack.encode(memory)
        if self._path is not None and data != self._saved:
            await trio.to_thread.run_sync(floor_file.replace, self._path, data)
            self._saved = data

    async def _put_right(self) -> None:
        keyspace = self._store.keyspace
        for name in sorted(self._operators):
            key = keyspace.operator(name)
            kv = self._stored.get(key)
            stored = self._record(kv) if kv is not None else None
            if kv is not None and stored is None:
                continue  # it gives nobody a role
            assert stored is None or isinstance(stored, Operator)  # noqa: S101  (by its key)
            left = operator_left(stored, self._operators[name])
            if left is not None and left != stored:
                state = "revoked" if left.revoked is not None else left.role
                await self._write(key, kv, Put(key, codec.encode(left)), f"operator {name} is {state}")
        for key, kv in sorted(self._stored.items()):
            held = self._record(kv)
            if not isinstance(held, HostAuthority):
                continue
            remains = authority_left(held, self._authorities[held.name])
            if remains is None:
                await self._write(key, kv, Delete(key), f"host authority {held.name} is gone")
            elif remains != held:
                await self._write(key, kv, Put(key, codec.encode(remains)), f"host authority {held.name} may less")

    async def _write(self, key: bytes, kv: KeyValue | None, op: Op, outcome: str) -> None:
        seen = kv.mod_revision if kv is not None else 0
        if (key, seen) not in self._told:
            self._told.add((key, seen))
            self._on_loss()
        revision = await self._store.transact((KeyGuard(key, seen),), (op,))
        if revision is not None:  # else another replica was first, and the watch tells
            event(
                audit, logging.WARNING, "etcd had rights of an older time; they are taken away again",
                caller="automatic", peer="this replica", outcome=outcome, revision=revision,
            )  # fmt: skip


class _Sink:
    def __init__(self, floors: Floors, prefix: bytes) -> None:
        self._floors = floors
        self._prefix = prefix

    def listed(self, listing: Listing) -> None:
        self._floors.listed(self._prefix, listing)

    def changed(self, batch: WatchBatch) -> None:
        self._floors.changed(batch)


def _read(path: Path | None) -> tuple[dict[str, Operator], dict[str, KnownAuthority]]:
    if path is None:
        return {}, {}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        memory = msgspec.msgpack.decode(path.read_bytes(), type=_Memory)
        operators = [codec.decode(value, Operator, str(path)) for value in memory.operators]
        authorities = {
            name: KnownAuthority(serial, codec.decode(value, HostAuthority, str(path)) if value else None)
            for name, (serial, value) in memory.authorities.items()
        }
    except FileNotFoundError:
        return {}, {}
    except (ValueError, RecursionError, Corrupt) as error:
        remedy = "restore the file, or remove it where etcd was not restored since this replica ran last"
        raise InvalidInput(Problem(str(path), f"can't be read: {error}", remedy=remedy)) from error
    return {one.name: one for one in operators}, authorities
