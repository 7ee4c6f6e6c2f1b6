"""A sidecar's two pure stages, driven as the agent drives them, and checked after each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from dataplane.compile.compiler import Compiler
from dataplane.compile.resources import Resource, ResourceKey, Update
from dataplane.compile.workload import GatewayHost, KeyPair, Workload
from dataplane.snapshot.state import MeshState
from dataplane.watch.events import Changes, Delete, Event, Listing, Put
from schemas import codec
from schemas.errors import Corrupt
from schemas.names import ServiceRef
from schemas.objects.common import CertificateFiles
from schemas.records import Revocation
from tests.states.build import CREDENTIALS, KEYS, ORDERS, workload
from tests.states.build import listings as listings_of_prefixes

EDGE = replace(
    workload(ORDERS),
    system_ca="/ca.pem",
    gateway=GatewayHost("192.0.2.1"),
    certificates={CertificateFiles(certificate="a.crt", key="a.key"): KeyPair(b"chain", b"key", ("a.example",))},
)
"""A sidecar of orders on a host that is a gateway, and has one of the certificates that objects may name."""
PREFIXES = (
    KEYS.config(), KEYS.endpoints(), KEYS.trust(), KEYS.revocations(), KEYS.key_sets(), KEYS.epoch()
)  # fmt: skip
"""All that a sidecar watches of what its configuration is made of."""


@dataclass
class Sidecar:
    """State, compiler, and what Envoy would hold if it took every update."""

    workload: Workload
    mesh: MeshState = field(default_factory=lambda: MeshState(KEYS))
    envoy: dict[ResourceKey, Resource] = field(default_factory=dict)
    learnt: tuple[str, ...] = ()
    """What its app has called before; Envoy has let go what it held for it."""
    heard: dict[bytes, Revocation] = field(default_factory=dict)
    """By key, the revocation with the highest serial of all that ever came: the one thing that outlives its key."""

    def __post_init__(self) -> None:
        self.compiler = Compiler(self.workload, credentials=CREDENTIALS, learnt=dict.fromkeys(self.learnt, True))
        self.send(self.compiler.rebuild(self.mesh))

    def take(self, event: Event) -> Update:
        hear(self.heard, event)
        changes = self.mesh.apply(event)
        update = self.compiler.update(self.mesh, changes)
        self.send(update)
        return update

    def learn(self, authority: str, *, detour: bool) -> None:
        """The app calls `authority`; with `detour`, Envoy has acked what follows and lets go what it holds."""
        self.compiler.learn(authority)
        self.send(self.compiler.update(self.mesh, ()))
        if detour:
            self.send(self.compiler.open_detours(self.mesh, [authority]))

    def send(self, update: Update) -> None:
        """An update says only what is new, once, and takes away only what is there."""
        for resource in update.changed:
            before = self.envoy.get(resource.key)
            assert before is None or before.body != resource.body, f"{resource.key} comes again unchanged"
            self.envoy[resource.key] = resource
        for key in update.removed:
            assert self.envoy.pop(key, None) is not None, f"{key} is taken away and was never there"
        keys = [*(one.key for one in update.changed), *update.removed]
        assert len(keys) == len(set(keys)), "one resource twice in an update"

    def check(self) -> None:
        """What the increments led to is what the state alone leads to."""
        self._check_is_compiled_from(self.mesh)

    def _check_is_compiled_from(self, mesh: MeshState) -> None:
        fresh = Compiler(self.workload, credentials=CREDENTIALS, learnt=dict(self.compiler.learnt))
        fresh.rebuild(mesh)
        assert self.compiler.resources() == fresh.resources()
        assert self.envoy == fresh.resources(), "the updates did not lead there"
        assert self.compiler.problems() == fresh.problems()

    def check_is(self, values: Mapping[bytes, bytes]) -> None:
        """It stands where one stands that has seen nothing but `values`, and the last word on each revocation."""
        revisions = {key: one.revision for key, one in self.mesh.stored.items()}
        other = MeshState(KEYS)
        other.apply(last_words(self.heard))
        for listing in listings_of_prefixes(values, revisions=revisions):
            other.apply(listing)
        self._check_is_compiled_from(other)
        assert self.mesh.problems() == other.problems()
        assert self.mesh.values == other.values
        assert self.mesh.revoked == other.revoked
        assert {key: one.value for key, one in self.mesh.stored.items()} == {
            key: one.value for key, one in other.stored.items()
        }


def hear(heard: dict[bytes, Revocation], event: Event) -> None:
    """Takes in what `event` says of revocations, by the rule and not by the code: a higher serial wins, and of two
    with one serial the one that revokes."""
    said = event.items if isinstance(event, Listing) else event.events if isinstance(event, Changes) else ()
    for one in said:
        if not (isinstance(one, Put) and one.key.startswith(KEYS.revocations())):
            continue
        try:
            record = codec.decode(one.value, Revocation, "test")
        except Corrupt:
            continue
        known, its_own = heard.get(one.key), KEYS.revocation(ServiceRef(record.namespace, record.service))
        if one.key == its_own and (known is None or (record.serial, record.revoked) > (known.serial, known.revoked)):
            heard[one.key] = record


def last_words(heard: Mapping[bytes, Revocation]) -> Changes:
    return Changes(KEYS.revocations(), 0, tuple(Put(key, codec.encode(one), 0) for key, one in sorted(heard.items())))


def from_listings(
    workload: Workload,
    values: Mapping[bytes, bytes],
    revisions: Mapping[bytes, int] | None = None,
    learnt: tuple[str, ...] = (),
) -> Sidecar:
    """revisions: by which each key was last written; the first where it is not said."""
    sidecar = Sidecar(workload, learnt=learnt)
    for listing in listings_of_prefixes(values, revisions=revisions):
        sidecar.take(listing)
    return sidecar


def difference(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes], revision: int) -> list[Put | Delete]:
    """The events, in the order of the keys, that lead from one to the other."""
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    return [Put(key, after[key], revision) if key in after else Delete(key, revision) for key in changed]


def whole(events: Iterable[Put | Delete], revision: int) -> list[Changes]:
    """One revision, as each of the watches sees it."""
    listed = list(events)
    return [
        Changes(prefix, revision, tuple(one for one in listed if one.key.startswith(prefix))) for prefix in PREFIXES
    ]


def one_by_one(events: Iterable[Put | Delete], revision: int) -> list[Changes]:
    return [
        Changes(next(prefix for prefix in PREFIXES if one.key.startswith(prefix)), revision + at, (one,))
        for at, one in enumerate(events)
    ]


__all__ = [
    "EDGE", "PREFIXES", "Sidecar", "difference", "from_listings", "hear", "last_words", "listings_of_prefixes",
    "one_by_one", "whole",
]  # fmt: skip
