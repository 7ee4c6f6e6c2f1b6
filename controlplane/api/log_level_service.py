"""[edge] mesh.v1.Sidecars/SetLogLevel: what one sidecar logs for a time.

No way leads from here into the sidecar's host: it is a key under ``data/`` that the sidecar watches.
"""

import contextlib
from collections.abc import Callable

from controlplane.api.authorize import authorize_namespaces
from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.api.request_id import request_of
from controlplane.domain.log_levels import KEPT_SECONDS, ordered
from controlplane.store.etcd import Store
from controlplane.store.ops import Delete, KeyGuard, Put
from controlplane.store.requests import RequestWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict, Corrupt, MeshError, NotFound
from schemas.keys import LogLevelRef, StatusRef
from schemas.names import ServiceRef, check_name
from schemas.records import LogLevel
from trio_etcd import KeyValue


class LogLevelService:
    """now: seconds since 1970."""

    def __init__(self, store: Store, writer: RequestWriter, now: Callable[[], float]) -> None:
        self._store = store
        self._writer = writer
        self._now = now

    def rpcs(self) -> dict[str, Rpc]:
        return {"/mesh.v1.Sidecars/SetLogLevel": Rpc(pb.SetLogLevelRequest, unary=self.set)}

    async def set(self, message: pb.SetLogLevelRequest, call: Call) -> pb.SetLogLevelReply:
        """Raises NotFound where no such sidecar lives: it would be an order to nobody."""
        request = request_of(message, call.caller)
        service = ServiceRef(check_name(message.namespace, "namespace"), check_name(message.service, "service"))
        ref = LogLevelRef(service, check_name(message.instance, "instance"))
        status = StatusRef(service.namespace, f"{service.name}.{ref.instance}")
        components = [f"{name}={level}" for name, level in sorted(message.components.items())]
        words = ", ".join([message.level or "as its settings say", *components])
        sidecar = f"{status.namespace}/{status.sidecar}"
        call.tell(request=request.id, sidecar=sidecar, levels=words, seconds=message.seconds)
        authorize_namespaces(call.caller, (service.namespace,), "the log level of a sidecar")
        key, status_key = self._store.keyspace.log_level(ref), self._store.keyspace.status(status)
        order = ordered(ref, message.level, message.components, message.seconds, now=self._now(), by=str(call.caller))
        done = await self._writer.recorded(request)
        found = await self._store.get_many((key, status_key))
        before = found.get(key)
        if done is not None:
            return pb.SetLogLevelReply(revision=done, until=_until(before))
        if status_key not in found:
            raise NotFound(f"no sidecar {sidecar} is alive; `meshadm status` shows who is")
        guards = (KeyGuard(key, before.mod_revision if before else 0), *call.caller.guards)
        lease = await self._store.grant_lease(order.seconds + KEPT_SECONDS) if order is not None else 0
        ops = (Put(key, codec.encode(order), lease) if order is not None else Delete(key),)
        revision = await self._writer.write(request, guards, ops, seconds=call.seconds)
        if revision is None:
            await self._end(lease)
            raise Conflict("somebody else has just changed that sidecar's log level; nothing was written: look again")
        if before is not None and before.mod_revision >= revision:
            # Another attempt wrote it between the two reads above: what stands there is this request's own order.
            await self._end(lease)
            return pb.SetLogLevelReply(revision=revision, until=_until(before))
        await self._end(before.lease if before is not None else 0)
        until = order.levels.until if order is not None else 0
        call.tell(revision=revision, until=until or None)
        return pb.SetLogLevelReply(revision=revision, until=until)

    async def _end(self, lease: int) -> None:
        """Of a lease that nothing is under; without an answer it ends by itself, after up to a day. 0: none."""
        if lease:
            with contextlib.suppress(MeshError):
                await self._store.revoke_lease(lease)


def _until(stored: KeyValue | None) -> int:
    try:
        return codec.decode(stored.value, LogLevel, "log level").levels.until if stored is not None else 0
    except Corrupt:
        return 0
