"""`why`: what became of a request, found by its id in the logs of the sidecars that it passed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TextIO

import click

from authz.judge import Verdict
from controlplane.meshadm import output
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.evidence import Evidence, evidence
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.table import printable
from controlplane.meshadm.why import (
    Explained,
    Looked,
    Passed,
    explained,
    looked_lines,
    needs_judging,
    not_found,
    passed_lines,
    plain_why,
    request_of,
)
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt, InvalidInput, MeshError, NotFound, Unavailable
from schemas.names import ServiceRef, SpiffeId
from schemas.questions import MAX_ENTRIES, Answer, Question, question_faults
from schemas.request_log import LoggedRequest, logged_requests


@click.command(
    "why",
    cls=MeshCommand,
    short_help="Say why a request was denied, by its id.",
    example="""
meshadm why 0dc1f3ab-7f0e-9a35-8c41-3f1c5d1b2a77
meshadm why 0dc1f3ab-7f0e-9a35-8c41-3f1c5d1b2a77 --to orders.shop -o json
journalctl -u mesh-sidecar@orders | meshadm why 0dc1f3ab-7f0e-9a35-8c41-3f1c5d1b2a77 --log -
""",
)
@click.argument("request_id", metavar="REQUEST-ID")
@click.option(
    "--to",
    "services",
    multiple=True,
    metavar="SERVICE",
    help="Ask its sidecars alone: NAME.NAMESPACE; may be repeated.",
)
@click.option(
    "--log",
    "files",
    multiple=True,
    type=click.File(encoding="utf-8", errors="replace"),
    metavar="FILE",
    help="Look into this access log instead; - for standard input; may be repeated.",
)
@formats("table", "json", "yaml")
@connects
def why(connect: Connect, request_id: str, services: tuple[str, ...], files: tuple[TextIO, ...], form: Format) -> None:
    """Say what became of a request and why: who judged it and when, by which rule, or what nearly allowed it.

    REQUEST-ID is its x-request-id, which is in the answer of whoever denied it. All sidecars are asked, or those of the
    services that are named; each looks into its own access log. Ends with 3 where nobody has it.
    """
    faults = [*question_faults(Question(id="0" * 32, about="request", request_id=request_id))]
    if faults:
        raise InvalidInput(*faults)
    wanted = [str(ServiceRef.parse(one)) for one in services]
    if files:
        passed, looked = _in_files(request_id, files)
        if any(needs_judging(one.entry) for one in passed):
            passed = _judged_if_possible(connect, passed)
    else:
        passed, looked = connect.run(lambda client: _from_sidecars(client, request_id, wanted))
    if not passed:
        raise NotFound(not_found(request_id, looked))
    if form == "table":
        for one in passed:
            for text in passed_lines(one):
                output.line(printable(text))
        for text in looked_lines(looked):
            output.notice(printable(text))
    else:
        output.show_plain(plain_why(request_id, passed, looked), form)


def _in_files(request_id: str, files: Sequence[TextIO]) -> tuple[list[Passed], Looked]:
    names = {id(file): str(getattr(file, "name", "standard input")) for file in files}
    passed = [Passed(names[id(file)], entry) for file in files for entry in logged_requests(file, request_id)]
    return _in_order(passed), Looked(tuple(names.values()))


def _in_order(passed: list[Passed]) -> list[Passed]:
    return sorted(passed, key=lambda one: (one.entry.time, one.entry.side))


def _judged_if_possible(connect: Connect, passed: list[Passed]) -> list[Passed]:
    """Logs are read where no replica need be: what only a replica can tell is then missing, and why is told."""
    try:
        return connect.run(lambda client: _judged(client, passed))
    except MeshError as error:
        return [replace(one, explained=_unsaid(error)) if needs_judging(one.entry) else one for one in passed]


async def _from_sidecars(client: MeshClient, request_id: str, services: Sequence[str]) -> tuple[list[Passed], Looked]:
    request = pb.AskRequest(about="request", request_id=request_id, services=services)
    reply = await client.call("/mesh.v1.Questions/Ask", request, pb.AskReply)
    passed: list[Passed] = []
    places: list[str] = []
    problems: list[tuple[str, str]] = []
    for data in reply.answers:
        try:
            answer = codec.decode(data, Answer, "a sidecar's answer")
        except Corrupt as error:
            problems.append(("a sidecar", str(error)))
            continue
        where = f"{answer.instance} of {answer.service}.{answer.namespace}"
        if answer.problem:
            problems.append((where, answer.problem))
        if answer.looked_at:
            places.append(f"{where}: {answer.looked_at}")
        lines = answer.entries[:MAX_ENTRIES]  # none that is honest has more
        passed += [Passed(where, one) for line in lines for one in logged_requests([line], request_id)]
    looked = Looked(tuple(places), tuple(reply.silent), tuple(problems))
    return await _judged(client, _in_order(passed)), looked


class _Known:
    """Evidence, each once however many lines ask for it, or why it can't be had."""

    def __init__(self, client: MeshClient) -> None:
        self._client = client
        self._got: dict[tuple[ServiceRef, int], Evidence | MeshError] = {}
        self._away: Unavailable | None = None

    async def of(self, to: ServiceRef, revision: int = 0) -> Evidence:
        """As `evidence`, and raises what it raises; after replicas were out of reach once, at once."""
        if self._away is not None:
            raise self._away
        if (to, revision) not in self._got:
            try:
                self._got[to, revision] = await evidence(self._client, to, revision)
            except Unavailable as error:
                self._away = error
                raise
            except MeshError as error:
                self._got[to, revision] = error
        got = self._got[to, revision]
        if isinstance(got, MeshError):
            raise got
        return got


async def _judged(client: MeshClient, passed: list[Passed]) -> list[Passed]:
    known = _Known(client)
    return [
        replace(one, explained=await _explanation(known, one.entry)) if needs_judging(one.entry) else one
        for one in passed
    ]


async def _explanation(known: _Known, entry: LoggedRequest) -> Explained:
    """By the policies at the revision that the sidecar names, and by those of now where they say something else."""
    try:
        to = SpiffeId.parse(entry.destination).service
        if to is None:
            return Explained(None, 0, f"{entry.destination} is no service of the mesh")
        now = await known.of(to)
        then: Evidence | None = None
        gone = "the log names no revision"
        if entry.revision:
            try:
                then = await known.of(to, entry.revision)
            except NotFound as error:
                gone = str(error)
        return explained(_verdict(then, entry) if then is not None else None, _verdict(now, entry), gone)
    except MeshError as error:  # what was found is worth telling without it
        return _unsaid(error)


def _unsaid(error: MeshError) -> Explained:
    return Explained(None, 0, f"which rule came nearest can't be said: {error}")


def _verdict(known: Evidence, entry: LoggedRequest) -> tuple[Verdict, int]:
    return known.verdict(entry.port or None, request_of(entry)), known.revision
