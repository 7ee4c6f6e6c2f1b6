"""Which service gets which virtual address: one for itself, the same for as long as it lives. Pure.

Addresses are claimed in blocks of 256, each one key in etcd, and a block is written in the transaction that writes the
services, guarded by its revision: two replicas never give out one address. Where a service looks for its address
follows from its name, so that one that was deleted and comes back has its old address again where that is free:

    level 0   1 block of the namespace       all its services, until the block is full
    level 1   2 blocks, by the service's name
    level 2   4 blocks …                     a namespace of n services looks at log2(n / 256) blocks

A block belongs to no namespace: what is full is passed by. An address is free again a day after its service has gone.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from controlplane.domain.change import Change
from controlplane.domain.federation import MESH_REF
from controlplane.domain.known import After, Known, StoredBlock
from controlplane.domain.reads import moves_ranges
from controlplane.store.ops import Guard, KeyGuard, Put
from schemas import codec
from schemas.errors import Problem
from schemas.keys import Keyspace
from schemas.names import ServiceRef
from schemas.objects import ExternalService, Mesh, Service
from schemas.objects.service import VirtualAddress
from schemas.records import AddressBlock, AddressSlot
from schemas.virtual_addresses import Ranges

NAMED_KINDS = ("Service", "ExternalService")
BLOCK = 256
# Seconds. A resolver forgets a name after half a minute, an app that keeps what it resolved perhaps when it restarts, a
# sidecar that lost etcd serves the old service until it is back: a day is longer than what anybody leaves so.
QUARANTINE_S = 24 * 3600
# Full blocks are rare: nearly always the first few levels decide. The last make room for 130,000 services.
LEVELS = (4, 9)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The change set with the addresses in it, and what is to be written and to hold for that."""

    changes: tuple[Change, ...]
    puts: tuple[Put, ...] = ()
    guards: tuple[Guard, ...] = ()
    problems: tuple[Problem, ...] = ()
    unplaced: frozenset[ServiceRef] = frozenset()
    """For whom all blocks that were looked at are full."""
    allocates: bool = False
    """By the ranges of the Mesh object, which must stay."""


@dataclass(slots=True)
class _Names:
    """What the change set does to a name, be it a Service's or an ExternalService's."""

    puts: list[int] = field(default_factory=list)
    stored: VirtualAddress | None = None


def ranges(known: Known, changes: Sequence[Change]) -> Ranges | None:
    """In force after the change set; None: no Mesh object, or one whose ranges are faulty."""
    mesh = After(known, changes).get(MESH_REF)
    return Ranges.of(mesh.spec.virtual_addresses) if isinstance(mesh, Mesh) else None


def blocks_needed(changes: Sequence[Change], known: Known, levels: int) -> frozenset[str]:
    """The networks of the blocks that `assign` has to know."""
    of, needed = ranges(known, changes), set[str]()
    for service, name in _names(changes, known).items():
        if not name.puts:
            needed |= {_block_of(name.stored)} if name.stored else set()
        elif name.stored is None and of is not None:
            wanted = _wanted(changes, name)
            needed |= {_block_of(wanted)} if wanted else set(_networks(service, of, levels))
    return frozenset(needed)


def assign(changes: Sequence[Change], known: Known, keyspace: Keyspace, levels: int, now: int) -> Assignment:
    """`known` holds what `blocks_needed` asked for. now: seconds since 1970."""
    of, result, problems = ranges(known, changes), list(changes), list[Problem]()
    blocks = {network: dict(one.slots) for network, one in known.blocks.items()}
    unplaced, allocates = set[ServiceRef](), False
    for service, name in sorted(_names(changes, known).items()):
        if not name.puts:
            _release(blocks, service, name.stored, now)
            continue
        wanted = _wanted(changes, name)
        address = name.stored
        if address is None and of is not None:
            allocates = True
            if wanted is None:
                address = _free(blocks, service, of, levels, now)
                unplaced |= {service} if address is None else set()
            elif (fault := _not_free(blocks, service, wanted, of, now)) is None:
                address = wanted
            else:
                remedy = "leave `virtualAddress` out: a replica chooses one"
                problems.append(Problem(changes[name.puts[0]].subject, fault, "$.spec.virtualAddress", remedy))
            if address is not None:
                _slots(blocks, address)[address.ipv4] = AddressSlot(namespace=service.namespace, name=service.name)
        elif wanted is not None and wanted != address:
            has = f"has {address.ipv4} and {address.ipv6}" if address else "has none: the mesh has no ranges"
            message = f"{has}, for as long as it lives"
            problems.append(Problem(changes[name.puts[0]].subject, message, "$.spec.virtualAddress", "leave it out"))
        for index in name.puts:
            result[index] = replace(result[index], put=_with(result[index].put, address))
    written = {network: slots for network, slots in blocks.items() if slots != _slots_known(known, network)}
    return Assignment(
        tuple(result),
        tuple(_put(keyspace, network, written[network], now) for network in sorted(written)),
        tuple(
            KeyGuard(keyspace.address_block(network), _revision(known.blocks.get(network)))
            for network in sorted(written)
        ),
        tuple(problems),
        frozenset(unplaced),
        allocates,
    )


def range_problems(changes: Sequence[Change], known: Known, now: int) -> Iterator[Problem]:
    """Ranges that change under addresses that are of them."""
    for change in changes:
        if not moves_ranges(change, known):
            continue
        taken = sorted(
            address
            for block in known.blocks.values()
            for address, slot in block.slots.items()
            if not _is_free(slot, None, now)
        )
        if taken:
            message = f"{len(taken)} services have, or had until yesterday, addresses of the ranges, such as {taken[0]}"
            remedy = "keep the ranges; `names.network` in a sidecar's settings is for a host where they are in the way"
            yield Problem(change.subject, message, "$.spec.virtualAddresses", remedy)


def network_of(ipv4: str) -> str:
    """Of the block that an address is in."""
    return f"{ipv4.rpartition('.')[0]}.0"


def mended(
    slots: Mapping[str, AddressSlot], holders: Mapping[str, ServiceRef], now: int
) -> dict[str, AddressSlot] | None:
    """A block as it must be for who has addresses of it, `holders` by IPv4; None: it is so.

    What somebody wrote past the replicas is claimed, what nobody has any more is given back.
    """
    after = dict(slots)
    for ipv4, service in holders.items():
        slot = slots.get(ipv4)
        if slot is None or (slot.namespace, slot.name, slot.released) != (service.namespace, service.name, None):
            after[ipv4] = AddressSlot(namespace=service.namespace, name=service.name)
    for ipv4, slot in slots.items():
        if slot.released is None and ipv4 not in holders:
            after[ipv4] = msgspec.structs.replace(slot, released=now)
    return after if after != slots else None


# -- what the change set says


def _names(changes: Sequence[Change], known: Known) -> dict[ServiceRef, _Names]:
    found: dict[ServiceRef, _Names] = {}
    for index, change in enumerate(changes):
        if change.ref.kind not in NAMED_KINDS:
            continue
        name = found.setdefault(ServiceRef(change.ref.namespace, change.ref.name), _Names())
        if change.put is not None:
            name.puts.append(index)
        stored = known.objects.get(change.ref)
        if stored is not None and isinstance(stored.object, Service | ExternalService):
            name.stored = stored.object.spec.virtual_address or name.stored
    return found


def _wanted(changes: Sequence[Change], name: _Names) -> VirtualAddress | None:
    """As somebody wrote it, who took it from an earlier state of the mesh."""
    for index in name.puts:
        put = changes[index].put
        if isinstance(put, Service | ExternalService) and put.spec.virtual_address is not None:
            return put.spec.virtual_address
    return None


def _with(value: object, address: VirtualAddress | None) -> Service | ExternalService:
    assert isinstance(value, Service | ExternalService)  # noqa: S101  (what _names lets through)
    return msgspec.structs.replace(value, spec=msgspec.structs.replace(value.spec, virtual_address=address))


# -- blocks


def _networks(service: ServiceRef, of: Ranges, levels: int) -> Iterator[str]:
    """Where to look for an address, the first place first; one may come twice in a small range."""
    spread = _hash(f"{service.namespace}/{service.name}")
    for level in range(levels):
        place = _hash(f"{service.namespace} {level} {spread % 2**level}")
        yield str(of.ipv4[place % (of.ipv4.num_addresses // BLOCK) * BLOCK])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _block_of(address: VirtualAddress) -> str:
    return network_of(address.ipv4)


def _slots(blocks: dict[str, dict[str, AddressSlot]], address: VirtualAddress) -> dict[str, AddressSlot]:
    return blocks.setdefault(_block_of(address), {})


def _free(
    blocks: dict[str, dict[str, AddressSlot]], service: ServiceRef, of: Ranges, levels: int, now: int
) -> VirtualAddress | None:
    """The service's own from before, else the first that is free; None where all blocks are full."""
    networks = list(_networks(service, of, levels))
    for network in networks:
        for text, slot in blocks.get(network, {}).items():
            if (slot.namespace, slot.name) == (service.namespace, service.name) and (own := _at(of, text)):
                return own
    start = _hash(f"{service.name}.{service.namespace}") % BLOCK
    for network in networks:
        slots = blocks.get(network, {})
        prefix = network.rpartition(".")[0]
        for step in range(BLOCK):
            octet = (start + step) % BLOCK
            if octet in (0, BLOCK - 1):  # many programs take them for a network's own address and its broadcast
                continue
            text = f"{prefix}.{octet}"
            if _is_free(slots.get(text), service, now):
                return _at(of, text)
    return None


def _at(of: Ranges, text: str) -> VirtualAddress | None:
    """None: of another range than the mesh has now."""
    number = int(type(of.ipv4.network_address)(text)) - int(of.ipv4.network_address)
    return of.address(number) if 0 <= number < of.ipv4.num_addresses else None


def _is_free(slot: AddressSlot | None, service: ServiceRef | None, now: int) -> bool:
    if slot is None or (service is not None and (slot.namespace, slot.name) == (service.namespace, service.name)):
        return True
    return slot.released is not None and slot.released + QUARANTINE_S <= now


def _not_free(
    blocks: Mapping[str, Mapping[str, AddressSlot]], service: ServiceRef, wanted: VirtualAddress, of: Ranges, now: int
) -> str | None:
    if of.number(wanted) is None:
        return f"{wanted.ipv4} and {wanted.ipv6} are not one number of the mesh's ranges {of.ipv4} and {of.ipv6}"
    slot = blocks.get(_block_of(wanted), {}).get(wanted.ipv4)
    if slot is None or _is_free(slot, service, now):
        return None
    if slot.released is None:
        return f"{wanted.ipv4} is that of {slot.name}.{slot.namespace}"
    return f"{wanted.ipv4} was that of {slot.name}.{slot.namespace} until less than {QUARANTINE_S // 3600} hours ago"


def _release(
    blocks: dict[str, dict[str, AddressSlot]], service: ServiceRef, address: VirtualAddress | None, now: int
) -> None:
    slot = blocks.get(_block_of(address), {}).get(address.ipv4) if address else None
    if address and slot and (slot.namespace, slot.name) == (service.namespace, service.name):
        _slots(blocks, address)[address.ipv4] = msgspec.structs.replace(slot, released=now)


def _slots_known(known: Known, network: str) -> Mapping[str, AddressSlot]:
    block = known.blocks.get(network)
    return block.slots if block else {}


def _revision(block: StoredBlock | None) -> int:
    return block.mod_revision if block else 0


def _put(keyspace: Keyspace, network: str, slots: Mapping[str, AddressSlot], now: int) -> Put:
    """Without those that were free again before: a block does not grow with what came and went."""
    kept = {text: slot for text, slot in slots.items() if not _is_free(slot, None, now)}
    return Put(keyspace.address_block(network), codec.encode(AddressBlock(slots=kept)))
