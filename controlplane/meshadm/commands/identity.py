"""`identity`: revoke a workload's identity, and take that back."""

import time

import click

from controlplane.meshadm import output
from controlplane.meshadm.access import plain_revocations, revocation_table
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, Problem
from schemas.records import Revocation


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
@connects
def revoke(connect: Connect, workload: str, reason: str) -> None:
    """Every sidecar denies the identity from now on, whatever policies say; no replica renews it."""
    namespace, service = _parsed(workload)
    request = pb.RevokeIdentityRequest(request_id=new_request_id(), namespace=namespace, service=service, reason=reason)

    async def ask(client: MeshClient) -> pb.RevocationReply:
        return await client.call("/mesh.v1.Revocations/Revoke", request, pb.RevocationReply, write=True)

    output.line(f"the identity of {workload} is revoked at revision {connect.run(ask).revision}")


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


def _parsed(workload: str) -> tuple[str, str]:
    """The replica checks the names. Raises InvalidInput."""
    namespace, slash, service = workload.partition("/")
    if not slash:
        raise InvalidInput(Problem(f"workload {workload[:80]!r}", "has no namespace", remedy="write NAMESPACE/SERVICE"))
    return namespace, service
