"""`authz preview`: what a change of policies would do to the flows that sidecars have seen lately."""

import time
from collections.abc import Sequence

import click

from controlplane.exit_codes import ExitCode
from controlplane.meshadm import manifests, output
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.commands.authz import authz
from controlplane.meshadm.evidence import evidence
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.preview import Preview, concerned, plain_preview, preview, preview_lines
from controlplane.meshadm.table import printable
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt, InvalidInput, NotFound, Problem
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import AuthorizationPolicy, Service
from schemas.questions import MAX_SERVICES, Answer


@authz.command(
    "preview",
    cls=MeshCommand,
    short_help="Say which flows seen lately a change of policies would deny or allow.",
    example="""
meshadm authz preview -f policies.yaml
meshadm authz preview --delete shop/web-may-order -o json
""",
)
@click.option(
    "-f", "--filename", "files", multiple=True, metavar="FILE", help="Policies as they would be; may be repeated."
)
@click.option(
    "--delete", "deleted", multiple=True, metavar="NAMESPACE/NAME", help="A policy that would go; may be repeated."
)
@formats("table", "json", "yaml")
@connects
@click.pass_context
def preview_command(
    ctx: click.Context, connect: Connect, files: tuple[str, ...], deleted: tuple[str, ...], form: Format
) -> None:
    """Say which of the flows that sidecars have seen lately would be newly denied or allowed, by which rule.

    Writes nothing. Asks the sidecars of the services that the change is about, and says who has not answered and how
    far back the flows reach. Ends with 6 where something would be denied that is let in now, else with 0.
    """
    written: list[AuthorizationPolicy] = []
    for document in manifests.load(files) if files else ():
        if isinstance(document.object, AuthorizationPolicy):
            written.append(document.object)
        else:
            output.notice(f"{document.source}: {document.object.ref} is not looked at: only policies are compared")
    gone = tuple(map(_ref, deleted))
    if not written and not gone:
        raise click.UsageError("name a file with an AuthorizationPolicy with -f, or one that would go with --delete")
    said = connect.run(lambda client: _preview(client, written, gone))
    if form == "table":
        for text in preview_lines(said, int(time.time())):
            output.line(printable(text))
    else:
        output.show_plain(plain_preview(said), form)
    ctx.exit(ExitCode.DENIED if said.denies else ExitCode.OK)


def _ref(text: str) -> ObjectRef:
    namespace, slash, name = text.partition("/")
    if not slash or not namespace or not name:
        raise InvalidInput(Problem(f"--delete {text!r}", "is not NAMESPACE/NAME", remedy="write --delete shop/web-may"))
    return ObjectRef(AuthorizationPolicy.__name__, namespace, name)


async def _preview(client: MeshClient, written: Sequence[AuthorizationPolicy], deleted: Sequence[ObjectRef]) -> Preview:
    refs = {*(one.ref for one in written), *deleted}
    namespaces = {ref.namespace for ref in refs}
    within = namespaces.pop() if len(namespaces) == 1 and SYSTEM_NAMESPACE not in namespaces else None
    services = (await client.list_objects(Service.__name__, within)).objects
    before = [
        one
        for each in (await client.list_objects(AuthorizationPolicy.__name__, within)).objects
        if isinstance(one := each.object, AuthorizationPolicy)
    ]
    for ref in deleted:
        if ref not in {one.ref for one in before}:
            raise NotFound(f"{ref} does not exist, or can't be read: see `meshadm get authz -A`")
    names = [ServiceRef(one.object.metadata.namespace, one.object.metadata.name) for one in services]
    about = concerned(names, before, written, deleted)
    answers, silent = await _flows(client, about) if about else ([], [])
    told = {ServiceRef(one.namespace, one.service) for one in answers if one.flows or one.audits}
    known = {one: await evidence(client, one) for one in about if one in told}
    return preview(about, known, written, deleted, answers, silent)


async def _flows(client: MeshClient, services: Sequence[ServiceRef]) -> tuple[list[Answer], list[str]]:
    # Of more than it may name all are asked; what others answer is passed over.
    named = map(str, services) if len(services) <= MAX_SERVICES else ()
    request = pb.AskRequest(about="flows", services=named)
    reply = await client.call("/mesh.v1.Questions/Ask", request, pb.AskReply)
    answers: list[Answer] = []
    for data in reply.answers:
        try:
            answers.append(codec.decode(data, Answer, "a sidecar's answer"))
        except Corrupt as error:
            output.notice(printable(f"an answer can't be read: {error}"))
    for one in answers:
        if one.problem:
            output.notice(printable(f"{one.instance} of {one.service}.{one.namespace}: {one.problem}"))
    return answers, list(reply.silent)
