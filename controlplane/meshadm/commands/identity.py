"""`identity`: revoke a workload's identity, and take that back."""

import time
from pathlib import Path
from typing import Any

import click

from controlplane import floor_file
from controlplane.meshadm import output
from controlplane.meshadm import sidecars as judging
from controlplane.meshadm.access import plain_revocations, revocation_table
from controlplane.meshadm.authority import moment
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.errors import OpenGoesOn
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.sidecars import Sidecar
from controlplane.meshadm.table import count
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, Problem
from schemas.names import ServiceRef
from schemas.records import Revocation

# etcd runs as another user; serial numbers are no secret.
MODE = 0o644


@click.group("identity", short_help="Revoke the identities of workloads.")
def identity() -> None:
    """Workload identities. One that is revoked is denied everywhere, on open connections too, and issued no more."""


@identity.command(
    "revoke",
    cls=MeshCommand,
    short_help="Deny a workload everywhere.",
    example="""
meshadm identity revoke shop/orders --reason "key found on a build host"
""",
)
@click.argument("workload", metavar="NAMESPACE/SERVICE")
@click.option("--reason", default="", help="Why; for the record and the audit log.")
@formats("table", "json", "yaml")
@connects
def revoke(connect: Connect, workload: str, reason: str, form: Format) -> None:
    """Every sidecar denies the identity from now on, whatever policies say; no replica renews it.

    Says within what time that ends what it has open. Ends with 11 when a sidecar can't end what is open: it is revoked
    all the same.
    """
    namespace, service = _parsed(workload)
    request = pb.RevokeIdentityRequest(request_id=new_request_id(), namespace=namespace, service=service, reason=reason)
    told: dict[str, Any] = {}

    async def ask(client: MeshClient) -> list[Sidecar]:
        reply = await client.call("/mesh.v1.Revocations/Revoke", request, pb.RevocationReply, write=True)
        told.update(namespace=namespace, service=service, revision=reply.revision)
        if form == "table":
            output.line(f"the identity of {workload} is revoked at revision {reply.revision}")
        revoked = {*await client.revoked(), ServiceRef(namespace, service)}
        found = await client.sidecars()
        judged = judging.judged(found.statuses, found.config_revision, time.time(), revoked)
        told.update(judging.plain_bounds(judged))
        return judged

    try:
        judged = connect.run(ask)
    finally:
        if form != "table" and told:
            output.show_plain(told, form)
    if form == "table":
        for text in judging.open_lines(judged):
            output.line(text)
    if uncut := judging.uncut(judged):
        raise OpenGoesOn(uncut)


@identity.command(
    "restore",
    cls=MeshCommand,
    short_help="Take a revocation back.",
    example="""
meshadm identity restore shop/orders --reason "host was rebuilt"
""",
)
@click.argument("workload", metavar="NAMESPACE/SERVICE")
@click.option("--reason", default="", help="Why; for the record and the audit log.")
@connects
def restore(connect: Connect, workload: str, reason: str) -> None:
    """Certificates from before count again until they expire: wait for that where a key was stolen."""
    namespace, service = _parsed(workload)
    request = pb.RestoreIdentityRequest(
        request_id=new_request_id(), namespace=namespace, service=service, reason=reason
    )

    async def ask(client: MeshClient) -> pb.RevocationReply:
        return await client.call("/mesh.v1.Revocations/Restore", request, pb.RevocationReply, write=True)

    output.line(f"the identity of {workload} is restored at revision {connect.run(ask).revision}")


@identity.command(
    "revocations",
    cls=MeshCommand,
    short_help="Show whose identity was revoked or restored.",
    example="""
meshadm identity revocations
meshadm identity revocations -o json
""",
)
@formats("table", "json", "yaml")
@connects
def revocations(connect: Connect, form: Format) -> None:
    """Show the last word on each identity that was ever revoked."""

    async def ask(client: MeshClient) -> pb.ListRevocationsReply:
        return await client.call("/mesh.v1.Revocations/List", pb.ListRevocationsRequest(), pb.ListRevocationsReply)

    reply = connect.run(ask)
    records = [codec.decode(value, Revocation, "a revocation") for value in reply.revocations]
    if form == "table":
        output.show_table(revocation_table(records, time.time()))
    else:
        output.show_plain(plain_revocations(records, reply.revision), form)


@identity.command(
    "crl",
    cls=MeshCommand,
    short_help="Write the list by which etcd refuses revoked sidecars.",
    example="""
meshadm identity crl --out /var/lib/mesh-crl/clients.crl
meshadm identity crl | openssl crl -inform DER -noout -text
""",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file, replaced whole; readable by all.  [default: standard output]",
)
@connects
def crl(connect: Connect, out: Path | None) -> None:
    """The certificates of revoked sidecars as a CRL in DER, for etcd's --client-crl-file.

    For hosts of etcd without a replica that writes it (`etcd.clientCrl`): run it after each revocation, and every hour.
    """

    async def ask(client: MeshClient) -> pb.EtcdListReply:
        return await client.call("/mesh.v1.Revocations/EtcdList", pb.EtcdListRequest(), pb.EtcdListReply)

    reply = connect.run(ask)
    if out is None:
        click.echo(reply.crl, nl=False)
    else:
        try:
            floor_file.replace(out, reply.crl, MODE)
        except OSError as error:
            raise InvalidInput(Problem(str(out), f"can't be written: {error.strerror}")) from error
    output.notice(
        f"{count(reply.identities, 'identity is', 'identities are')} revoked; the list should be renewed before "
        f"{moment(reply.next_update)}"
    )


def _parsed(workload: str) -> tuple[str, str]:
    """The replica checks the names. Raises InvalidInput."""
    namespace, slash, service = workload.partition("/")
    if not slash:
        raise InvalidInput(Problem(f"workload {workload[:80]!r}", "has no namespace", remedy="write NAMESPACE/SERVICE"))
    return namespace, service
