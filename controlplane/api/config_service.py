"""[edge] mesh.v1.Config: apply, get, list, watch."""

from collections.abc import Awaitable, Callable, Iterable

import trio

from controlplane.api import change_set, convert
from controlplane.api.authorize import authorize_namespaces
from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.api.request_id import request_of
from controlplane.api.strictness_gate import StrictnessGate
from controlplane.domain.plan import Action
from controlplane.store.etcd import MustListAgain, Store, gone
from controlplane.store.requests import RequestWriter
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict, NotFound, Unavailable
from schemas.keys import StatusRef
from schemas.names import ObjectRef, check_name


class ConfigService:
    """now: seconds since 1970."""

    def __init__(self, store: Store, writer: RequestWriter, now: Callable[[], float]) -> None:
        self._store = store
        self._writer = writer
        self._now = now

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Config/Apply": Rpc(pb.ApplyRequest, unary=self.apply),
            "/mesh.v1.Config/Get": Rpc(pb.GetRequest, unary=self.get),
            "/mesh.v1.Config/List": Rpc(pb.ListRequest, unary=self.list),
            "/mesh.v1.Config/Watch": Rpc(pb.WatchRequest, stream=self.watch),
        }

    async def apply(self, message: pb.ApplyRequest, call: Call) -> pb.ApplyReply:
        request = request_of(message, call.caller)
        call.tell(request=request.id, dry_run=message.dry_run or None)
        changes = convert.changes_from(message)
        call.tell(objects=_named(str(change.ref) for change in changes))
        authorize_namespaces(call.caller, (change.ref.namespace for change in changes), "objects")
        now = int(self._now())
        gate = StrictnessGate(self._store, now, force=message.force)
        try:
            applied = await change_set.apply(
                self._store,
                self._writer,
                request,
                changes,
                dry_run=message.dry_run,
                seconds=call.seconds,
                now=now,
                guards=call.caller.guards,
                gate=gate,
            )
        except Unavailable as error:
            if error.outcome_unknown:
                gate.tell(call)
            raise
        except trio.Cancelled:  # the caller went: etcd may have the write, and asked again the gate is not
            gate.tell(call)
            raise
        if applied.revision:
            gate.tell(call)
        call.tell(
            revision=applied.revision,
            replayed=applied.replayed or None,
            objects=_named(
                f"{one.action.value} {one.ref}" for one in applied.outcomes if one.action is not Action.UNCHANGED
            ),
        )
        return pb.ApplyReply(revision=applied.revision, outcomes=convert.outcomes_of(applied.outcomes))

    async def get(self, message: pb.GetRequest, call: Call) -> pb.StoredObject:
        ref = convert.ref_from(message.key, "key")
        key = self._store.keyspace.object(ref)
        if message.revision:
            try:
                kv = (await self._store.get_at([key], convert.revision_from(message.revision))).get(key)
            except MustListAgain as error:
                raise gone(message.revision, error) from error
        else:
            kv = await self._store.get(key)
        if kv is None:
            when = f" at revision {message.revision}" if message.revision else ""
            raise NotFound(f"{ref}: does not exist{when}")
        return pb.StoredObject(key=convert.key_of(ref), value=kv.value, revision=kv.mod_revision)

    async def list(self, message: pb.ListRequest, call: Call) -> pb.ListReply:
        """A kind, or all of them where none is named; in one namespace, or in all."""
        keyspace = self._store.keyspace
        namespace = check_name(message.namespace, "namespace") if message.namespace else None
        if message.kind:
            prefix = keyspace.config_of_kind(convert.kind_from(message.kind, "kind"), namespace)
        else:
            prefix = keyspace.config()
        listing = await self._store.list_at(prefix, convert.revision_from(message.revision))
        reply = pb.ListReply(revision=listing.revision)
        for kv in listing.kvs:
            ref = keyspace.parse(kv.key)
            if isinstance(ref, ObjectRef) and namespace in (None, ref.namespace):
                reply.objects.add(key=convert.key_of(ref), value=kv.value, revision=kv.mod_revision)
        return reply

    async def watch(
        self, message: pb.WatchRequest, send: Callable[[pb.WatchEvent], Awaitable[None]], call: Call
    ) -> None:
        """Changes of ``data/`` and ``control/status/``, whole revisions in order, until the caller goes."""
        keyspace = self._store.keyspace
        start = message.after_revision + 1 if message.after_revision else 0
        # One watch for the whole mesh: two would have to be put in order again.
        prefix = f"{keyspace.prefix}/".encode()
        data, questions = keyspace.data(), keyspace.questions()
        try:
            async with self._store.watch(prefix, start) as watch:
                async for batch in watch:
                    for one in batch.events:
                        key = one.kv.key
                        if key.startswith(questions):
                            continue  # of seconds, and nothing that anybody has configured
                        if key.startswith(data) or isinstance(keyspace.parse(key), StatusRef):
                            await send(
                                pb.WatchEvent(
                                    revision=batch.revision,
                                    deleted=one.deleted,
                                    key=key.decode("utf-8", "backslashreplace"),
                                    value=one.kv.value,
                                )
                            )
        except MustListAgain as error:
            raise Conflict(
                f"the changes after {message.after_revision} are gone: list, then watch ({error})"
            ) from error


def _named(what: Iterable[str]) -> str | None:
    return ", ".join(what) or None
