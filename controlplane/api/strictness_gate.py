"""[edge] Ports don't stop taking plaintext while somebody sends it, unless the caller insists."""

import logging
from collections.abc import Collection, Sequence

from controlplane.api.call import Call
from controlplane.domain.change import Change
from controlplane.domain.known import Known
from controlplane.domain.reads import concerns_peers
from controlplane.domain.strictness import concerned_namespaces, holdouts, turning
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

    def __init__(self, store: Store, now: int, *, force: bool) -> None:
        self._store = store
        self._now = now
        self._force = force
        self.past = ""
        """Whom the changes that were let through last would cut off; empty: nobody."""

    async def __call__(self, changes: Sequence[Change], known: Known) -> None:
        """Raises Conflict."""
        self.past = ""
        if not concerns_peers(changes):
            return
        statuses = await self._statuses(concerned_namespaces(changes))
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
        self.past = "; ".join(shown)

    def tell(self, call: Call) -> None:
        """That somebody was cut off: once it is written, or may have been."""
        if self.past:
            call.tell(past=self.past)
            event(logger, logging.WARNING, "plaintext refused by force", who=call.caller, past=self.past)

    async def _statuses(self, namespaces: Collection[str] | None) -> list[SidecarStatus]:
        """Straight from etcd. One that nobody can read has said nothing. namespaces: None: all."""
        found = []
        keyspace = self._store.keyspace
        prefixes = [keyspace.statuses()] if namespaces is None else [keyspace.statuses_of(one) for one in namespaces]
        for kv in [kv for prefix in prefixes for kv in (await self._store.list(prefix)).kvs]:
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
