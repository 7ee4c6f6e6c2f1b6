"""[edge] Every RPC alike: caller ▸ authorize ▸ handler, and errors to statuses."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from controlplane.api.authorize import authorize
from controlplane.api.call import DEFAULT_SECONDS, Call
from controlplane.api.caller import Listener, caller_of
from controlplane.api.convert import abort_of
from controlplane.log import event
from schemas.errors import InvalidInput, MeshError, PermissionDenied, Unauthenticated
from trio_grpc import Context, Method, RpcAbort, server_stream, unary

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


def methods(rpcs: Mapping[str, Rpc], door: Door) -> dict[str, Method]:
    """What one listener serves: all RPCs, of which the authorization table leaves each caller its own."""
    return {path: _method(path, rpc, door) for path, rpc in rpcs.items()}


def _method(path: str, rpc: Rpc, door: Door) -> Method:
    def call_of(context: Context) -> Call:
        caller = caller_of(door.listener, context.peer, context.peer_certificate, door.trust_domain, door.now())
        authorize(path, caller)
        left = context.seconds_left()
        return Call(caller, DEFAULT_SECONDS if left is None else max(ANSWER_SECONDS, left - ANSWER_SECONDS))

    async def answer(request: Any, context: Context) -> Message:
        assert rpc.unary is not None  # noqa: S101  (chosen below)
        try:
            return await rpc.unary(request, call_of(context))
        except MeshError as error:
            raise _refused(path, context, door, error) from error

    async def stream(request: Any, send: Callable[[Any], Awaitable[None]], context: Context) -> None:
        assert rpc.stream is not None  # noqa: S101  (chosen below)
        try:
            await rpc.stream(request, send, call_of(context))
        except MeshError as error:
            raise _refused(path, context, door, error) from error

    if rpc.unary is not None:
        return unary(answer, rpc.request.FromString, _encode)
    return server_stream(stream, rpc.request.FromString, _encode)


def _encode(message: Message) -> bytes:
    return message.SerializeToString()


def _refused(path: str, context: Context, door: Door, error: MeshError) -> RpcAbort:
    abort = abort_of(error)
    # Who may not is worth a warning; what is wrong with the input is the caller's to know.
    serious = isinstance(error, PermissionDenied | Unauthenticated) or abort.code is grpc.StatusCode.INTERNAL
    why = f"{len(error.problems)} problems, first: {error.problems[0]}" if isinstance(error, InvalidInput) else error
    event(
        logger,
        logging.WARNING if serious else logging.INFO,
        "refused",
        rpc=path,
        listener=door.listener.value,
        peer=context.peer,
        status=abort.code.name,
        why=why,
    )
    return abort
