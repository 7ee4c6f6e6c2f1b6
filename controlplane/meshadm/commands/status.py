"""`status`: every sidecar at a glance."""

import time

import click

from controlplane.meshadm import output
from controlplane.meshadm import sidecars as judging
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.errors import Alarmed, OpenGoesOn, Refusal, RefusedBySidecar, SidecarsNotCurrent
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.sidecars import State
from controlplane.meshadm.table import printable
from controlplane.meshadm.values import Sidecars
from schemas.names import ServiceRef


@click.command(
    "status",
    cls=MeshCommand,
    short_help="Show every sidecar and whether all is well.",
    example="""
meshadm status
meshadm status -n shop -o json
""",
)
@click.option("-n", "--namespace", default=None, help="Only sidecars of this namespace.  [default: all]")
@formats("table", "json", "yaml")
@connects
def status(connect: Connect, namespace: str | None, form: Format) -> None:
    """Show each sidecar: contact, acked revision, refusals, expiry of its identity.

    Ends with 8 when a sidecar has refused something, with 7 when one is stale (no contact with etcd) or its identity
    has expired, with 11 when one can't end what is open and no longer allowed, with 10 when the replica raises an alarm
    about the whole mesh, else with 0. One that is revoked is no failure: it is meant to be out. Nor is one that is
    merely behind: each is for a moment after a change.
    """

    async def ask(client: MeshClient) -> tuple[Sidecars, frozenset[ServiceRef]]:
        revoked = await client.revoked()
        return await client.sidecars(), revoked

    found, revoked = connect.run(ask)
    now = time.time()
    judged = [
        one
        for one in judging.judged(found.statuses, found.config_revision, now, revoked)
        if namespace in (None, one.status.namespace)
    ]
    if form == "table":
        output.show_table(judging.status_table(judged, found.config_revision, now))
        for text in (
            *judging.details(judged),
            *judging.open_lines(judged),
            *(printable(f"ALARM: {one}") for one in found.alarms),
        ):
            output.line(text)
    else:
        output.show_plain({**judging.plain_status(judged, found.config_revision), "alarms": list(found.alarms)}, form)
    for text in found.unreadable:
        output.notice(f"left out: {text}")
    nacks = [
        Refusal(one.name, nack.resource, nack.message)
        for one in judged
        if one.state is not State.REVOKED
        for nack in one.status.nacks
    ]
    if nacks:
        raise RefusedBySidecar(found.config_revision, sorted(nacks))
    if any(one.state in judging.WRONG for one in judged):
        wrong = ", ".join(f"{one.name} is {one.state.value}" for one in judged if one.state in judging.WRONG)
        advice = "a stale sidecar serves what it last knew; see its log and its way to etcd"
        if any(one.state is State.EXPIRED for one in judged):
            advice = "a sidecar whose identity expired serves nobody; see its log and its way to the replicas"
        raise SidecarsNotCurrent(f"{judging.verdict_line(judged)}\n{wrong}\n{advice}")
    if uncut := judging.uncut(judged):
        raise OpenGoesOn(uncut)
    if found.alarms:
        raise Alarmed("\n".join(found.alarms))
