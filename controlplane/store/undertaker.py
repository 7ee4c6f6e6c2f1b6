"""[edge] Takes out of discovery whose pulse has ended; but not those that fell silent together with many others.

    pulse ended ─▶ still in discovery? ─no─▶ revoke the hold
                        │ yes
                        ▼
                   silent with many others? ─no─▶ revoke the hold
                        │ yes
                        └─▶ look again later, for KEEP_SECONDS at most

Before a hold is revoked it is written down that its sidecar fell silent: its Envoy may serve on with what it has, and a
rotation of the root waits for that (`controlplane.ca.gates`).

What callers do about those that are kept and do not answer: they leave them out, each by itself.
"""

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from controlplane.log import event
from controlplane.store.boards import StatusBoard
from controlplane.store.etcd import Store
from controlplane.store.leases import AFTER_END_S, pulse_of
from controlplane.store.losses import MESH_LIMIT, SERVICE_LIMIT, Pulse, in_bulk
from controlplane.store.ops import LeaseGuard, Put
from schemas import codec
from schemas.errors import Corrupt, MeshError, NotFound
from schemas.keys import EndpointRef, StatusRef
from schemas.names import ServiceRef
from schemas.records import Endpoint, SilentSidecar

# Seconds: 10 minutes. Long enough for a network to be mended; a dead host is in nobody's way so long, because callers
# leave out whom they can't reach. Each replica counts from when it noticed.
KEEP_SECONDS = 600.0
# Seconds between two looks at one that is kept.
LOOK_AGAIN_S = 5.0
# Seconds for which a judgement stands: a thousand that end together ask etcd once.
JUDGED_S = 2.0
# So many pulses are looked at to judge the mesh, and so many to judge a service: enough to tell a fifth from a few.
SAMPLE = 64
RETRY_S = 1.0

# What it says is of the audit: a write that no call asked for.
logger = logging.getLogger("mesh.audit")

_RANDOM = random.SystemRandom()

Sample = Callable[[Sequence[int], int], Sequence[int]]


@dataclass(slots=True)
class _Judgement:
    bulk: bool = False
    until: float = float("-inf")
    lock: trio.Lock = field(default_factory=trio.Lock)


class Undertaker:
    """Every replica runs one: doing it twice does nothing.

    leaves_end: when what has been issued so far has ended, in seconds since 1970; raises MeshError while not known.
    """

    def __init__(
        self,
        store: Store,
        board: StatusBoard,
        leaves_end: Callable[[], int],
        *,
        keep_seconds: float = KEEP_SECONDS,
        sample: Sample = _RANDOM.sample,
    ) -> None:
        self._store = store
        self._board = board
        self._leaves_end = leaves_end
        self._keep_seconds = keep_seconds
        self._sample = sample
        self._watched: set[int] = set()
        self._holds: dict[ServiceRef, set[int]] = {}
        self._of_mesh = _Judgement()
        self._of_service: dict[ServiceRef, _Judgement] = {}

    async def run(self) -> None:
        """For ever; one task a live sidecar, asleep until its pulse could have ended."""
        await self._board.synced.wait()
        async with trio.open_nursery() as nursery:
            with self._board.subscribe() as subscription:
                touched = set(self._board.refs())
                while True:
                    for ref in touched:
                        kv = self._board.stored(ref)
                        if kv is not None and kv.lease and kv.lease not in self._watched:
                            self._watched.add(kv.lease)
                            self._holds.setdefault(_endpoint_of(ref).service, set()).add(kv.lease)
                            nursery.start_soon(self._watch, ref, kv.lease)
                    touched = await subscription.take()

    async def _watch(self, ref: StatusRef, hold: int) -> None:
        noticed: float | None = None
        try:
            while self._is_held(ref, hold):
                try:
                    pulse = await self._store.lease_life(pulse_of(hold))
                    if pulse.left >= 0:
                        await trio.sleep(pulse.left + AFTER_END_S)
                        continue
                    first = noticed is None
                    noticed = trio.current_time() if noticed is None else noticed
                    if trio.current_time() - noticed < self._keep_seconds and await self._is_kept(ref, hold):
                        if first:
                            event(
                                logger, logging.WARNING, "sidecar silent together with many others: kept in discovery",
                                caller="automatic", peer="this replica", sidecar=ref, lease=f"{hold:x}",
                            )  # fmt: skip
                        await trio.sleep(min(LOOK_AGAIN_S, self._keep_seconds))
                        continue
                    await self._remember(ref, hold)
                    revision = await self._store.revoke_lease(hold)
                    event(
                        logger, logging.INFO, "sidecar gone without a word",
                        caller="automatic", peer="this replica", sidecar=ref, lease=f"{hold:x}", revision=revision,
                    )  # fmt: skip
                    return
                except NotFound:
                    return
                except MeshError:  # etcd is away: nobody is judged by what it does not say
                    await trio.sleep(RETRY_S)
            if self._board.stored(ref) is not None:  # all that it held lies under another hold by now
                with suppress(MeshError):
                    await self._store.revoke_lease(hold)
        finally:
            self._forget(ref, hold)

    async def _remember(self, ref: StatusRef, hold: int) -> None:
        """Written only while its status lies under that hold: another replica may have been faster, or it is back."""
        status, keyspace = self._board.status(ref), self._store.keyspace
        record = SilentSidecar(
            until=self._leaves_end(),
            trust_sequence=status.trust_sequence if status else 0,
            address=await self._address(ref),
        )
        put = Put(keyspace.silent_sidecar(ref), codec.encode(record))
        await self._store.transact((LeaseGuard(keyspace.status(ref), hold),), (put,))

    async def _address(self, ref: StatusRef) -> str:
        """Empty where it is not in discovery, or nobody can read where."""
        kv = await self._store.get(self._store.keyspace.endpoint(_endpoint_of(ref)))
        with suppress(Corrupt):
            return codec.decode(kv.value, Endpoint, str(ref)).address if kv is not None else ""
        return ""

    def _forget(self, ref: StatusRef, hold: int) -> None:
        service = _endpoint_of(ref).service
        self._watched.discard(hold)
        holds = self._holds.get(service, set())
        holds.discard(hold)
        if not holds:
            self._holds.pop(service, None)
            self._of_service.pop(service, None)

    def _is_held(self, ref: StatusRef, hold: int) -> bool:
        kv = self._board.stored(ref)
        return kv is not None and kv.lease == hold

    # -- in bulk

    async def _is_kept(self, ref: StatusRef, hold: int) -> bool:
        """Whether it is in discovery, and not alone in having fallen silent."""
        endpoint = _endpoint_of(ref)
        found = await self._store.get(self._store.keyspace.endpoint(endpoint))
        if found is None or found.lease != hold:
            return False  # it left before it ended, or is back under another hold
        if await self._judged(self._of_mesh, list(self._watched), MESH_LIMIT):
            return True
        of_service = self._of_service.setdefault(endpoint.service, _Judgement())
        return await self._judged(of_service, list(self._holds.get(endpoint.service, ())), SERVICE_LIMIT)

    async def _judged(self, judgement: _Judgement, holds: Sequence[int], limit: float) -> bool:
        async with judgement.lock:
            if trio.current_time() >= judgement.until:
                pulses = await self._look_at(self._sample(holds, min(SAMPLE, len(holds))))
                judgement.bulk = in_bulk(pulses, limit)
                judgement.until = trio.current_time() + JUDGED_S
            return judgement.bulk

    async def _look_at(self, holds: Sequence[int]) -> list[Pulse]:
        """Of those in the sample; raises MeshError as soon as one of the looks does."""
        return [await self._store.lease_life(pulse_of(hold)) for hold in holds]


def _endpoint_of(ref: StatusRef) -> EndpointRef:
    """Status keys are ``<service>.<instance>``, and neither name has a dot."""
    service, _, instance = ref.sidecar.partition(".")
    return EndpointRef(ServiceRef(ref.namespace, service), instance)
