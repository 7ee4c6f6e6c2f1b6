"""What a replica keeps in memory of the mesh, fed by `follow`. Lost with it: etcd has it all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from schemas import codec
from schemas.errors import Corrupt
from schemas.keys import Keyspace, StatusRef
from schemas.names import SYSTEM_NAMESPACE, ObjectRef
from schemas.objects import Mesh
from schemas.records import SealedKey, SidecarStatus, TrustBundle
from trio_etcd import KeyValue, Listing, WatchBatch


class StatusBoard:
    """``control/status/``: what each sidecar that has a live lease last said."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._stored: dict[StatusRef, KeyValue] = {}
        self._subscriptions: set[Subscription] = set()
        self.synced = trio.Event()

    def listed(self, listing: Listing) -> None:
        before = self._stored
        self._stored = {ref: kv for kv in listing.kvs if (ref := self._ref(kv.key))}
        self._tell(before.keys() | self._stored.keys())
        self.synced.set()

    def changed(self, batch: WatchBatch) -> None:
        touched: set[StatusRef] = set()
        for event in batch.events:
            ref = self._ref(event.kv.key)
            if ref is None:
                continue
            touched.add(ref)
            if event.deleted:
                self._stored.pop(ref, None)
            else:
                self._stored[ref] = event.kv
        self._tell(touched)

    def stored(self, ref: StatusRef) -> KeyValue | None:
        return self._stored.get(ref)

    def status(self, ref: StatusRef) -> SidecarStatus | None:
        """None: no such sidecar, or its value can't be understood (`stored` tells which)."""
        kv = self._stored.get(ref)
        if kv is None:
            return None
        try:
            return codec.decode(kv.value, SidecarStatus, str(ref))
        except Corrupt:
            return None

    def refs(self) -> list[StatusRef]:
        return sorted(self._stored, key=str)

    @contextmanager
    def subscribe(self) -> "Iterator[Subscription]":
        """Told of every sidecar whose status changes, from now on."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def _ref(self, key: bytes) -> StatusRef | None:
        ref = self._keyspace.parse(key)
        return ref if isinstance(ref, StatusRef) else None

    def _tell(self, touched: "set[StatusRef]") -> None:
        for subscription in self._subscriptions:
            subscription.add(touched)


class Subscription:
    """Coalesces: what changed twice before it is taken is told once."""

    def __init__(self) -> None:
        self._touched: set[StatusRef] = set()
        self._something = trio.Event()

    def add(self, touched: "set[StatusRef]") -> None:
        if touched:
            self._touched |= touched
            self._something.set()

    async def take(self) -> "set[StatusRef]":
        """What has changed since the last time; waits until something has."""
        await self._something.wait()
        self._something = trio.Event()
        touched, self._touched = self._touched, set()
        return touched


class ConfigClock:
    """``data/config/``: the newest revision that changed it, as far as this replica has seen. Values are not kept."""

    def __init__(self) -> None:
        self.revision = 0

    def listed(self, listing: Listing) -> None:
        newest = max((kv.mod_revision for kv in listing.kvs), default=0)
        # A deletion leaves nothing to list; but a store that is behind what we saw has been restored: begin anew.
        self.revision = newest if listing.revision < self.revision else max(newest, self.revision)

    def changed(self, batch: WatchBatch) -> None:
        if batch.events:
            self.revision = batch.revision


class MeshView:
    """The Mesh object, the trust bundles and the sealed CA keys, as etcd has them now."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self.meshes = Held(self._changed)
        self.bundles = Held(self._changed)
        self.ca = Held(self._changed)
        self._version = 0
        self._next = trio.Event()

    @property
    def version(self) -> int:
        """Grows with each change."""
        return self._version

    async def wait_change(self, since: int) -> None:
        """Until the version is not `since` (any more)."""
        while self._version == since:
            await self._next.wait()

    async def wait_synced(self) -> None:
        for held in (self.meshes, self.bundles, self.ca):
            await held.synced.wait()

    def mesh(self) -> Mesh | None:
        """Raises Corrupt."""
        key = self._keyspace.object(ObjectRef("Mesh", SYSTEM_NAMESPACE, "mesh"))
        kv = self.meshes.values.get(key)
        return codec.decode(kv.value, Mesh, key.decode()) if kv else None

    def bundle(self, trust_domain: str) -> TrustBundle | None:
        """Raises Corrupt."""
        key = self._keyspace.trust_bundle(trust_domain)
        kv = self.bundles.values.get(key)
        return codec.decode(kv.value, TrustBundle, key.decode()) if kv else None

    def sealed_keys(self) -> list[SealedKey]:
        """Raises Corrupt."""
        return [codec.decode(kv.value, SealedKey, key.decode()) for key, kv in sorted(self.ca.values.items())]

    def _changed(self) -> None:
        self._version += 1
        self._next.set()
        self._next = trio.Event()


class Held:
    """One prefix with all its values; `notify` is called after each change."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self.values: dict[bytes, KeyValue] = {}
        self.synced = trio.Event()
        self._notify = notify

    def listed(self, listing: Listing) -> None:
        values = {kv.key: kv for kv in listing.kvs}
        if values == self.values and self.synced.is_set():
            return  # listed again after a cut, and nothing had changed
        self.values = values
        self.synced.set()
        self._notify()

    def changed(self, batch: WatchBatch) -> None:
        for event in batch.events:
            if event.deleted:
                self.values.pop(event.kv.key, None)
            else:
                self.values[event.kv.key] = event.kv
        if batch.events:
            self._notify()
