"""[edge] A change set: sent, told of, waited for."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from controlplane.meshadm import output, render
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.errors import Refusal, RefusedBySidecar, WaitTimedOut
from controlplane.meshadm.options import EXIT_INTERRUPTED, Connect
from controlplane.meshadm.output import Format
from controlplane.meshadm.table import printable
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.codec import Document
from schemas.names import ObjectRef


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
    progress: pb.WaitProgress | None = None
    waited_for: int = 0
    details: dict[str, Any] = field(default_factory=dict)


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
        state.waited_for = state.reply.revision or (await client.sidecars()).config_revision
        await _wait(client, manner, state, manner.seconds - (trio.current_time() - started))


async def _wait(client: MeshClient, manner: Manner, state: _State, seconds: float) -> None:
    with _progress_shown(manner) as show, trio.move_on_after(max(seconds, 0)):

        def progress(message: pb.WaitProgress) -> None:
            state.progress = pb.WaitProgress()
            state.progress.CopyFrom(message)
            show(message)

        await client.wait(state.waited_for, progress)
    last = state.progress
    if last is not None and last.refusals:
        refusals = sorted(Refusal(one.sidecar, one.resource, one.message) for one in last.refusals)
        raise RefusedBySidecar(state.waited_for, refusals)
    if last is None or not last.done:
        pending = sorted(last.pending) if last else ()
        raise WaitTimedOut(state.waited_for, manner.seconds, last.total if last else 0, pending)
    if manner.form == "table":
        for text in render.end_lines(last):
            output.line(printable(text))


def _progress_shown(manner: Manner) -> AbstractContextManager[Callable[[pb.WaitProgress], None]]:
    if manner.form != "table":
        return nullcontext(lambda _: None)
    if sys.stderr.isatty():
        return _Bar()
    return nullcontext(_Lines())


class _Lines:
    """A line each time that something has moved, for logs and pipes."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, message: pb.WaitProgress) -> None:
        text = printable(render.progress_line(message))
        if text != self._last and not message.done:
            output.notice(text)
        self._last = text


class _Bar:
    """A bar on standard error that goes away when it is done."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, message: pb.WaitProgress) -> None:
        text = printable(render.progress_line(message))
        if self._task is None:
            self._task = self._progress.add_task(text, total=message.total)
        self._progress.update(self._task, description=text, completed=message.acked, total=message.total)


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
    if state.progress is not None:
        plain["wait"] = render.plain_progress(state.progress)
    output.show_plain(plain, manner.form)
