"""`identity`: revoke a workload's identity, and take that back."""

import time
from pathlib import Path

import click

from controlplane import floor_file
from controlplane.meshadm import output
from controlplane.meshadm.access import plain_revocations, revocation_table
from controlplane.meshadm.authority import moment
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.options import EXIT_INTERRUPTED, Connect, Duration, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.render import plain_progress
from controlplane.meshadm.table import count
from controlplane.meshadm.waiting import Waited, wait
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, Problem
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
meshadm identity revoke shop/orders --reason "key found on a build host" --wait
""",
)
@click.argument("workload", metavar="NAMESPACE/SERVICE")
@click.option("--reason", default="", help="Why; for the record and the audit log.")
@click.option(
    "--wait",
    "waits",
    is_flag=True,
    help="Return when every connected sidecar denies it; fail where what it has open can't be ended.",
)
@click.option("--timeout", type=Duration(), default="60s", show_default=True, help="Bound on the wait.")
@formats("table", "json", "yaml")
@connects
def revoke(connect: Connect, workload: str, reason: str, waits: bool, timeout: float, form: Format) -> None:
    """Every sidecar denies the identity from now on, whatever policies say; no replica renews it."""
    namespace, service = _parsed(workload)
    request = pb.RevokeIdentityRequest(request_id=new_request_id(), namespace=namespace, service=service, reason=reason)
    waited = Waited()

    async def ask(client: MeshClient) -> None:
        reply = await client.call("/mesh.v1.Revocations/Revoke", request, pb.RevocationReply, write=True)
        waited.revision = reply.revision
        if form == "table":
            output.line(f"the identity of {workload} is revoked at revision {reply.revision}")
        if waits:
            await wait(client, waited, form, timeout, timeout, denies=True)

    try:
        connect.run(ask)
    except KeyboardInterrupt:
        if not waited.revision:
            raise
        output.notice(f"interrupted: {workload} is revoked at revision {waited.revision}; see `meshadm status`")
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    finally:
        if form != "table" and waited.revision:
            plain = {"namespace": namespace, "service": service, "revision": waited.revision}
            progress = waited.progress
            output.show_plain(plain if progress is None else {**plain, "wait": plain_progress(progress)}, form)


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
