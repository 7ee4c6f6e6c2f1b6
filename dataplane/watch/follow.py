"""[edge] Follows prefixes of etcd: list at R, watch from R + 1, list again on any doubt.

want({a, b}) ─┬─▶ a: Listing@R, Changes@R+1, Changes@R+2 …
              └─▶ b: Listing@R, …                             all into one bounded channel, each prefix in order
"""

import logging
from collections.abc import Callable, Collection

import trio

from dataplane.watch.events import Changes, Delete, Dropped, Event, Listing, Put
from trio_etcd import Client, Compacted, EtcdError, FutureRevision, StoreReplaced, Unavailable
from trio_etcd import Event as EtcdEvent

log = logging.getLogger("mesh.watch")

# Seconds. After a compaction all sidecars of a mesh may list at once: they spread over this long.
RELIST_SPREAD_S = 1.0
# Seconds between attempts that etcd refuses (a permission, a certificate): somebody has to mend it.
REFUSED_RETRY_S = 5.0
UNAVAILABLE_RETRY_S = 0.5


class Follower:
    """Its prefixes may change while it runs. `fraction` yields random numbers in [0, 1)."""

    def __init__(
        self,
        nursery: trio.Nursery,
        client: Client,
        send: trio.MemorySendChannel[Event],
        *,
        fraction: Callable[[], float],
    ) -> None:
        self._nursery = nursery
        self._client = client
        self._send = send
        self._fraction = fraction
        self._scopes: dict[bytes, trio.CancelScope] = {}
        self._trouble: type[EtcdError] | None = None

    def want(self, prefixes: frozenset[bytes]) -> None:
        """From now on exactly these."""
        for prefix in sorted(self._scopes.keys() - prefixes):
            self._scopes.pop(prefix).cancel()
            self._nursery.start_soon(self._send.send, Dropped(prefix))
        for prefix in sorted(prefixes - self._scopes.keys()):
            self._start(prefix)

    def list_again(self, prefixes: Collection[bytes] | None = None) -> None:
        """These anew; without any, all: what was known may be of another time."""
        for prefix, scope in list(self._scopes.items()):
            if prefixes is None or prefix in prefixes:
                scope.cancel()
                self._start(prefix)

    def _start(self, prefix: bytes) -> None:
        scope = self._scopes[prefix] = trio.CancelScope()
        self._nursery.start_soon(self._follow, prefix, scope)

    async def _follow(self, prefix: bytes, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    await self._list_and_watch(prefix)
                except (Compacted, StoreReplaced, FutureRevision) as error:
                    log.warning("listing %s again: %s", prefix.decode(), error)
                    await trio.sleep(RELIST_SPREAD_S * self._fraction())
                except EtcdError as error:
                    self._say(error)
                    await trio.sleep(UNAVAILABLE_RETRY_S if isinstance(error, Unavailable) else REFUSED_RETRY_S)

    def _say(self, error: EtcdError) -> None:
        """Once an outage and kind of error, not once a prefix and attempt."""
        if type(error) is not self._trouble:
            self._trouble = type(error)
            what = "does not answer" if isinstance(error, Unavailable) else "refuses us"
            log.warning("etcd %s; what is known stays in force: %s", what, error)

    async def _list_and_watch(self, prefix: bytes) -> None:
        listing = await self._client.list(prefix)
        if self._trouble is not None:
            self._trouble = None
            log.info("etcd answers again")
        log.debug("listed %s at revision %d: %d keys", prefix.decode(), listing.revision, len(listing.kvs))
        items = tuple(Put(kv.key, kv.value, kv.mod_revision) for kv in listing.kvs)
        await self._send.send(Listing(prefix, listing.revision, items))
        async with self._client.watch(prefix, prefix=True, start_revision=listing.revision + 1, progress=True) as watch:
            async for batch in watch:
                if batch.events and log.isEnabledFor(logging.DEBUG):
                    log.debug("revision %d: %s", batch.revision, ", ".join(_words(event) for event in batch.events))
                await self._send.send(Changes(prefix, batch.revision, tuple(map(_event, batch.events))))


def _event(event: EtcdEvent) -> Put | Delete:
    kv = event.kv
    return Delete(kv.key, kv.mod_revision) if event.deleted else Put(kv.key, kv.value, kv.mod_revision)


def _words(event: EtcdEvent) -> str:
    return f"{'delete' if event.deleted else 'put'} {event.kv.key.decode(errors='backslashreplace')}"
