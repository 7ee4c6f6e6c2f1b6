"""[edge] Every RPC alike: caller ▸ authorize ▸ handler, errors to statuses, and the audit of all of it."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trio
from google.protobuf.message import DecodeError, Message

from controlplane.api.audit import Audit
from controlplane.api.authorize import authorize
from controlplane.api.call import DEFAULT_SECONDS, Call
from controlplane.api.caller import Caller, Listener, caller_of
from controlplane.api.operators import Operators
from schemas.errors import Conflict, InvalidInput, MeshError, Problem
from trio_grpc import Context, Method, server_stream, unary

# What is kept back of a caller's time, so that our answer reaches it before its own deadline does.
ANSWER_SECONDS = 0.25

logger = logging.getLogger(__name__)

Unary = Callable[[Any, Call], Awaitable[Message]]
Streaming = Callable[[Any, Callable[[Any], Awaitable[None]], Call], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC: the protobuf type of its request, and who answers. Exactly one of the two handlers is given."""

    request: type[Message]
    unary: Unary | None = None
    stream: Streaming | None = None


@dataclass(frozen=True, slots=True)
class Door:
    """A listener's part in who calls. `trust_domain` of the mesh; `now`: seconds since 1970."""

    listener: Listener
    trust_domain: str
    now: Callable[[], float]
    operators: Operators
    check_identity: Callable[[Caller], None]
    """Raises PermissionDenied for a sidecar whose identity is revoked."""


def methods(rpcs: Mapping[str, Rpc], door: Door) -> dict[str, Method]:
    """What one listener serves: all RPCs, of which the authorization table leaves each caller its own."""
    return {path: _method(path, rpc, door) for path, rpc in rpcs.items()}


def _method(path: str, rpc: Rpc, door: Door) -> Method:
    async def call_of(context: Context, audit: Audit) -> Call:
        caller = caller_of(door.listener, context.peer, context.peer_certificate, door.trust_domain, door.now())
        audit.caller = caller
        audit.caller = caller = await door.operators.known(caller)
        door.check_identity(caller)
        authorize(path, caller)
        left = context.seconds_left()
        seconds = DEFAULT_SECONDS if left is None else max(ANSWER_SECONDS, left - ANSWER_SECONDS)
        return Call(caller, seconds, audit.facts, audit.refused_parts)

    async def begin(payload: bytes, context: Context, audit: Audit) -> tuple[Message, Call]:
        """Bytes that can't be read are refused like all else: to somebody who may ask, and in the audit."""
        unreadable: DecodeError | None = None
        request = rpc.request()
        try:
            request.ParseFromString(payload)
            audit.asked(request)
        except DecodeError as error:
            unreadable = error
        call = await call_of(context, audit)
        if unreadable is not None:
            text = f"its bytes are no {rpc.request.DESCRIPTOR.name}"
            raise InvalidInput(Problem("request", text, remedy="see mesh.proto")) from unreadable
        return request, call

    async def answer(payload: bytes, context: Context) -> Message:
        assert rpc.unary is not None  # noqa: S101  (chosen below)
        with Audit(path, door.listener, context.peer) as audit:
            try:
                request, call = await begin(payload, context, audit)
                reply = await _still_authorized(rpc.unary(request, call), path, call.caller, door)
                audit.answered(reply)
                return reply
            except MeshError as error:
                raise audit.refused(error) from error

    async def stream(payload: bytes, send: Callable[[Any], Awaitable[None]], context: Context) -> None:
        assert rpc.stream is not None  # noqa: S101  (chosen below)
        with Audit(path, door.listener, context.peer, stream=True) as audit:
            try:
                request, call = await begin(payload, context, audit)
                audit.opened()
                await _while_authorized(lambda: rpc.stream(request, send, call), path, call.caller, door)  # type: ignore[misc]  # not None, as asserted
            except MeshError as error:
                raise audit.refused(error) from error

    if rpc.unary is not None:
        return unary(answer, bytes, _encode)
    return server_stream(stream, bytes, _encode)


async def _still_authorized(work: Awaitable[Message], path: str, caller: Caller, door: Door) -> Message:
    """A write whose guards failed may have failed by a change of the caller's role: then that is the reason to tell."""
    try:
        return await work
    except Conflict:
        if caller.guards:
            authorize(path, await door.operators.known(caller))
        raise


async def _while_authorized(work: Callable[[], Awaitable[None]], path: str, caller: Caller, door: Door) -> None:
    """A stream ends with the right to have it."""
    if not caller.guards:
        await work()
        return
    ended_by: MeshError | None = None

    async def end_with(task: Callable[[], Awaitable[None]]) -> None:
        nonlocal ended_by
        try:
            await task()
        except MeshError as error:
            ended_by = error
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_with, lambda: door.operators.watch(caller, lambda now: authorize(path, now)))
        nursery.start_soon(end_with, work)
    if ended_by is not None:
        raise ended_by


def _encode(message: Message) -> bytes:
    return message.SerializeToString()
