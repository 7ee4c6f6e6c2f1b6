"""[edge] A sidecar's life in etcd: a pair of leases, of which it keeps one alive and the other one holds its keys.

Current etcd lets nobody renew a lease who may not write every key under it, and a sidecar may write none. So it renews
a lease without keys, its *pulse*. Its endpoint and status lie under the *hold*, which lasts until a replica finds the
pulse gone and revokes it: all keys at once, by etcd itself. With every replica dead nobody is thrown out of discovery;
callers get past an instance that does not answer by trying another.
"""

import logging
import os

import trio

from controlplane.log import event
from controlplane.store.boards import StatusBoard
from controlplane.store.etcd import Store
from schemas.errors import MeshError, NotFound
from schemas.keys import StatusRef

# Seconds: 30 days. So long may all replicas be away before instances that live leave discovery.
HOLD_SECONDS = 30 * 24 * 3600
# Seconds from the foretold end of a pulse to the look whether it has ended; etcd expires leases each 0.5 s.
AFTER_END_S = 0.6
RETRY_S = 1.0

# What it says is of the audit: a write that no call asked for.
logger = logging.getLogger("mesh.audit")


def pulse_of(hold: int) -> int:
    """The lease without keys that belongs to a hold: the pair differs in its last bit."""
    return hold | 1


async def grant_pair(store: Store, ttl: int) -> int:
    """A new pair: the hold's id. The pulse lives `ttl` seconds unless it is renewed."""
    hold = int.from_bytes(os.urandom(8)) >> 2 << 1  # positive for etcd's int64, and even
    await store.grant_lease(ttl, lease_id=pulse_of(hold))
    return await store.grant_lease(HOLD_SECONDS, lease_id=hold)


class Undertaker:
    """Revokes the holds whose pulse has ended. Every replica runs one: doing it twice does nothing."""

    def __init__(self, store: Store, board: StatusBoard) -> None:
        self._store = store
        self._board = board
        self._watched: set[int] = set()

    async def run(self) -> None:
        """For ever; one task a live sidecar, asleep until its pulse could have ended."""
        await self._board.synced.wait()
        async with trio.open_nursery() as nursery:
            with self._board.subscribe() as subscription:
                touched = set(self._board.refs())
                while True:
                    for ref in touched:
                        kv = self._board.stored(ref)
                        if kv is not None and kv.lease and kv.lease not in self._watched:
                            self._watched.add(kv.lease)
                            nursery.start_soon(self._watch, ref, kv.lease)
                    touched = await subscription.take()

    async def _watch(self, ref: StatusRef, hold: int) -> None:
        try:
            while self._holds(ref, hold):
                try:
                    left = await self._store.lease_left(pulse_of(hold))
                    if left >= 0:
                        await trio.sleep(left + AFTER_END_S)
                        continue
                    revision = await self._store.revoke_lease(hold)
                    event(
                        logger, logging.INFO, "sidecar gone without a word",
                        caller="automatic", peer="this replica", sidecar=ref, lease=f"{hold:x}", revision=revision,
                    )  # fmt: skip
                    return
                except NotFound:
                    return
                except MeshError:  # etcd is away: nobody is judged by what it does not say
                    await trio.sleep(RETRY_S)
        finally:
            self._watched.discard(hold)

    def _holds(self, ref: StatusRef, hold: int) -> bool:
        kv = self._board.stored(ref)
        return kv is not None and kv.lease == hold
