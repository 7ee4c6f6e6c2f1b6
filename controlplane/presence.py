"""[edge] What this replica says of itself in etcd: by which bundle it trusts, with which key it issues.

A key is not removed while a replica may still issue with it. One that can't tell etcd of itself for long issues nothing
(`controlplane.ca.facts.FENCE_SECONDS`): it may have missed that its key was retired.
"""

import hashlib
import logging
import socket
from pathlib import Path

import msgspec
import trio

from controlplane.api.issuing import InForce, Issuing
from controlplane.log import event
from controlplane.rotation.expiry import lives_of_files
from controlplane.store.etcd import Store
from controlplane.store.ops import Delete, Put
from schemas import codec
from schemas.errors import Corrupt, MeshError
from schemas.records import CertificateFile, ReplicaStatus

# Three of them fit into `REPLICA_GONE_SECONDS`.
REFRESH_SECONDS = 60.0
RETRY_SECONDS = 1.0
GOODBYE_SECONDS = 1.0

logger = logging.getLogger(__name__)


def replica_name(address: str) -> str:
    """For people. address: where it is reached."""
    return f"{socket.gethostname()} {address}"


def replica_id(name: str, socket: str) -> str:
    """The same after a restart, another for every replica: host and addresses tell it."""
    return hashlib.sha256(f"{name}\0{socket}".encode()).hexdigest()[:16]


class Presence:
    """`run` it when there is a CA in force; `goodbye` when nothing is served any more."""

    def __init__(
        self,
        store: Store,
        issuing: Issuing,
        own_id: str,
        name: str,
        kek_ids: tuple[str, ...],
        files: tuple[Path, ...],
        *,
        serves_bundle: bool = False,
    ) -> None:
        self._store = store
        self._issuing = issuing
        self._key = store.keyspace.replica(own_id)
        self._id = own_id
        self._name = name
        self._kek_ids = kek_ids
        self._files = files
        self._serves_bundle = serves_bundle
        self._said: ReplicaStatus | None = None

    async def run(self) -> None:
        """For ever."""
        before = await self._left_behind()
        while True:
            changed = self._issuing.changed
            status = self._status(self._issuing.current_unfenced(), self._said or before)
            wait = REFRESH_SECONDS
            try:
                await self._store.transact((), (Put(self._key, codec.encode(status)),))
            except MeshError as error:
                event(logger, logging.WARNING, "can't tell etcd of this replica", why=error)
                wait = RETRY_SECONDS
            else:
                self._said = status
                self._issuing.confirmed = status.seen
            with trio.move_on_after(wait):
                await changed.wait()

    async def goodbye(self) -> None:
        """Nothing is issued here any more: no key has to wait for us."""
        with trio.move_on_after(GOODBYE_SECONDS, shield=True):
            try:
                await self._store.transact((), (Delete(self._key),))
            except MeshError as error:
                event(logger, logging.INFO, "could not take leave of etcd", why=error)

    async def _left_behind(self) -> ReplicaStatus | None:
        """The last word of the process that was this replica before us."""
        while True:
            try:
                held = await self._store.get(self._key)
                return codec.decode(held.value, ReplicaStatus, self._key.decode()) if held else None
            except Corrupt:
                return None
            except MeshError:
                await trio.sleep(RETRY_SECONDS)

    def _status(self, in_force: InForce, before: ReplicaStatus | None) -> ReplicaStatus:
        now = int(self._issuing.now())
        fresh = ReplicaStatus(
            id=self._id,
            name=self._name,
            seen=now,
            trust_sequence=in_force.bundle.sequence,
            issuing_key_id=in_force.authority.issuing_key_id,
            issuing_since=0 if before is None else now,
            svid_expires=self._issuing.serving_until,
            kek_ids=self._kek_ids,
            serves_bundle=self._serves_bundle,
            files=tuple(
                CertificateFile(one.what, one.not_before, one.not_after) for one in lives_of_files(self._files)
            ),
        )
        if before is not None and before.issuing_key_id == fresh.issuing_key_id:
            return msgspec.structs.replace(fresh, issuing_since=before.issuing_since)
        return fresh
