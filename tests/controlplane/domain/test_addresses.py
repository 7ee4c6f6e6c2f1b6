"""Virtual addresses: who gets which, kept, given back, and never two services one."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.addresses import (
    LEVELS,
    QUARANTINE_S,
    Assignment,
    assign,
    blocks_needed,
    range_problems,
    ranges,
)
from controlplane.domain.change import Change
from controlplane.domain.known import Known, Stored, StoredBlock
from controlplane.domain.plan import plan
from controlplane.domain.reads import objects_needed, prefixes_needed
from schemas import codec
from schemas.names import ObjectRef
from schemas.objects import AnyObject, ExternalService, Service
from schemas.objects.service import VirtualAddress
from schemas.records import AddressBlock
from tests.controlplane.domain.objects import KEYSPACE, delete, objects, put, service

OTHER = "spiffe://other.example/x"


def mesh(ipv4: str = "127.240.0.0/16", ipv6: str = "fd6d:6573:6800::/64") -> AnyObject:
    text = f"{{trustDomain: shop.example, virtualAddresses: {{ipv4: {ipv4}, ipv6: '{ipv6}'}}}}"
    return objects(f"kind: Mesh\nmetadata: {{name: mesh}}\nspec: {text}")[0]


def external(name: str) -> AnyObject:
    return objects(
        f"kind: ExternalService\nmetadata: {{name: {name}, namespace: shop}}\n"
        f"spec: {{ports: [{{name: a, port: 1, protocol: tcp}}], endpoints: [{{address: 10.0.0.1}}], "
        f"tls: {{mode: MESH, spiffeId: '{OTHER}'}}}}"
    )[0]


@dataclass
class Store:
    """etcd, as far as addresses go: what the plans wrote, a revision each."""

    values: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    revision: int = 1

    def known(self, changes: Sequence[Change], levels: int) -> Known:
        """What a replica reads for the change set, and no more."""
        read = {}
        for ref in objects_needed(changes):
            if (found := self.values.get(KEYSPACE.object(ref))) is not None:
                read[ref] = Stored(*found, codec.decode_object(found[0], ref.kind, str(ref)))
        known = Known(read)
        networks = set(blocks_needed(changes, known, levels))
        if KEYSPACE.address_blocks() in prefixes_needed(KEYSPACE, changes, known):
            networks = {key.decode().rpartition("/")[2] for key in self.values if b"/addresses/" in key}
        blocks = {}
        for network in networks:
            if (found := self.values.get(KEYSPACE.address_block(network))) is not None:
                blocks[network] = StoredBlock(codec.decode(found[0], AddressBlock, network).slots, found[1])
        return Known(read, (), blocks)

    def assign(self, *changes: Change, now: int = 0, levels: int = LEVELS[-1]) -> tuple[Known, Assignment]:
        known = self.known(changes, levels)
        return known, assign(changes, known, KEYSPACE, levels, now)

    def apply(self, *changes: Change, now: int = 0) -> None:
        known, assigned = self.assign(*changes, now=now)
        assert not assigned.problems, assigned.problems
        self.write(known, assigned)

    def write(self, known: Known, assigned: Assignment) -> bool:
        planned = plan(assigned, known, KEYSPACE)
        for guard in planned.guards:
            if self.values.get(guard.key, (b"", 0))[1] != guard.mod_revision:  # type: ignore[union-attr]  # key guards
                return False
        self.revision += 1
        for op in planned.ops:
            if hasattr(op, "value"):
                self.values[op.key] = (op.value, self.revision)
            else:
                self.values.pop(op.key)
        return True

    def address(self, name: str, namespace: str = "shop", kind: str = "Service") -> VirtualAddress | None:
        value, _ = self.values[KEYSPACE.object(ObjectRef(kind, namespace, name))]
        found = codec.decode_object(value, kind, name)
        assert isinstance(found, Service | ExternalService)
        return found.spec.virtual_address

    def live(self, namespace: str = "shop") -> list[tuple[bytes, VirtualAddress]]:
        found = []
        for key, (value, _) in self.values.items():
            ref = KEYSPACE.parse(key)
            if isinstance(ref, ObjectRef) and ref.kind.endswith("Service") and ref.namespace == namespace:
                one = codec.decode_object(value, ref.kind, "x")
                assert isinstance(one, Service | ExternalService)
                if one.spec.virtual_address:
                    found.append((key, one.spec.virtual_address))
        return found


@pytest.fixture
def store() -> Store:
    made = Store()
    made.apply(put(mesh()))
    return made


def with_address(value: AnyObject, ipv4: str, ipv6: str) -> AnyObject:
    assert isinstance(value, Service)
    spec = msgspec.structs.replace(value.spec, virtual_address=VirtualAddress(ipv4=ipv4, ipv6=ipv6))
    return msgspec.structs.replace(value, spec=spec)


def test_a_service_gets_an_address_and_keeps_it(store: Store) -> None:
    store.apply(put(service("orders")))
    address = store.address("orders")
    assert address is not None
    number = int(ipaddress.ip_address(address.ipv4)) - int(ipaddress.ip_address("127.240.0.0"))
    assert 0 < number < 65536
    assert ipaddress.ip_address(address.ipv6) == ipaddress.ip_network("fd6d:6573:6800::/64")[number]
    store.apply(put(service("orders", ports=(1, 2))))
    assert store.address("orders") == address
    known, assigned = store.assign(put(service("orders", ports=(1, 2))))
    assert not plan(assigned, known, KEYSPACE).ops, "what is written without it is what is stored with it"


def test_one_that_comes_back_has_its_address_again(store: Store) -> None:
    store.apply(put(service("orders")))
    before = store.address("orders")
    store.apply(delete(service("orders")), now=100)
    for number in range(200):
        store.apply(put(service(f"s{number}")), now=101)
    store.apply(put(service("orders")), now=102)
    assert store.address("orders") == before


def test_an_address_rests_for_a_day(store: Store) -> None:
    for number in range(254):  # all of the namespace's first block
        store.apply(put(service(f"s{number}")))
    block = {address.ipv4.rpartition(".")[0] for _, address in store.live()}
    assert len(block) == 1
    freed = store.address("s7")
    store.apply(delete(service("s7")), now=1000)
    store.apply(put(service("early")), now=1000 + QUARANTINE_S - 1)
    store.apply(put(service("late")), now=1000 + QUARANTINE_S)
    assert store.address("early") not in (None, freed)
    assert store.address("late") == freed


def test_one_block_is_written_for_many_of_a_namespace(store: Store) -> None:
    changes = [put(service(f"s{number}")) for number in range(125)]
    known, assigned = store.assign(*changes)
    assert len(plan(assigned, known, KEYSPACE).ops) == 126


def test_what_is_looked_at_grows_with_the_logarithm(store: Store) -> None:
    for start in range(0, 1000, 100):
        store.apply(*(put(service(f"s{number}")) for number in range(start, start + 100)))
    addresses = [address for _, address in store.live()]
    assert len(set(addresses)) == len(addresses) == 1000
    known = store.known([put(service("more"))], 1)
    assert len(blocks_needed([put(service("more"))], known, LEVELS[0])) <= LEVELS[0]
    _, assigned = store.assign(put(service("more")), levels=LEVELS[0])
    assert not assigned.unplaced


def test_where_all_is_taken_there_is_none(store: Store) -> None:
    store.apply(put(mesh("127.241.1.0/24")))
    store.apply(*(put(service(f"s{number}")) for number in range(120)))
    store.apply(*(put(service(f"s{number}")) for number in range(120, 240)))
    store.apply(*(put(service(f"s{number}")) for number in range(240, 255)))
    assert len(store.live()) == 254
    [without] = [number for number in range(255) if store.address(f"s{number}") is None]
    store.apply(delete(service("s3")))
    store.apply(put(service(f"s{without}", ports=(5,))), now=QUARANTINE_S)
    assert store.address(f"s{without}") is not None, "the next write gives it one"


def test_the_loser_of_a_race_takes_another(store: Store) -> None:
    """Two services of one slot, planned by two replicas at the same state."""
    names = [f"s{number}" for number in range(600)]
    of: dict[object, str] = {}
    for name in names:
        _, alone = store.assign(put(service(name)))
        address = alone.changes[0].put.spec.virtual_address  # type: ignore[union-attr]  # a Service
        if address in of:
            break
        of[address] = name
    one, two = of[address], name
    first, second = store.assign(put(service(one))), store.assign(put(service(two)))
    assert store.write(*first)
    assert not store.write(*second), "the block has changed under it"
    store.apply(put(service(two)))
    assert store.address(one) == address != store.address(two)


def test_an_address_that_somebody_wrote_down(store: Store) -> None:
    wanted = with_address(service("orders"), "127.240.9.9", "fd6d:6573:6800::909")
    store.apply(put(wanted))
    assert store.address("orders") == VirtualAddress(ipv4="127.240.9.9", ipv6="fd6d:6573:6800::909")
    for value, told in (
        (with_address(service("cart"), "127.240.9.9", "fd6d:6573:6800::909"), "is that of orders.shop"),
        (with_address(service("cart"), "127.240.9.8", "fd6d:6573:6800::909"), "are not one number"),
        (with_address(service("cart"), "127.0.0.1", "::1"), "are not one number"),
        (with_address(service("orders"), "127.240.9.8", "fd6d:6573:6800::908"), "has 127.240.9.9"),
    ):
        _, assigned = store.assign(put(value))
        [problem] = assigned.problems
        assert told in problem.message
        assert problem.path == "$.spec.virtualAddress"
    store.apply(delete(service("orders")), now=50)
    _, assigned = store.assign(put(with_address(service("cart"), "127.240.9.9", "fd6d:6573:6800::909")), now=60)
    assert "less than 24 hours ago" in assigned.problems[0].message


def test_a_name_keeps_its_address_when_it_becomes_another_kind(store: Store) -> None:
    store.apply(put(service("orders")))
    before = store.address("orders")
    store.apply(delete(service("orders")), put(external("orders")), now=5)
    assert store.address("orders", kind="ExternalService") == before
    store.apply(delete(external("orders")), now=6)
    _, assigned = store.assign(put(with_address(service("cart"), before.ipv4, before.ipv6)), now=7)  # type: ignore[union-attr]  # it has one
    assert assigned.problems, "it was given back when the name went"


def test_ranges_stay_while_somebody_has_an_address_of_them(store: Store) -> None:
    store.apply(put(service("orders")))
    moved = [put(mesh("127.241.0.0/16"))]
    [problem] = range_problems(moved, store.known(moved, 1), 0)
    assert problem.path == "$.spec.virtualAddresses"
    store.apply(delete(service("orders")), now=10)
    assert list(range_problems(moved, store.known(moved, 1), 10 + QUARANTINE_S - 1))
    assert not list(range_problems(moved, store.known(moved, 1), 10 + QUARANTINE_S))
    same = [put(mesh())]
    assert not list(range_problems(same, store.known(same, 1), 0))


def test_without_ranges_there_are_no_addresses() -> None:
    store = Store()
    store.apply(put(service("orders")))
    assert store.address("orders") is None
    assert ranges(Known({}), ()) is None


_steps = st.lists(
    st.tuples(
        st.lists(
            st.tuples(st.sampled_from(["put", "put", "external", "delete"]), st.integers(0, 7)),
            min_size=1,
            max_size=4,
            unique_by=lambda one: one[1],
        ),
        st.sampled_from([0, 1, QUARANTINE_S // 2, QUARANTINE_S]),
        st.booleans(),
    ),
    max_size=25,
)


@cache
def _nearly_full() -> tuple[Store, frozenset[VirtualAddress]]:
    """Of 254 addresses all but three are others'."""
    store = Store()
    store.apply(put(mesh("127.241.1.0/24")))
    for start in range(0, 251, 120):
        others = range(start, min(start + 120, 251))
        store.apply(*(put(service(f"other{one}", namespace="full")) for one in others))
    return store, frozenset(address for _, address in store.live("full"))


@settings(max_examples=60, deadline=None)
@given(_steps)
def test_no_two_live_services_share_an_address(steps: list[tuple[list[tuple[str, int]], int, bool]]) -> None:
    """Any history: puts and deletes of few names in a range so crowded that they meet, some by a replica that lost the
    race and tries again."""
    full, of_others = _nearly_full()
    store, now = Store(dict(full.values), full.revision), 0
    before: dict[str, VirtualAddress] = {}
    left: dict[VirtualAddress, tuple[str, int]] = {}
    for actions, later, races in steps:
        now += later
        names = [f"s{number}" for number in range(8)]
        present = {name for name in names if KEYSPACE.object(ObjectRef("Service", "shop", name)) in store.values}
        externals = {
            name for name in names if KEYSPACE.object(ObjectRef("ExternalService", "shop", name)) in store.values
        }
        changes: list[Change] = []
        for action, number in actions:
            name = f"s{number}"
            gone = [delete(service(name))] if name in present else []
            gone_external = [delete(external(name))] if name in externals else []
            match action:
                case "put":
                    changes += [*gone_external, put(service(name, ports=(now % 60000 + 1,)))]
                case "external":
                    changes += [*gone, put(external(name))]
                case _:
                    changes += gone + gone_external
        stale = store.assign(*changes, now=now)
        if races:
            store.apply(put(service("s8", ports=(now % 60000 + 1,))), now=now)
        if not store.write(*stale):
            store.apply(*changes, now=now)
        live = store.live()
        assert len({*of_others, *(address for _, address in live)}) == len(live) + len(of_others)
        holders = {key.decode().rpartition("/")[2]: address for key, address in live}
        for name, address in before.items():
            if name in holders:
                assert holders[name] == address, "it was stable"
            else:
                left[address] = (name, now)
        for name, address in holders.items():
            if address in left and name not in before:
                owner, since = left.pop(address)
                assert owner == name or since + QUARANTINE_S <= now, "it was given out too early"
        before = holders
