"""[edge] Ports don't stop taking plaintext while somebody sends it, unless the caller insists."""

import logging
from collections.abc import Collection, Sequence

from controlplane.api.call import Call
from controlplane.domain.change import Change
from controlplane.domain.known import Known
from controlplane.domain.strictness import concerns_modes, holdouts, turning
from controlplane.log import event
from controlplane.store.etcd import Store
from schemas import codec
from schemas.errors import Conflict, Corrupt
from schemas.keys import StatusRef
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import Service
from schemas.records import SidecarStatus

logger = logging.getLogger(__name__)

_MAX_SHOWN = 20
_REMEDY = (
    "nothing was written: give the senders sidecars, look at `meshadm mtls readiness`, and try again; "
    "or cut them off with --force"
)


class StrictnessGate:
    """Of one call. now: seconds since 1970. force: holdouts are recorded, not heeded."""

    def __init__(self, store: Store, call: Call, now: int, *, force: bool) -> None:
        self._store = store
        self._call = call
        self._now = now
        self._force = force

    async def __call__(self, changes: Sequence[Change], known: Known) -> None:
        """Raises Conflict."""
        if not concerns_modes(changes):
            return
        statuses = await self._statuses()
        services = {ServiceRef(one.namespace, one.service) for one in statuses}
        declared = await self._ports(turning(changes, known, services))
        found = holdouts(changes, known, statuses, declared, self._now)
        if not found:
            return
        shown = [str(one) for one in found[:_MAX_SHOWN]]
        if len(found) > _MAX_SHOWN:
            shown.append(f"and {len(found) - _MAX_SHOWN} more")
        if not self._force:
            raise Conflict("\n".join(("this would cut off who may still send plaintext:", *shown, _REMEDY)))
        self._call.tell(past="; ".join(shown))
        event(logger, logging.WARNING, "plaintext refused by force", who=self._call.caller, past="; ".join(shown))

    async def _statuses(self) -> list[SidecarStatus]:
        """Straight from etcd. One that nobody can read has said nothing."""
        found = []
        listing = await self._store.list(self._store.keyspace.statuses())
        for kv in listing.kvs:
            ref = self._store.keyspace.parse(kv.key)
            if not isinstance(ref, StatusRef):
                continue
            try:
                found.append(codec.decode(kv.value, SidecarStatus, str(ref)))
            except Corrupt:
                found.append(_silent(ref))
        return found

    async def _ports(self, services: Collection[ServiceRef]) -> dict[ServiceRef, frozenset[int] | None]:
        """Of those that exist; None where they can't be understood."""
        keys = {
            self._store.keyspace.object(ObjectRef(Service.__name__, one.namespace, one.name)): one for one in services
        }
        declared: dict[ServiceRef, frozenset[int] | None] = {}
        for key, kv in (await self._store.get_many(keys)).items():
            try:
                value = codec.decode(kv.value, Service, str(keys[key]))
            except Corrupt:
                declared[keys[key]] = None
            else:
                declared[keys[key]] = frozenset(one.port for one in value.spec.ports)
        return declared


def _silent(ref: StatusRef) -> SidecarStatus:
    service, _, instance = ref.sidecar.partition(".")
    return SidecarStatus(
        service=service,
        namespace=ref.namespace,
        instance=instance,
        applied_revision=0,
        acked_revision=0,
        svid_expires=0,
    )
