"""[edge] A prefix, followed: listed at one revision, watched from the next, listed again on any doubt."""

import logging
from typing import Protocol

import trio

from controlplane.log import event
from controlplane.store.etcd import MustListAgain, Store
from schemas.errors import MeshError
from trio_etcd import Listing, WatchBatch

# Between two attempts. The watch itself reconnects without us: this is for a listing that fails.
RETRY_SECONDS = 1.0
LIST_AGAIN_SECONDS = 0.05  # a store that is for ever replaced under us must not keep a core busy

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """What is fed. `listed` replaces all that was known."""

    def listed(self, listing: Listing) -> None: ...

    def changed(self, batch: WatchBatch) -> None: ...


async def follow(store: Store, prefix: bytes, sink: Sink) -> None:
    """For ever. Trouble with etcd is logged once until it is over, and the sink keeps what it has."""
    troubled = False
    while True:
        try:
            with store.until_restored():
                listing = await store.list(prefix)
                sink.listed(listing)
                if troubled:
                    event(logger, logging.INFO, "following again", prefix=prefix.decode(), revision=listing.revision)
                    troubled = False
                async with store.watch(prefix, listing.revision + 1) as watch:
                    async for batch in watch:
                        sink.changed(batch)
        except MustListAgain as error:
            event(logger, logging.INFO, "listing again", prefix=prefix.decode(), why=error)
            await trio.sleep(LIST_AGAIN_SECONDS)
        except MeshError as error:
            if not troubled:
                event(logger, logging.WARNING, "can't follow", prefix=prefix.decode(), why=error)
                troubled = True
            await trio.sleep(RETRY_SECONDS)
