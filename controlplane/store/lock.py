"""[edge] A lock in etcd for work that one replica does at a time. Its guard goes into the transaction of the effect."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from controlplane.store.etcd import PAUSE_SECONDS, Store
from controlplane.store.ops import Delete, KeyGuard, LeaseGuard, Put
from schemas.errors import Conflict, MeshError, Unavailable

# What is done under a lock takes milliseconds; one that a killed replica holds is free again after this.
LOCK_SECONDS = 10
RELEASE_SECONDS = 2.0


@asynccontextmanager
async def locked(store: Store, name: str, who: str, *, seconds: float) -> AsyncIterator[LeaseGuard]:
    """The lock, once nobody else holds it. It is not kept alive: an effect that comes too late fails by its guard.

    who: told to those that wait in vain. Raises Conflict after `seconds`; Unavailable.
    """
    key = store.keyspace.lock(name)
    deadline = trio.current_time() + seconds
    lease = await store.grant_lease(LOCK_SECONDS)
    guard = LeaseGuard(key, lease)
    while not await _taken(store, key, who, lease):
        if trio.current_time() >= deadline:
            held = await store.get(key)
            holder = held.value.decode("utf-8", "backslashreplace") if held else "somebody"
            raise Conflict(f"{holder} is at work on the same just now; nothing was written: try again")
        await trio.sleep(PAUSE_SECONDS)
        lease_left = await store.lease_ttl(lease)
        if not lease_left:
            lease = await store.grant_lease(LOCK_SECONDS)
            guard = LeaseGuard(key, lease)
    try:
        yield guard
    finally:
        with trio.move_on_after(RELEASE_SECONDS, shield=True):
            with suppress(MeshError):  # else the end of its lease does it
                await store.transact((guard,), (Delete(key),))


async def _taken(store: Store, key: bytes, who: str, lease: int) -> bool:
    try:
        return await store.transact((KeyGuard(key, 0),), (Put(key, who.encode(), lease),)) is not None
    except Unavailable as error:
        if not error.outcome_unknown:
            raise
    held = await store.get(key)
    return held is not None and held.lease == lease
