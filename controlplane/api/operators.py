"""[edge] What an operator may do at this moment: asked of etcd at each call, so that a change takes effect at once."""

from collections.abc import Callable
from dataclasses import replace

import trio

from controlplane.api.caller import Caller, CallerKind
from controlplane.domain.floors import operator_left
from controlplane.floors import Floors
from controlplane.store.etcd import MustListAgain, Store
from controlplane.store.ops import KeyGuard
from schemas import codec
from schemas.errors import PermissionDenied, Unauthenticated, Unavailable
from schemas.records import Operator
from trio_etcd import KeyValue

# Until the next look at a role when etcd does not tell of changes.
LOOK_AGAIN_SECONDS = 1.0


class Operators:
    """floors: what no restore of etcd brings back; None: whatever etcd has counts."""

    def __init__(self, store: Store, floors: Floors | None = None) -> None:
        self._store = store
        self._floors = floors

    async def find(self, name: str) -> tuple[KeyValue | None, Operator | None]:
        """What etcd has of an operator, and what of that counts. Raises Corrupt, Unavailable."""
        key = self._store.keyspace.operator(name)
        kv = await self._store.get(key)
        return kv, self.left(name, codec.decode(kv.value, Operator, key.decode()) if kv is not None else None)

    def left(self, name: str, stored: Operator | None) -> Operator | None:
        """What counts of a record that etcd has."""
        return stored if self._floors is None else operator_left(stored, self._floors.operator(name))

    def serial(self, name: str) -> int:
        """The highest that is known of that name, in etcd or not."""
        known = self._floors.operator(name) if self._floors is not None else None
        return known.serial if known is not None else 0

    async def known(self, caller: Caller) -> Caller:
        """An operator with its role; any other caller as it is.

        Raises PermissionDenied for who has no role (any more), Unauthenticated for a certificate from before a
        revocation; Corrupt, Unavailable.
        """
        if caller.kind is not CallerKind.OPERATOR:
            return caller
        name = caller.operator_name
        kv, operator = await self.find(name)
        if kv is None or operator is None:
            raise PermissionDenied(f"operator {name} has no role here; an admin gives one: `meshadm operator grant`")
        check_in_force(operator)
        if caller.issued < operator.since:
            raise Unauthenticated(f"the certificate of operator {name} is from before a revocation: `meshadm login`")
        return replace(caller, operator=operator, guards=(KeyGuard(kv.key, kv.mod_revision),))

    async def watch(self, caller: Caller, still_may: Callable[[Caller], None]) -> None:
        """For as long as the caller may do what it does: raises what `known` and `still_may` raise after a change."""
        key = self._store.keyspace.operator(caller.operator_name)
        while True:
            listing = await self._store.list(key)
            still_may(await self.known(caller))
            try:
                async with self._store.watch(key, listing.revision + 1) as changes:
                    async for _ in changes:
                        break
            except (MustListAgain, Unavailable):
                await trio.sleep(LOOK_AGAIN_SECONDS)


def check_in_force(operator: Operator) -> None:
    """Raises PermissionDenied for one who was revoked."""
    if operator.revoked is not None:
        raise PermissionDenied(f"operator {operator.name} was revoked")
