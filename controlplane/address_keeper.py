"""[edge] Virtual addresses of services that no replica of this release has written: older ones, those written by hand.

Once, when a replica starts: blocks are brought in line with who has which address, then those without one get theirs.
All that is written later is right by the transaction that writes it.
"""

import logging
from collections.abc import Callable, Iterable, Sequence

import trio

from controlplane.api import change_set
from controlplane.domain.addresses import NAMED_KINDS, mended, network_of
from controlplane.domain.change import Change
from controlplane.log import event
from controlplane.store.etcd import PAUSE_SECONDS, Store
from controlplane.store.ops import KeyGuard, Put
from controlplane.store.requests import Request, RequestWriter
from schemas import codec
from schemas.errors import Conflict, Corrupt, InvalidInput, MeshError
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import ExternalService, Service
from schemas.records import AddressBlock, AddressSlot
from trio_etcd import KeyValue

RETRY_SECONDS = 5.0  # between two attempts
APPLY_SECONDS = 5.0  # of one transaction
# Services in one transaction: of many namespaces each may write a block beside its services.
BATCH = 50
_ID_BYTES = 8

logger = logging.getLogger(__name__)
audit = logging.getLogger("mesh.audit")


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
                event(
                    audit,
                    logging.INFO,
                    "gave virtual addresses",
                    caller="automatic",
                    peer="this replica",
                    services=done,
                )
            return


async def _give(store: Store, writer: RequestWriter, now: Callable[[], float], random: Callable[[int], bytes]) -> int:
    """How many have one now that had none."""
    blocks = (await store.list(store.keyspace.address_blocks())).kvs
    services: list[Change] = []
    # After the blocks: whoever is made or deleted meanwhile changes a block that has been read.
    for kv in (await store.list(store.keyspace.config())).kvs:
        ref = store.keyspace.parse(kv.key)
        found = change_set.stored(ref, kv).object if isinstance(ref, ObjectRef) and ref.kind in NAMED_KINDS else None
        if isinstance(found, Service | ExternalService):
            services.append(Change(found.ref, found, expected_revision=kv.mod_revision))
    await _mend(store, blocks, services, int(now()))
    without = [
        one
        for one in services
        if isinstance(one.put, Service | ExternalService) and one.put.spec.virtual_address is None
    ]

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


async def _mend(store: Store, blocks: Iterable[KeyValue], services: Sequence[Change], now: int) -> None:
    """Raises Conflict where one of the blocks has changed."""
    prefix = store.keyspace.address_blocks()
    stored = {kv.key[len(prefix) :].decode("ascii", "backslashreplace"): kv for kv in blocks}
    holders: dict[str, dict[str, ServiceRef]] = {network: {} for network in stored}
    for one in services:
        address = one.put.spec.virtual_address if isinstance(one.put, Service | ExternalService) else None
        service = ServiceRef(one.ref.namespace, one.ref.name)
        if address is not None:
            first = holders.setdefault(network_of(address.ipv4), {}).setdefault(address.ipv4, service)
            if first != service:
                told = {"address": address.ipv4, "of": first, "and": service}
                event(logger, logging.ERROR, "two services have one virtual address: delete one, and apply it", **told)
    for network, of in sorted(holders.items()):
        kv = stored.get(network)
        slots = _slots(kv)
        after = mended(slots or {}, of, now)
        if after is None and slots is not None:
            continue
        key = store.keyspace.address_block(network)
        put = Put(key, codec.encode(AddressBlock(slots=after or {})))
        revision = await store.transact((KeyGuard(key, kv.mod_revision if kv else 0),), (put,))
        if revision is None:
            raise Conflict(f"{key.decode()} has just been written by somebody else")
        text = "mended a block of virtual addresses"
        told = {"block": network, "revision": revision}
        event(audit, logging.WARNING, text, caller="automatic", peer="this replica", **told)


def _slots(kv: KeyValue | None) -> dict[str, AddressSlot] | None:
    """None: it is damaged, and is made anew of who has addresses; who had one is forgotten."""
    if kv is None:
        return {}
    try:
        return codec.decode(kv.value, AddressBlock, kv.key.decode("utf-8", "backslashreplace")).slots
    except Corrupt as error:
        event(logger, logging.ERROR, "a block of virtual addresses can't be read", why=str(error))
        return None
