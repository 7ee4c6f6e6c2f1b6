"""[edge] The CA's life in a replica, wired: its steps, who drives them, what this replica says of itself.

follow: control/rotation ─▶ Rotator ─▶ CaSteps ─▶ etcd        AuthorityService ─▶ CaSteps
issuing changed ─▶ Presence ─▶ etcd
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import SystemRandom

import trio

from controlplane.api.authority_service import AuthorityService
from controlplane.api.issuing import Issuing
from controlplane.ca.seal import KeyRing
from controlplane.presence import Presence, replica_id, replica_name
from controlplane.rotation.driver import Rotator
from controlplane.rotation.expiry import Watch
from controlplane.rotation.steps import CaSteps
from controlplane.rotation.upstream import UpstreamSigner
from controlplane.rotation.write import CaWriter
from controlplane.store.boards import MeshView, StatusBoard
from controlplane.store.etcd import Store
from controlplane.store.follow import follow
from controlplane.store.requests import RequestWriter
from schemas.records import HostAuthority


class CaLife:
    """`drive` from the start: a CA that has expired has to be replaced before anything can be served. `show` when there
    is a CA in force, `goodbye` when nothing is served any more.

    address: where this replica is reached; door: its Unix socket. files: certificates on this host that nothing of
    the mesh renews. vouching: host authorities.
    """

    def __init__(
        self,
        store: Store,
        requests: RequestWriter,
        kek: KeyRing,
        issuing: Issuing,
        view: MeshView,
        board: StatusBoard,
        *,
        address: str,
        door: str,
        files: Sequence[Path],
        vouching: Callable[[], Iterable[HostAuthority]],
        serves_bundle: bool,
        upstream: UpstreamSigner | None = None,
    ) -> None:
        self._store = store
        name = replica_name(address)
        steps = CaSteps(store, CaWriter(store, requests), kek, issuing.now, issuing.random, name, upstream is not None)
        self.watch = Watch(tuple(files), issuing.now, vouching)
        kek_ids = tuple(key.id for key in kek.keys)
        self._presence = Presence(
            store, issuing, replica_id(name, door), name, kek_ids, self.watch.files, serves_bundle=serves_bundle
        )
        self._rotator = Rotator(steps, view, board, self.watch, SystemRandom().random, upstream)
        self.service = AuthorityService(steps)

    def drive(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(follow, self._store, self._store.keyspace.rotation(), self._rotator.rotation)
        nursery.start_soon(self._rotator.run)

    def show(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._presence.run)

    async def goodbye(self) -> None:
        await self._presence.goodbye()
