"""[edge] mesh.v1.Sidecars: register, deregister, report, list, wait."""

import logging
from collections.abc import Awaitable, Callable

import trio

from controlplane.api import convert
from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.domain import registration
from controlplane.domain.progress import Progress, Tracker
from controlplane.domain.registration import Instance, Present, service_of
from controlplane.log import event
from controlplane.revocations import Revocations
from controlplane.store.boards import ConfigClock, StatusBoard, Subscription
from controlplane.store.etcd import PAUSE_SECONDS, LeaseGone, Store
from controlplane.store.lease_alarm import LeaseAlarm
from controlplane.store.leases import grant_pair, pulse_of
from controlplane.store.ops import Delete, LeaseGuard
from controlplane.store.status_writer import StatusWriter
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict, InvalidInput, Problem, Unavailable
from schemas.keys import StatusRef
from schemas.records import Endpoint, SidecarStatus
from trio_etcd import KeyValue
from trio_grpc.background import background_nursery

# Progress is for people and scripts: more often than this, a message would say nothing more.
PROGRESS_SECONDS = 0.02

logger = logging.getLogger(__name__)


class SidecarService:
    def __init__(
        self,
        store: Store,
        board: StatusBoard,
        clock: ConfigClock,
        statuses: StatusWriter,
        revocations: Revocations,
        leases: LeaseAlarm,
    ) -> None:
        self._store = store
        self._leases = leases
        self._revocations = revocations
        self._board = board
        self._clock = clock
        self._statuses = statuses

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Sidecars/Register": Rpc(pb.RegisterRequest, unary=self.register),
            "/mesh.v1.Sidecars/Deregister": Rpc(pb.DeregisterRequest, unary=self.deregister),
            "/mesh.v1.Sidecars/Report": Rpc(pb.ReportRequest, unary=self.report),
            "/mesh.v1.Sidecars/List": Rpc(pb.ListSidecarsRequest, unary=self.list),
            "/mesh.v1.Sidecars/Wait": Rpc(pb.WaitRequest, stream=self.wait),
        }

    async def register(self, message: pb.RegisterRequest, call: Call) -> pb.RegisterReply:
        """Safe to repeat: who asks again, after a lost answer or a restart, takes over what it had."""
        instance = Instance.of(call.caller.service, message.instance)
        status = convert.record_from(message.status, SidecarStatus, "status")
        registration.check_status(instance, status)
        endpoint = convert.record_from(message.endpoint, Endpoint, "endpoint") if message.endpoint else None
        if endpoint is not None:
            registration.check_endpoint(endpoint)
        ttl = registration.check_ttl(message.ttl_seconds)
        keyspace = self._store.keyspace
        keys = (instance.endpoint_key(keyspace), keyspace.status(instance.status_ref))
        deadline = trio.current_time() + call.seconds
        lease, granted = 0, ttl
        while True:
            found = await self._store.get_many(keys)
            held_endpoint, held_status = (_present(found.get(key)) for key in keys)
            if not lease and held_status and held_status.lease == message.lease_id:
                granted = await self._store.lease_ttl(pulse_of(message.lease_id)) if message.lease_id else 0
                lease = message.lease_id if granted else 0
            registration.check_takeover(instance, held_endpoint, endpoint, lease)
            if not lease:
                lease, granted = await grant_pair(self._store, ttl), ttl
            guards, ops = registration.operations(
                instance, keyspace, endpoint, status, lease, held_endpoint, held_status
            )
            try:
                revision = await self._store.transact(guards, ops)
            except LeaseGone:
                lease = 0
                continue
            except Unavailable as error:
                if not error.outcome_unknown or trio.current_time() + PAUSE_SECONDS >= deadline:
                    raise
                await trio.sleep(PAUSE_SECONDS)
                continue
            if revision is not None:
                break
            if trio.current_time() >= deadline:
                raise Conflict(f"instance {instance} kept changing; ask again")
        call.tell(
            instance=instance, address=endpoint.address if endpoint else None, lease=f"{lease:x}", revision=revision
        )
        return pb.RegisterReply(
            lease_id=lease, liveness_lease_id=pulse_of(lease), ttl_seconds=granted, revision=revision
        )

    async def deregister(self, message: pb.DeregisterRequest, call: Call) -> pb.DeregisterReply:
        """`revision` 0: it was not in discovery."""
        instance = Instance.of(call.caller.service, message.instance)
        key = instance.endpoint_key(self._store.keyspace)
        call.tell(instance=instance)
        revision = await self._store.transact((LeaseGuard(key, message.lease_id),), (Delete(key),))
        if revision is None:
            if await self._store.get(key) is not None:
                raise Conflict(f"instance {instance} is registered under another lease")
            return pb.DeregisterReply(revision=0)
        call.tell(revision=revision)
        return pb.DeregisterReply(revision=revision)

    async def report(self, message: pb.ReportRequest, call: Call) -> pb.ReportReply:
        """Written only where it says something new."""
        instance = Instance.of(call.caller.service, message.instance)
        status = convert.record_from(message.status, SidecarStatus, "status")
        registration.check_status(instance, status)
        call.tell(instance=instance, acked=status.acked_revision)
        if not message.lease_id:
            raise InvalidInput(Problem("report", "names no lease", "lease_id", "register first"))
        value = codec.encode(status)
        held = self._board.stored(instance.status_ref)
        if held is not None and held.lease == message.lease_id and held.value == value:
            return pb.ReportReply()
        await self._statuses.write(self._store.keyspace.status(instance.status_ref), value, message.lease_id)
        for nack in status.nacks:
            event(
                logger,
                logging.WARNING,
                "refused by Envoy",
                instance=instance,
                resource=nack.resource,
                revision=nack.revision,
                why=nack.message,
            )
        return pb.ReportReply()

    async def list(self, message: pb.ListSidecarsRequest, call: Call) -> pb.ListSidecarsReply:
        listing = await self._store.list(self._store.keyspace.statuses())
        return pb.ListSidecarsReply(
            statuses=[kv.value for kv in listing.kvs],
            config_revision=self._clock.revision,
            alarms=[text for text in (self._leases.text,) if text is not None],
        )

    async def wait(
        self, message: pb.WaitRequest, send: Callable[[pb.WaitProgress], Awaitable[None]], call: Call
    ) -> None:
        """All sidecars with a live status count, also those that come while we wait; but not who is revoked."""
        if message.revision < 1:
            raise InvalidInput(Problem("wait", f"revision {message.revision}", "revision", "give one that was applied"))
        tracker = Tracker(message.revision)
        await self._board.synced.wait()
        with self._board.subscribe() as subscription:
            async with background_nursery() as nursery:
                nursery.start_soon(self._look_again_at_revocations, subscription)
                await self._follow(tracker, subscription, send)

    async def _follow(
        self, tracker: Tracker, subscription: Subscription, send: Callable[[pb.WaitProgress], Awaitable[None]]
    ) -> None:
        for ref in {*self._board.refs(), *await self._registered()}:
            self._take(tracker, ref)
        told: Progress | None = None
        while True:
            progress = tracker.progress()
            if progress != told:
                await send(_progress_message(tracker.revision, progress))
                told = progress
            if progress.done:
                return
            self._update(tracker, await subscription.take())
            await trio.sleep(PROGRESS_SECONDS)

    async def _registered(self) -> set[StatusRef]:
        """Straight from etcd: the board may be a moment behind, and must not miss who registered just now."""
        parse = self._store.keyspace.parse
        refs = {parse(key) for key in await self._store.list_keys(self._store.keyspace.statuses())}
        return {ref for ref in refs if isinstance(ref, StatusRef)}

    async def _look_again_at_revocations(self, subscription: Subscription) -> None:
        while True:
            await self._revocations.changed_event.wait()
            subscription.add(set(self._board.refs()))

    def _update(self, tracker: Tracker, touched: set[StatusRef]) -> None:
        for ref in touched:
            if self._board.stored(ref) is not None:
                self._take(tracker, ref)
            else:
                tracker.remove(ref)

    def _take(self, tracker: Tracker, ref: StatusRef) -> None:
        tracker.update(ref, self._board.status(ref), revoked=self._revocations.refuses(service_of(ref)))


def _present(kv: KeyValue | None) -> Present | None:
    return Present(kv.value, kv.mod_revision, kv.lease) if kv else None


def _progress_message(revision: int, progress: Progress) -> pb.WaitProgress:
    return pb.WaitProgress(
        revision=revision,
        total=progress.total,
        acked=progress.acked,
        pending=progress.pending,
        refusals=[
            pb.Refusal(sidecar=one.sidecar, resource=one.resource, message=one.message) for one in progress.refusals
        ],
        done=progress.done,
        revoked=progress.revoked,
        open_bound_ms=progress.open_bound_ms,
        passed_bound_ms=progress.passed_bound_ms,
        uncut=[pb.Uncut(sidecar=one.sidecar, why=one.why) for one in progress.uncut],
        bound_unknown=progress.bound_unknown,
    )
