"""`mtls`: which ports take plaintext, and whether they may stop."""

import time

import click

from controlplane.domain.strictness import WINDOW_S, Modes
from controlplane.exit_codes import ExitCode
from controlplane.meshadm import mtls as judging
from controlplane.meshadm import output
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.options import Connect, Duration, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.table import printable
from controlplane.meshadm.values import Listing, Sidecars
from schemas.errors import NotFound
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef
from schemas.objects import PeerAuthentication, Service


@click.group("mtls", short_help="See who still comes without mTLS.")
def mtls() -> None:
    """Ports that take plaintext while callers move into the mesh: see docs/mtls.md."""


@mtls.command(
    "readiness",
    cls=MeshCommand,
    short_help="Say who still sends plaintext, and which ports may become STRICT.",
    example="""
meshadm mtls readiness
meshadm mtls readiness orders.shop --since 1d -o json
""",
)
@click.argument("service", required=False, metavar="[SERVICE]")
@click.option(
    "--since",
    "window",
    type=Duration(),
    default=f"{WINDOW_S}s",
    show_default=True,
    help="Who was seen since still sends.",
)
@formats("table", "json", "yaml")
@connects
@click.pass_context
def readiness(ctx: click.Context, connect: Connect, service: str | None, window: float, form: Format) -> None:
    """Say of each port of SERVICE (NAME.NAMESPACE), else of each PERMISSIVE port of the mesh: what it takes, by which
    object, who was seen to send plaintext, and which sidecars have not reported.

    Ends with 4 where a port is not ready, which is where a replica refuses STRICT without --force (by 10 minutes,
    whatever --since says), with 0 where all are.
    """
    wanted = None if service is None else ServiceRef.parse(service)

    async def ask(client: MeshClient) -> tuple[Listing, list[Listing], Sidecars]:
        services = await client.list_objects(Service.__name__, wanted.namespace if wanted else None)
        near = dict.fromkeys((wanted.namespace, SYSTEM_NAMESPACE)) if wanted else (None,)
        said = [await client.list_objects(PeerAuthentication.__name__, one) for one in near]
        return services, said, await client.sidecars()

    services, said, sidecars = connect.run(ask)
    now = int(time.time())
    declared = judging.of_services(services.objects)
    if wanted is not None:
        declared = [one for one in declared if one.metadata.name == wanted.name]
        if not declared:
            raise NotFound(f"there is no Service {wanted}")
    objects = [one for listing in said for one in listing.objects]
    modes = Modes(tuple(one.object for one in objects if isinstance(one.object, PeerAuthentication)))
    revisions: dict[ObjectRef, int] = {one.object.ref: one.revision for one in objects}
    found = list(judging.readiness(declared, modes, revisions, sidecars.statuses, now, window))
    if wanted is None:
        found = [one for one in found if one.mode == "PERMISSIVE"]
    if form == "table":
        output.show_table(judging.table(found, now, "no port takes plaintext"))
        for text in judging.details(found, now):
            output.line(text)
    else:
        output.show_plain(judging.plain(found, now, window), form)
    for text in (*(each for listing in (services, *said) for each in listing.unreadable), *sidecars.unreadable):
        output.notice(printable(f"left out: {text}"))
    ctx.exit(ExitCode.OK if all(one.ready for one in found) else ExitCode.CONFLICT)
