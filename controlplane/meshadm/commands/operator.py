"""`operator`: who may do what."""

import click

from controlplane.meshadm import output
from controlplane.meshadm.access import operator_table, plain_operators
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.commands.token import ROLES
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from schemas.api import mesh_pb2 as pb


@click.group("operator", short_help="Show and change what operators may do.")
def operator() -> None:
    """Operators and their roles. A change counts from the operator's next call on, without a new login."""


@operator.command(
    "list",
    cls=MeshCommand,
    short_help="Show the operators and their roles.",
    example="""
meshadm operator list
meshadm operator list -o json
""",
)
@formats("table", "json", "yaml")
@connects
def list_operators(connect: Connect, form: Format) -> None:
    """Show each operator, also those who were revoked."""

    async def ask(client: MeshClient) -> pb.ListOperatorsReply:
        return await client.call("/mesh.v1.Operators/List", pb.ListOperatorsRequest(), pb.ListOperatorsReply)

    reply = connect.run(ask)
    if form == "table":
        output.show_table(operator_table(reply.operators))
    else:
        output.show_plain(plain_operators(reply), form)


@operator.command(
    "grant",
    cls=MeshCommand,
    short_help="Give an operator a role, in place of the present one.",
    example="""
meshadm operator grant anna --role viewer
meshadm operator grant anna --role editor --namespace shop --namespace stock
""",
)
@click.argument("name")
@click.option(
    "--role", type=click.Choice(ROLES), required=True, help="viewer reads all, editor also writes, admin may all."
)
@click.option("--namespace", "namespaces", multiple=True, help="Where an editor may write; may be repeated.")
@connects
def grant(connect: Connect, name: str, role: str, namespaces: tuple[str, ...]) -> None:
    """The operator need not exist yet; `token create --operator` then lets it log in."""
    request = pb.GrantOperatorRequest(request_id=new_request_id(), name=name, role=role, namespaces=namespaces)

    async def ask(client: MeshClient) -> pb.GrantOperatorReply:
        return await client.call("/mesh.v1.Operators/Grant", request, pb.GrantOperatorReply, write=True)

    reply = connect.run(ask)
    own = f" of {', '.join(reply.operator.namespaces)}" if reply.operator.namespaces else ""
    output.line(f"operator {name} is {reply.operator.role}{own} from revision {reply.revision} on")


@operator.command(
    "revoke",
    cls=MeshCommand,
    short_help="Take an operator's role away.",
    example="""
meshadm operator revoke anna
""",
)
@click.argument("name")
@connects
def revoke(connect: Connect, name: str) -> None:
    """At once, with every certificate and token made for it so far, also should the name be granted a role again."""
    request = pb.RevokeOperatorRequest(request_id=new_request_id(), name=name)

    async def ask(client: MeshClient) -> pb.RevokeOperatorReply:
        return await client.call("/mesh.v1.Operators/Revoke", request, pb.RevokeOperatorReply, write=True)

    output.line(f"operator {name} is revoked at revision {connect.run(ask).revision}")
