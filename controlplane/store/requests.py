"""[edge] A write with its idempotency record: it happens once, and what became of it can be asked.

The record is written in the same transaction, guarded by its own absence. So a write whose outcome is unknown may
simply be sent again: either the first one happened, and the record says so, or this one does.
"""

from dataclasses import dataclass

import trio

from controlplane.store.etcd import ATTEMPT_SECONDS, PAUSE_SECONDS, LeaseGone, Store
from controlplane.store.ops import Guard, KeyGuard, Op, Put
from schemas import codec
from schemas.errors import InvalidInput, Problem, Unavailable
from schemas.records import RequestRecord

# How long a client may ask again: longer than any client retries, short enough that records don't pile up.
RECORD_SECONDS = 600
# Records of one minute share a lease, so that a write costs one round trip and not two.
SHARED_LEASE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Request:
    """id: a name that the client chose. fingerprint: SHA-256 of what it asked for."""

    id: str
    fingerprint: bytes


class RequestWriter:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._lease = 0
        self._lease_made = 0.0

    async def recorded(self, request: Request) -> int | None:
        """The revision of a write with that id that has happened; None: there is none.

        Raises InvalidInput where the id was used for something else.
        """
        key = self._store.keyspace.request(request.id)
        found = await self._store.get(key)
        if found is None:
            return None
        record = codec.decode(found.value, RequestRecord, key.decode())
        if record.fingerprint != request.fingerprint:
            message = "this id was used for another request"
            raise InvalidInput(Problem(f"request id {request.id}", message, remedy="choose a new id for each request"))
        return found.mod_revision

    async def write(
        self, request: Request, guards: tuple[Guard, ...], ops: tuple[Op, ...], *, seconds: float
    ) -> int | None:
        """The revision of the write, whether it is this attempt's or an earlier one's; None: a guard did not hold.

        Raises Unavailable within about `seconds`; `outcome_unknown` where that could not be settled in time.
        """
        deadline = trio.current_time() + seconds
        record = RequestRecord(fingerprint=request.fingerprint)
        key = self._store.keyspace.request(request.id)
        doubtful = False
        while True:
            try:
                lease = await self._record_lease()
                left = max(0.05, deadline - trio.current_time())
                revision = await self._store.transact(
                    (KeyGuard(key, 0), *guards),
                    (*ops, Put(key, codec.encode(record), lease)),
                    seconds=min(left, ATTEMPT_SECONDS),
                )
                return revision if revision is not None else await self.recorded(request)
            except LeaseGone as error:
                self._lease = 0
                if trio.current_time() >= deadline:  # it was not ours that had ended, but one of `ops`
                    raise Unavailable(str(error)) from error
            except Unavailable as error:
                doubtful = doubtful or error.outcome_unknown
                if not doubtful:
                    raise
                if trio.current_time() + PAUSE_SECONDS >= deadline:
                    raise Unavailable(
                        f"{error}; ask again with request id {request.id}", outcome_unknown=True
                    ) from error
                await trio.sleep(PAUSE_SECONDS)

    async def _record_lease(self) -> int:
        now = trio.current_time()
        if not self._lease or now - self._lease_made > SHARED_LEASE_SECONDS:
            self._lease = await self._store.grant_lease(RECORD_SECONDS + SHARED_LEASE_SECONDS)
            self._lease_made = now
        return self._lease
