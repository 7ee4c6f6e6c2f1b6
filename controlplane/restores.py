"""[edge] Notices that etcd was put back to an older state, whoever did it and however, and makes that known.

    what this replica remembers             what etcd says
    own beacon, which only it writes        an older count, or none         ┐
    the newest revision seen                an older one                    ├─▶ a new epoch, all is listed again
    which tokens were used, how often       fewer uses                      │
    revocations (controlplane.revocations)  none, or an older record        ┘

A restore that keeps revisions growing (`--bump-revision`) shows in all but the second. The new epoch ends every
token from before, since nobody knows which were used meanwhile; sidecars list everything again because of it; and the
floor of revocations is written back by who keeps it.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import trio

from controlplane import floor_file
from controlplane.ca import tokens
from controlplane.log import event
from controlplane.store.etcd import Store
from controlplane.store.ops import KeyGuard, Put
from schemas import codec
from schemas.errors import Corrupt, InvalidInput, MeshError, Problem
from schemas.records import Beacon, Epoch, Token
from trio_etcd import KeyValue, Listing, WatchBatch

# A restore that no request and no watch shows is noticed by then; and so much older a backup must be.
BEACON_SECONDS = 30.0
RETRY_SECONDS = 1.0
FILE = "restores.msgpack"
_EPOCH_BYTES = 16  # must differ from every epoch that any backup of this mesh holds
# Epochs that are remembered: one a restore.
_MAX_EPOCHS = 1000
# A token that was revoked is further on than one used however often.
_REVOKED = 1 << 40
_UNKNOWN = (0, 0, 0)

logger = logging.getLogger(__name__)
# The new epoch is a write that no call asked for.
audit = logging.getLogger("mesh.audit")


class _Memory(msgspec.Struct, kw_only=True):
    """What is on the disk."""

    format: Literal[1] = 1
    replica: str = ""
    count: int = 0
    revision: int = 0
    epochs: list[str] = msgspec.field(default_factory=list)
    """Oldest first."""
    tokens: dict[str, tuple[int, int, int]] = msgspec.field(default_factory=dict)
    """Of each that was used or revoked: how far on; at which revision; when it expires (seconds since 1970)."""


class Restores:
    """A sink of `follow` for tokens; `run` it beside. `synced`: etcd is not older than what this replica remembers.

    own_id: the same after a restart. `now`: seconds since 1970. Raises InvalidInput for a file that can't be read.
    """

    def __init__(
        self,
        store: Store,
        state_dir: Path | None,
        own_id: str,
        now: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._path = state_dir / FILE if state_dir is not None else None
        self._memory = _read(self._path)
        if self._memory.replica != own_id:  # a file that was copied: what it says of the beacon is another's
            self._memory.replica, self._memory.count = own_id, 0
        self.key = store.keyspace.beacon(own_id)
        self._now = now
        self._random = random
        self._noticed = False
        self._listed = False
        self._changed = trio.Event()
        self._look_at = 0.0
        self._lock = trio.Lock()
        store.newest.revision = self._memory.revision
        store.newest.on_regression = self._look_now
        self.synced = trio.Event()

    # -- fed by follow: the tokens

    def listed(self, listing: Listing) -> None:
        for record, kv in self._records(listing.kvs):
            further, revision, _ = self._memory.tokens.get(record.id, _UNKNOWN)
            if _further(record) < further and revision <= listing.revision and self._is_of_now(record):
                self._noticed = True
            self.remember(record, kv.mod_revision)
        self._listed = True
        self._look_now()

    def changed(self, batch: WatchBatch) -> None:
        """Judges nothing: a watch may tell late what this replica has read since."""
        for record, kv in self._records(one.kv for one in batch.events if not one.deleted):
            self.remember(record, kv.mod_revision)

    @staticmethod
    def _records(kvs: Iterable[KeyValue]) -> Iterator[tuple[Token, KeyValue]]:
        for kv in kvs:
            try:
                yield tokens.decode(kv.value, kv.key.decode("utf-8", "backslashreplace")), kv
            except Corrupt:
                continue  # it lets nobody in

    # -- who joins

    def remember(self, record: Token, revision: int) -> None:
        """A token as it is in etcd since `revision`."""
        if (further := _further(record)) > self._memory.tokens.get(record.id, _UNKNOWN)[0]:
            self._memory.tokens[record.id] = further, revision, record.expires
            self._changed.set()

    def known(self, token_id: str) -> int:
        """How far on a token is, as far as this replica knows. Ask before reading the token: what is read then is no
        older, or etcd was restored."""
        return self._memory.tokens.get(token_id, _UNKNOWN)[0]

    async def check(self, record: Token | None, known: int) -> bool:
        """Before a token counts that was just read. False: etcd was restored, which is dealt with now; read again.

        Raises MeshError where that can't be dealt with: then nobody is let in.
        """
        if record is not None and self._is_of_now(record) and _further(record) < known:
            self._noticed = True
        if not (self._noticed or self._store.newest.went_back):
            return True
        await self.settle()
        return False

    def notice(self) -> None:
        """Somebody else found that etcd no longer has what it had."""
        self._noticed = True
        self._look_now()

    def _is_of_now(self, record: Token) -> bool:
        """One from before a restore is void anyway."""
        return not self._memory.epochs or record.epoch == self._memory.epochs[-1]

    # -- the beacon

    async def run(self) -> None:
        """For ever."""
        troubled = False
        while True:
            self._changed = trio.Event()
            try:
                if trio.current_time() >= self._look_at:
                    self._look_at = trio.current_time() + BEACON_SECONDS
                    await self.settle()
                await self._save()
                troubled = False
            except (MeshError, OSError) as error:
                if not troubled:
                    event(logger, logging.WARNING, "can't tell whether etcd was restored, trying again", why=error)
                troubled, self._look_at = True, 0.0
                await trio.sleep(RETRY_SECONDS)
                continue
            with trio.move_on_at(self._look_at):
                await self._changed.wait()

    async def settle(self) -> None:
        """Compare, and write what is missing: the next count of the beacon; a new epoch after a restore."""
        async with self._lock:
            while not await self._settled():
                pass

    async def _settled(self) -> bool:
        memory, epoch_key = self._memory, self._store.keyspace.epoch()
        found = await self._store.get_many((self.key, epoch_key))
        epoch_kv, own = found.get(epoch_key), found.get(self.key)
        if epoch_kv is None:
            raise Corrupt(Problem(epoch_key.decode(), "missing", remedy="is the mesh initialised (`meshadm init`)?"))
        epoch, count = codec.decode(epoch_kv.value, Epoch, epoch_key.decode()).id, _count(own)
        listed = self._listed  # what comes while etcd is asked is of the next look
        lost = memory.count > count or self._store.newest.went_back or self._noticed
        new_epoch = lost and (epoch in memory.epochs or not memory.epochs)
        if new_epoch:
            epoch = self._random(_EPOCH_BYTES).hex()
        after = max(memory.count, count) + 1
        puts = [Put(self.key, codec.encode(Beacon(replica=memory.replica, count=after)))]
        if new_epoch:
            puts.append(Put(epoch_key, codec.encode(Epoch(id=epoch))))
        guards = KeyGuard(self.key, own.mod_revision if own else 0), KeyGuard(epoch_key, epoch_kv.mod_revision)
        before = self._store.newest.went_back_from or memory.revision
        revision = await self._store.transact(guards, puts)
        if revision is None:
            return False  # another replica was first
        other_time = lost or (bool(memory.epochs) and epoch not in memory.epochs)
        memory.count = after
        if epoch not in memory.epochs:
            memory.epochs = [*memory.epochs, epoch][-_MAX_EPOCHS:]
        if lost:
            self._noticed = False
            self._store.newest.settled()
            event(
                audit, logging.ERROR, "etcd was restored from an older backup: tokens from before are void",
                caller="automatic", peer="this replica",
                epoch=epoch, written_here=new_epoch, seen=before, revision=revision,
            )  # fmt: skip
        if other_time:
            self._store.list_again()
        if listed:
            self.synced.set()
        return True

    def _look_now(self) -> None:
        self._look_at = 0.0
        self._changed.set()

    # -- the disk

    async def _save(self) -> None:
        now = self._now()
        for token_id in [one for one, (_, _, expires) in self._memory.tokens.items() if expires < now]:
            del self._memory.tokens[token_id]
        self._memory.revision = self._store.newest.revision
        if self._path is not None:
            await trio.to_thread.run_sync(floor_file.replace, self._path, msgspec.msgpack.encode(self._memory))


def _further(record: Token) -> int:
    return len(record.used) + (_REVOKED if record.revoked is not None else 0)


def _count(kv: KeyValue | None) -> int:
    """0 for one that is missing, and for one that somebody has damaged: that looks like a restore."""
    if kv is None:
        return 0
    try:
        return codec.decode(kv.value, Beacon, kv.key.decode("utf-8", "backslashreplace")).count
    except Corrupt:
        return 0


def _read(path: Path | None) -> _Memory:
    if path is None:
        return _Memory()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=_Memory)
    except FileNotFoundError:
        return _Memory()
    except (ValueError, RecursionError) as error:
        remedy = "restore the file; or remove it, and write a new data/epoch if etcd was restored meanwhile"
        raise InvalidInput(Problem(str(path), f"can't be read: {error}", remedy=remedy)) from error
