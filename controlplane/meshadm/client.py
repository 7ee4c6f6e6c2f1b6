"""[edge] The replicas' API as functions: failover over all endpoints, a bound on each call, our errors.

A write carries a request id. While its outcome is unknown it is sent again with the same id, to any replica, until
one of them answers or the time is up: the replicas make one write of it.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from controlplane.meshadm.connection import Connection
from controlplane.meshadm.statuses import Verdict, mesh_error, reason, verdict
from controlplane.meshadm.values import Listing, Sidecars, Stored
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt, MeshError, Unavailable
from schemas.names import CONTROL_PLANE_SERVER_NAME, ObjectRef, ServiceRef
from schemas.records import Revocation, SidecarStatus
from trio_grpc import Channel, RpcError

ReplyType = TypeVar("ReplyType", bound=Message)

ATTEMPT_SECONDS = 5.0  # for one replica where others are left to ask: three times an election of etcd's
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0  # between rounds over all endpoints

# Of one reply: all objects of a large mesh, or what its sidecars answer. gRPC's own limit is 4 MiB.
MAX_REPLY_BYTES = 64 * 1024 * 1024

_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.enable_http_proxy", 0),  # an operator's http_proxy may lead to a sidecar
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),  # gRPC's own default is two minutes
)
# A replica that vanished is noticed while a stream waits. Shorter than gRPC's own five minutes a server answers with
# GOAWAY unless it was told to allow it, and replicas ping their callers themselves.
_TCP_OPTIONS = (*_OPTIONS, ("grpc.keepalive_time_ms", 310_000), ("grpc.http2.ping_timeout_ms", 5_000))


def new_request_id() -> str:
    """128 random bits: the same id again means the same write again."""
    return secrets.token_hex(16)


@dataclass(slots=True)
class MeshClient:
    """Use it in `with`, inside of a trio run. `call_seconds` bounds each read; `notice` is told one line of a retry."""

    connection: Connection
    call_seconds: float
    notice: Callable[[str], None]
    _channels: dict[str, Channel] = field(default_factory=dict)
    _first: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            channel.close()

    # -- configuration

    async def apply(self, request: pb.ApplyRequest, seconds: float) -> pb.ApplyReply:
        """One change set. Raises Unavailable with `outcome_unknown` where `seconds` were not enough to learn it."""
        return await self._unary("/mesh.v1.Config/Apply", request, pb.ApplyReply, seconds, write=not request.dry_run)

    async def get(self, ref: ObjectRef) -> Stored:
        """Raises NotFound, Corrupt."""
        request = pb.GetRequest(key=pb.ObjectKey(kind=ref.kind, namespace=ref.namespace, name=ref.name))
        reply = await self._unary("/mesh.v1.Config/Get", request, pb.StoredObject, self.call_seconds)
        return _stored(reply)

    async def list_objects(self, kind: str, namespace: str | None) -> Listing:
        """Sorted by namespace and name."""
        request = pb.ListRequest(kind=kind, namespace=namespace or "")
        reply = await self._unary("/mesh.v1.Config/List", request, pb.ListReply, self.call_seconds)
        objects: list[Stored] = []
        unreadable: list[str] = []
        for one in reply.objects:
            try:
                objects.append(_stored(one))
            except Corrupt as error:
                unreadable.append(str(error))
        objects.sort(key=lambda stored: stored.object.ref)
        return Listing(tuple(objects), reply.revision, tuple(unreadable))

    # -- sidecars and tokens

    async def sidecars(self) -> Sidecars:
        reply = await self._unary(
            "/mesh.v1.Sidecars/List", pb.ListSidecarsRequest(), pb.ListSidecarsReply, self.call_seconds
        )
        statuses: list[SidecarStatus] = []
        unreadable: list[str] = []
        for data in reply.statuses:
            try:
                statuses.append(codec.decode(data, SidecarStatus, "status of a sidecar"))
            except Corrupt as error:
                unreadable.append(str(error))
        statuses.sort(key=lambda one: (one.namespace, one.service, one.instance))
        return Sidecars(tuple(statuses), reply.config_revision, tuple(unreadable), tuple(reply.alarms))

    async def revoked(self) -> frozenset[ServiceRef]:
        """Identities that are revoked now."""
        path = "/mesh.v1.Revocations/List"
        reply = await self._unary(path, pb.ListRevocationsRequest(), pb.ListRevocationsReply, self.call_seconds)
        records = [codec.decode(value, Revocation, "a revocation") for value in reply.revocations]
        return frozenset(ServiceRef(one.namespace, one.service) for one in records if one.revoked)

    async def create_token(self, request: pb.CreateTokenRequest) -> pb.CreateTokenReply:
        return await self._unary("/mesh.v1.Tokens/Create", request, pb.CreateTokenReply, self.call_seconds, write=True)

    async def call(self, path: str, request: Message, reply_type: type[ReplyType], *, write: bool = False) -> ReplyType:
        """Any other RPC with one answer. `write`: it has a request id, so that it may be asked again."""
        return await self._unary(path, request, reply_type, self.call_seconds, write=write)

    # -- streams

    async def wait(self, revision: int, progress: Callable[[pb.WaitProgress], None]) -> pb.WaitProgress:
        """Until every sidecar has acked, or one has refused; returns the last word.

        No bound of its own: replicas that can't be reached are asked again until the caller's time is up.
        """
        last = pb.WaitProgress(revision=revision)

        def take(message: pb.WaitProgress) -> bool:
            last.CopyFrom(message)
            progress(message)
            return message.done or bool(message.refusals)

        request = pb.WaitRequest(revision=revision)
        await self._follow("/mesh.v1.Sidecars/Wait", lambda: request, pb.WaitProgress, take, give_up=False)
        return last

    async def follow(
        self, path: str, request: Message, message_type: type[ReplyType], take: Callable[[ReplyType], bool]
    ) -> None:
        """Any other stream, until `take` says that it was the last message. Raises Unavailable, as `watch` does."""
        await self._follow(path, lambda: request, message_type, take, give_up=True)

    async def watch(self, after_revision: int, event: Callable[[pb.WatchEvent], None]) -> None:
        """Every change after a revision (0: from now on), each once, in order; for ever.

        Raises Unavailable when no replica could be reached for some seconds.
        """
        revision = after_revision
        seen: set[str] = set()  # keys of `revision` that were told already

        def request() -> pb.WatchRequest:
            # A stream may be cut within a revision: ask for the whole of it, and pass over what was told.
            return pb.WatchRequest(after_revision=revision - 1 if seen else revision)

        def take(message: pb.WatchEvent) -> bool:
            nonlocal revision
            if seen and (message.revision < revision or (message.revision == revision and message.key in seen)):
                return False
            if message.revision != revision or not seen:
                revision = message.revision
                seen.clear()
            seen.add(message.key)
            event(message)
            return False

        await self._follow("/mesh.v1.Config/Watch", request, pb.WatchEvent, take, give_up=True)

    # -- how

    def _order(self) -> Sequence[str]:
        """All endpoints, the one that answered last first."""
        endpoints = self.connection.endpoints
        return endpoints[self._first :] + endpoints[: self._first]

    def _channel(self, endpoint: str) -> Channel:
        channel = self._channels.get(endpoint)
        if channel is None:
            if endpoint.startswith("unix:"):
                channel = Channel(endpoint, options=_OPTIONS)
            else:
                channel = Channel(
                    endpoint, tls=self.connection.tls, server_name=CONTROL_PLANE_SERVER_NAME, options=_TCP_OPTIONS
                )
            self._channels[endpoint] = channel
        return channel

    async def _unary(
        self, path: str, request: Message, reply_type: type[ReplyType], seconds: float, *, write: bool = False
    ) -> ReplyType:
        deadline = trio.current_time() + seconds
        payload = request.SerializeToString()
        unknown = False
        pause = FIRST_PAUSE_SECONDS
        while True:
            failures: list[str] = []
            order = self._order()
            for number, endpoint in enumerate(order, 1):
                remaining = deadline - trio.current_time()
                if remaining <= 0:
                    break
                alone = number == len(order) and not write
                try:
                    data = await self._channel(endpoint).unary(
                        path, payload, timeout=remaining if alone else min(remaining, ATTEMPT_SECONDS)
                    )
                except RpcError as error:
                    said = verdict(error)
                    if said is Verdict.ANSWER:
                        raise mesh_error(error, endpoint) from error
                    unknown |= said is Verdict.UNKNOWN
                    failures.append(f"{endpoint}: {reason(error)}")
                else:
                    self._first = self.connection.endpoints.index(endpoint)
                    return _parsed(data, reply_type, endpoint)
            again = write and unknown and trio.current_time() + pause < deadline
            if not again:
                raise _no_answer(failures, outcome_unknown=write and unknown)
            if pause == FIRST_PAUSE_SECONDS:
                self.notice(f"no answer yet ({'; '.join(failures)}), asking again with the same request id")
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _follow(
        self,
        path: str,
        request: Callable[[], Message],
        message_type: type[ReplyType],
        take: Callable[[ReplyType], bool],
        *,
        give_up: bool,
    ) -> None:
        """Read a stream, from another replica where one is cut, until `take` says that it was the last message."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            failures: list[str] = []
            for endpoint in self._order():
                heard = False
                try:
                    with self._channel(endpoint).server_stream(path, request().SerializeToString()) as stream:
                        while True:
                            for data in await stream.receive():
                                heard = True
                                if take(_parsed(data, message_type, endpoint)):
                                    return
                except trio.EndOfChannel:
                    failures.append(f"{endpoint}: it ended the stream")
                except RpcError as error:
                    if verdict(error) is Verdict.ANSWER:
                        raise mesh_error(error, endpoint) from error
                    failures.append(f"{endpoint}: {reason(error)}")
                if heard:
                    pause = FIRST_PAUSE_SECONDS
                    self.notice(f"lost {failures.pop()}; going on with the next replica")
            if len(failures) == len(self.connection.endpoints):
                if give_up and pause >= LONGEST_PAUSE_SECONDS:
                    raise _no_answer(failures, outcome_unknown=False)
                if pause == FIRST_PAUSE_SECONDS:
                    self.notice(f"no replica answers ({'; '.join(failures)}), trying again")
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _no_answer(failures: Sequence[str], *, outcome_unknown: bool) -> Unavailable:
    said = "; ".join(failures) or "no time was left"
    return Unavailable(f"no replica answered ({said})", outcome_unknown=outcome_unknown)


def _parsed(data: bytes, type_: type[ReplyType], endpoint: str) -> ReplyType:
    try:
        return type_.FromString(data)
    except DecodeError as error:
        raise MeshError(f"the answer of {endpoint} can't be understood: is it a replica of this mesh?") from error


def _stored(message: pb.StoredObject) -> Stored:
    key = message.key
    subject = f"{key.kind} {key.namespace}/{key.name}"
    return Stored(codec.decode_object(message.value, key.kind, subject), message.revision)
