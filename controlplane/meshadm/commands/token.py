"""`token`: how a host becomes a sidecar, and a person an operator."""

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from controlplane.meshadm import output, private_file
from controlplane.meshadm.access import plain_tokens, token_table
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.options import Connect, Duration, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from schemas import joinfile
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, Problem
from schemas.joinfile import JoinFile, LoginFile
from schemas.names import ServiceRef
from schemas.records import OperatorRole
from schemas.selectors import ANY, ServiceSelector

ROLES: tuple[OperatorRole, ...] = ("viewer", "editor", "admin")


@click.group("token", short_help="Make, list and revoke tokens for hosts and operators.")
def token() -> None:
    """Tokens: with one a host becomes a sidecar, or a person an operator. Each is counted and expires."""


@token.command(
    "create",
    cls=MeshCommand,
    example="""
meshadm token create --service orders.shop --out orders.join
meshadm token create --service orders.shop --ttl 15m | ssh host1 'umask 77; cat > /etc/mesh/sidecars/orders.join'
meshadm token create --selector 'shop/*' --uses 20 --out shop.join
meshadm token create --operator anna --role editor --namespace shop --out anna.login
""",
)
@click.option("--service", "service_text", metavar="NAME.NAMESPACE", help="What a host becomes.")
@click.option(
    "--selector",
    "selector_text",
    metavar="NAMESPACE/*",
    help="Any service of a namespace: the host names the one that it wants.",
)
@click.option("--operator", metavar="NAME", help="Who logs in with it, instead of a host.")
@click.option("--role", type=click.Choice(ROLES), help="Role of an operator who is new.")
@click.option("--namespace", "namespaces", multiple=True, help="Where a new editor may write; may be repeated.")
@click.option("--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="How often it can be used.")
@click.option("--ttl", type=Duration(), default="1h", show_default=True, help="How long the token can be used.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the file there, for its owner only.  [default: standard output]",
)
@click.option("--force", is_flag=True, help="Write over an existing file.")
@connects
def create(
    connect: Connect,
    service_text: str | None,
    selector_text: str | None,
    operator: str | None,
    role: str | None,
    namespaces: tuple[str, ...],
    uses: int,
    ttl: float,
    out: Path | None,
    force: bool,
) -> None:
    """Make a join file, or a login file for an operator: a token, the replicas' addresses and how to know them.

    It is a secret until it is used up. The service need not exist yet.
    """
    selector = _selector(service_text, selector_text, operator)
    if selector is not None and (role or namespaces):
        raise InvalidInput(Problem("--role", "only an operator has a role", remedy="give --operator, or leave it out"))
    if out is not None:
        private_file.check_place(out, force=force)
    request = pb.CreateTokenRequest(
        request_id=new_request_id(),
        namespace=selector.namespace if selector else "",
        service=(selector.name or ANY) if selector else "",
        ttl_seconds=max(1, int(ttl)),
        uses=uses,
        operator=operator or "",
        role=role or "",
        namespaces=namespaces,
    )

    async def ask(client: MeshClient) -> pb.CreateTokenReply:
        return await client.create_token(request)

    reply = connect.run(ask)
    data = joinfile.dump(_join_file(reply, selector) if selector else _login_file(reply, operator or ""))
    until = datetime.fromtimestamp(reply.expires, UTC)
    whose = f"as a sidecar of {_words(selector)}" if selector else f"as operator {operator}"
    often = "one use" if uses == 1 else f"{uses} uses"
    said = f"for {often} until {until:%Y-%m-%d %H:%M} UTC, {whose}"
    if out is None:
        click.echo(data, nl=False)
        output.notice(said)
        return
    private_file.write(out, data)
    output.line(f"{out} is {said}")


def _selector(service: str | None, selector: str | None, operator: str | None) -> ServiceSelector | None:
    """None: it is for an operator. Raises InvalidInput unless exactly one of them is given."""
    if sum(one is not None for one in (service, selector, operator)) != 1:
        remedy = "give one of --service, --selector and --operator"
        raise InvalidInput(Problem("token", "nobody or several are to use it", remedy=remedy))
    if service is not None:
        ref = ServiceRef.parse(service)
        return ServiceSelector(ref.namespace, ref.name)
    return ServiceSelector.parse(selector) if selector is not None else None


def _words(selector: ServiceSelector) -> str:
    return str(selector.only) if selector.only else f"any service of {selector.namespace}"


def _join_file(reply: pb.CreateTokenReply, selector: ServiceSelector) -> JoinFile:
    return JoinFile(
        trust_domain=reply.trust_domain,
        namespace=selector.namespace,
        service=selector.name or ANY,
        token=reply.token,
        expires=reply.expires,
        join_endpoints=tuple(reply.join_endpoints),
        api_endpoints=tuple(reply.api_endpoints),
        trust_bundle=reply.trust_bundle,
    )


def _login_file(reply: pb.CreateTokenReply, operator: str) -> LoginFile:
    return LoginFile(
        trust_domain=reply.trust_domain,
        operator=operator,
        token=reply.token,
        expires=reply.expires,
        join_endpoints=tuple(reply.join_endpoints),
        api_endpoints=tuple(reply.api_endpoints),
        trust_bundle=reply.trust_bundle,
    )


@token.command(
    "list",
    cls=MeshCommand,
    short_help="Show the tokens that there are.",
    example="""
meshadm token list
meshadm token list -o json
""",
)
@formats("table", "json", "yaml")
@connects
def list_tokens(connect: Connect, form: Format) -> None:
    """Show each token's id, what it is for, the uses that are left, and who made and used it; never the token.

    One that can't be used any more stays in the list for a day.
    """

    async def ask(client: MeshClient) -> pb.ListTokensReply:
        return await client.call("/mesh.v1.Tokens/List", pb.ListTokensRequest(), pb.ListTokensReply)

    reply = connect.run(ask)
    if form == "table":
        output.show_table(token_table(reply.tokens, time.time()))
    else:
        output.show_plain(plain_tokens(reply), form)


@token.command(
    "revoke",
    cls=MeshCommand,
    short_help="Make a token worthless.",
    example="""
meshadm token revoke 3f9c0a1b2c3d4e5f
""",
)
@click.argument("token_id", metavar="ID")
@connects
def revoke(connect: Connect, token_id: str) -> None:
    """From then on nobody gets in by it. Who got in before stays in."""
    request = pb.RevokeTokenRequest(request_id=new_request_id(), id=token_id)

    async def ask(client: MeshClient) -> pb.RevokeTokenReply:
        return await client.call("/mesh.v1.Tokens/Revoke", request, pb.RevokeTokenReply, write=True)

    output.line(f"token {token_id} is revoked at revision {connect.run(ask).revision}")
