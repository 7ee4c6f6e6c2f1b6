"""[edge] The keys of token issuers in a replica, wired.

RequestAuthentications ─▶ KeySetFollower ─▶ data/jwks ─▶ sidecars       control/jwks ─▶ `meshadm jwks status`, metrics
"""

import socket
from collections.abc import Sequence
from random import SystemRandom

import trio

from controlplane.api.issuing import Issuing
from controlplane.api.key_set_service import KeySetService
from controlplane.https_get import Network
from controlplane.key_sets.follower import KeySetFollower
from controlplane.store.etcd import Store
from controlplane.store.follow import follow
from schemas.objects import RequestAuthentication


class KeySetsLife:
    """address: where this replica is reached. refused: networks in which no issuer is asked."""

    def __init__(self, store: Store, issuing: Issuing, refused: Sequence[Network], *, address: str) -> None:
        self._store = store
        name = f"{socket.gethostname()} {address}"
        self._follower = KeySetFollower(store, name, issuing.now, SystemRandom().random, refused)
        self.places = self._follower.places
        self.service = KeySetService(self._follower)

    def start(self, nursery: trio.Nursery) -> None:
        keyspace, places = self._store.keyspace, self.places
        for prefix, sink in (
            (keyspace.config_of_kind(RequestAuthentication.__name__), places.naming),
            (keyspace.key_sets(), places.key_sets),
            (keyspace.key_set_statuses(), places.statuses),
        ):
            nursery.start_soon(follow, self._store, prefix, sink)
        nursery.start_soon(self._follower.run)
