"""[edge] Until every sidecar runs a revision: told of while it lasts, and how it ended."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from controlplane.meshadm import output, render
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.errors import OpenGoesOn, Refusal, RefusedBySidecar, WaitTimedOut
from controlplane.meshadm.output import Format
from controlplane.meshadm.table import printable
from schemas.api import mesh_pb2 as pb


@dataclass(slots=True)
class Waited:
    """How far it came, for whoever is interrupted, and for JSON."""

    revision: int = 0
    progress: pb.WaitProgress | None = None


async def wait(client: MeshClient, waited: Waited, form: Format, left: float, bound: float, *, denies: bool) -> None:
    """For `waited.revision`, for `left` seconds of the `bound` that the operator has set. denies: what is open may be
    allowed no longer, so that it is a failure where it can't be ended.

    Raises RefusedBySidecar, WaitTimedOut, OpenGoesOn.
    """
    with _progress_shown(form) as show, trio.move_on_after(max(left, 0)):

        def progress(message: pb.WaitProgress) -> None:
            waited.progress = pb.WaitProgress()
            waited.progress.CopyFrom(message)
            show(message)

        await client.wait(waited.revision, progress)
    last = waited.progress
    if last is not None and last.refusals:
        refusals = sorted(Refusal(one.sidecar, one.resource, one.message) for one in last.refusals)
        raise RefusedBySidecar(waited.revision, refusals)
    if last is None or not last.done:
        pending = sorted(last.pending) if last else ()
        raise WaitTimedOut(waited.revision, bound, last.total if last else 0, pending)
    if form == "table":
        for text in render.end_lines(last):
            output.line(printable(text))
    if denies and last.uncut:
        raise OpenGoesOn(sorted((one.sidecar, one.why) for one in last.uncut), waited.revision)


def _progress_shown(form: Format) -> AbstractContextManager[Callable[[pb.WaitProgress], None]]:
    if form != "table":
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
