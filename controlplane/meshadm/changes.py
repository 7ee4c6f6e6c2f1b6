"""[edge] A change set: sent, told of, waited for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import click
import trio

from controlplane.meshadm import output, render
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.options import EXIT_INTERRUPTED, Connect
from controlplane.meshadm.output import Format
from controlplane.meshadm.table import printable
from controlplane.meshadm.waiting import Waited, wait
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.codec import Document
from schemas.names import ObjectRef
from schemas.objects import (
    BackendTrafficPolicy,
    ExternalService,
    GRPCRoute,
    HTTPRoute,
    RateLimitPolicy,
    TCPRoute,
    Telemetry,
)

# Kinds that say nothing of who is let in.
_OF_TRAFFIC = frozenset(
    one.__name__
    for one in (BackendTrafficPolicy, ExternalService, GRPCRoute, HTTPRoute, RateLimitPolicy, TCPRoute, Telemetry)
)


def put_of(document: Document) -> pb.Change:
    """`metadata.revision`, where the file has one, becomes the condition that the object is still at it."""
    value = document.object
    return pb.Change(put=codec.encode(value), source=document.source, expected_revision=value.metadata.revision)


def delete_of(ref: ObjectRef, source: str) -> pb.Change:
    return pb.Change(delete=pb.ObjectKey(kind=ref.kind, namespace=ref.namespace, name=ref.name), source=source)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a change set is sent. `seconds` bounds all of it, the wait included. force: past a gate that holds it."""

    dry_run: bool
    wait: bool
    seconds: float
    form: Format
    force: bool = False


@dataclass(slots=True)
class _State:
    """How far it came, for whoever interrupts it."""

    reply: pb.ApplyReply | None = None
    waited: Waited = field(default_factory=Waited)


def send(connect: Connect, changes: Sequence[pb.Change], manner: Manner) -> None:
    """The whole of `apply` and `delete` after their objects are known. Raises MeshError, click's Exit."""
    state = _State()
    try:
        connect.run(lambda client: _send(client, changes, manner, state))
    except KeyboardInterrupt:
        output.notice(_interrupted(state, manner))
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    finally:
        _show_plain(state, manner)


async def _send(client: MeshClient, changes: Sequence[pb.Change], manner: Manner, state: _State) -> None:
    started = trio.current_time()
    request = pb.ApplyRequest(request_id=new_request_id(), changes=changes, dry_run=manner.dry_run, force=manner.force)
    state.reply = await client.apply(request, manner.seconds)
    if manner.form == "table":
        for text in render.outcome_lines(state.reply, dry_run=manner.dry_run):
            output.line(printable(text))
    if manner.wait and not manner.dry_run:
        # Nothing changed: an earlier change may still be on its way, and that is what is waited for.
        state.waited.revision = state.reply.revision or (await client.sidecars()).config_revision
        left = manner.seconds - (trio.current_time() - started)
        await wait(client, state.waited, manner.form, left, manner.seconds, denies=_may_deny(state.reply))


def _may_deny(reply: pb.ApplyReply) -> bool:
    """Whether something that is open may be allowed no longer."""
    return not _OF_TRAFFIC.issuperset(one.key.kind for one in reply.outcomes)


def _interrupted(state: _State, manner: Manner) -> str:
    if manner.dry_run:
        return "interrupted; it was a dry run, nothing was written"
    if state.reply is None:
        return "interrupted before an answer came: whether the change was written is unknown; `meshadm get` tells"
    if state.reply.revision:
        written = f"the change itself is in, at revision {state.reply.revision}"
    else:
        written = "there was nothing to change"
    return f"interrupted: {written}; sidecars go on taking it up, see `meshadm status`"


def _show_plain(state: _State, manner: Manner) -> None:
    if manner.form == "table" or state.reply is None:
        return
    plain = render.plain_outcomes(state.reply, dry_run=manner.dry_run)
    if state.waited.progress is not None:
        plain["wait"] = render.plain_progress(state.waited.progress)
    output.show_plain(plain, manner.form)
