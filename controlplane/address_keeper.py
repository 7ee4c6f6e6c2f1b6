"""[edge] Gives virtual addresses to services that have none: of an older release, or written past the replicas.

Once, when a replica starts; services that are written later get theirs in that transaction.
"""

import logging
from collections.abc import Callable, Sequence

import trio

from controlplane.api import change_set
from controlplane.domain.addresses import NAMED_KINDS
from controlplane.domain.change import Change
from controlplane.log import event
from controlplane.store.etcd import PAUSE_SECONDS, Store
from controlplane.store.requests import Request, RequestWriter
from schemas.errors import Conflict, InvalidInput, MeshError
from schemas.names import ObjectRef
from schemas.objects import ExternalService, Service

RETRY_SECONDS = 5.0  # between two attempts
APPLY_SECONDS = 5.0  # of one transaction
# Services in one transaction: of many namespaces each may write a block beside its services.
BATCH = 50
_ID_BYTES = 8

logger = logging.getLogger(__name__)


async def give_addresses(
    store: Store, writer: RequestWriter, now: Callable[[], float], random: Callable[[int], bytes]
) -> None:
    """Returns once all have one that can have one. now: seconds since 1970."""
    while True:
        try:
            done = await _give(store, writer, now, random)
        except Conflict:
            await trio.sleep(PAUSE_SECONDS)  # somebody wrote one of them meanwhile: look again
        except MeshError as error:
            event(logger, logging.WARNING, "services without virtual address wait", why=str(error))
            await trio.sleep(RETRY_SECONDS)
        else:
            if done:
                event(logger, logging.INFO, "gave virtual addresses", services=done)
            return


async def _give(store: Store, writer: RequestWriter, now: Callable[[], float], random: Callable[[int], bytes]) -> int:
    """How many have one now that had none."""
    without: list[Change] = []
    for kind in NAMED_KINDS:
        for kv in (await store.list(store.keyspace.config_of_kind(kind))).kvs:
            ref = store.keyspace.parse(kv.key)
            found = change_set.stored(ref, kv).object if isinstance(ref, ObjectRef) else None
            if isinstance(found, Service | ExternalService) and found.spec.virtual_address is None:
                without.append(Change(found.ref, found, expected_revision=kv.mod_revision))

    async def write(changes: Sequence[Change]) -> int:
        request = Request(random(_ID_BYTES).hex(), b"")
        try:
            applied = await change_set.apply(
                store, writer, request, changes, dry_run=False, seconds=APPLY_SECONDS, now=int(now())
            )
        except InvalidInput as error:
            if len(changes) > 1:
                return sum([await write([one]) for one in changes])
            event(logger, logging.WARNING, "gets no virtual address", service=changes[0].ref, why=str(error))
            return 0
        return len(changes) if applied.revision else 0

    return sum([await write(without[start : start + BATCH]) for start in range(0, len(without), BATCH)])
