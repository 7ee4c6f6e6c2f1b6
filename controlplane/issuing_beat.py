"""[edge] Keeps on record in etcd when issuing was possible, so that an SVID that ended while it was not is excused.

    this replica can issue ─▶ read times, pulse, epoch ─▶ `next_beat` ─▶ one transaction, guarded by what was read

Any replica does it; whichever comes first spares the others the write.
"""

import logging
from collections.abc import Callable

import trio

from controlplane.api.issuing import Issuing
from controlplane.ca import outages
from controlplane.ca.outages import Beat, Found, Own
from controlplane.log import event
from controlplane.store.etcd import Store
from controlplane.store.ops import KeyGuard, Put
from schemas import codec
from schemas.errors import Corrupt, MeshError, Problem
from schemas.records import Epoch, IssuingTimes

RETRY_SECONDS = 1.0
# Until the first look has succeeded; then calls are taken all the same.
START_SECONDS = 3.0

logger = logging.getLogger(__name__)
# What is recorded is a write that no call asked for, and SVIDs are renewed because of it.
audit = logging.getLogger("mesh.audit")


class IssuingBeat:
    """Run it when there is a CA in force. monotonic: seconds of a clock that nobody sets."""

    def __init__(self, store: Store, issuing: Issuing, monotonic: Callable[[], float] = trio.current_time) -> None:
        self._store = store
        self._issuing = issuing
        self._monotonic = monotonic
        self._until: float | None = None
        self._looked = (0.0, 0.0)  # by the clock on the wall, and by that which nobody sets
        self._beat = Beat()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever. Started after the first look, or when that takes long."""
        told = ""
        with trio.move_on_after(START_SECONDS):
            told = await self._try(told)
        task_status.started()
        while True:
            every = outages.beat_seconds(self._ttl)
            await trio.sleep(RETRY_SECONDS if told or self._beat.pending else every)
            told = await self._try(told)

    async def _try(self, told: str) -> str:
        """What is wrong, said once; empty: nothing."""
        try:
            if self._issuing.possible:
                await self.look()
            return ""
        except MeshError as error:
            if str(error) != told:
                event(logger, logging.WARNING, "can't say in etcd that SVIDs can be issued, trying again", why=error)
            return str(error)
        finally:
            if self._issuing.possible:
                self._until = self._issuing.now()

    async def look(self) -> None:
        """Once. Raises MeshError."""
        keyspace = self._store.keyspace
        keys = times_key, pulse_key, epoch_key = keyspace.issuing_times(), keyspace.issuing_pulse(), keyspace.epoch()
        found = await self._store.get_many(keys)
        epoch = found.get(epoch_key)
        if epoch is None:
            raise Corrupt(Problem(epoch_key.decode(), "missing", remedy="is the mesh initialised (`meshadm init`)?"))
        held = found.get(times_key)
        seen = Found(
            _times(held.value) if held is not None else None,
            pulse_key in found,
            codec.decode(epoch.value, Epoch, epoch_key.decode()).id,
        )
        now, ago = self._issuing.now(), self._monotonic() - self._looked[1]
        own = Own(self._until, self._looked[0], ago, self._beat.pending) if self._until is not None else None
        beat = outages.next_beat(seen, own, now, self._ttl)
        if beat.pending is not None and self._beat.pending is None:
            event(logger, logging.WARNING, "for long nobody could issue; waiting for etcd's clock to agree",
                  since=beat.pending.start)  # fmt: skip
        if beat.times is not None:
            puts = [Put(times_key, codec.encode(beat.times))]
            if beat.pulse:
                lease = await self._store.grant_lease(outages.quiet_seconds(self._ttl))
                puts.append(Put(pulse_key, b"", lease))
            guards = [KeyGuard(key, found[key].mod_revision if key in found else 0) for key in keys]
            revision = await self._store.transact(guards, puts)
            if revision is None:
                return  # another replica was first; the next look sees what it wrote
            if beat.outage is not None:
                event(
                    audit, logging.WARNING, "nothing could be issued for a time: SVIDs that ended then are excused",
                    caller="automatic", peer="this replica", since=beat.outage.start, until=beat.outage.end,
                    excused_until=beat.outage.end + self._ttl, revision=revision,
                )  # fmt: skip
        self._beat, self._looked = beat, (now, self._monotonic())

    @property
    def _ttl(self) -> int:
        in_force = self._issuing.in_force
        return in_force.mesh.spec.svid_ttl_seconds if in_force is not None else 0


def _times(value: bytes) -> IssuingTimes | None:
    """None for what can't be read: nothing from before is excused."""
    try:
        return codec.decode(value, IssuingTimes, "issuing times")
    except Corrupt:
        return None
