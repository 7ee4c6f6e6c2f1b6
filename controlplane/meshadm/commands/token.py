"""`token create`: how a host becomes a sidecar."""

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import click

from controlplane.meshadm import output
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.options import Connect, Duration, MeshCommand, connects
from schemas import joinfile
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, Problem
from schemas.joinfile import JoinFile
from schemas.names import ServiceRef


@click.group("token", short_help="Make join tokens for hosts.")
def token() -> None:
    """Join tokens: each lets one host become a sidecar of one service, once."""


@token.command(
    "create",
    cls=MeshCommand,
    example="""
meshadm token create --service orders.shop --out orders.join
meshadm token create --service orders.shop --ttl 15m | ssh host1 'umask 77; cat > /etc/mesh/sidecars/orders.join'
""",
)
@click.option("--service", "service_text", required=True, metavar="NAME.NAMESPACE", help="What the host becomes.")
@click.option("--ttl", type=Duration(), default="1h", show_default=True, help="How long the token can be used.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the join file there, for its owner only.  [default: standard output]",
)
@click.option("--force", is_flag=True, help="Write over an existing file.")
@connects
def create(connect: Connect, service_text: str, ttl: float, out: Path | None, force: bool) -> None:
    """Make a join file: a token for one use, the replicas' addresses and how to know them.

    It is a secret until it is used. The service need not exist yet.
    """
    service = ServiceRef.parse(service_text)
    if out is not None:
        _check_place(out, force)
    request = pb.CreateTokenRequest(
        request_id=new_request_id(),
        namespace=service.namespace,
        service=service.name,
        ttl_seconds=max(1, int(ttl)),
    )

    async def ask(client: MeshClient) -> pb.CreateTokenReply:
        return await client.create_token(request)

    reply = connect.run(ask)
    data = joinfile.dump(
        JoinFile(
            trust_domain=reply.trust_domain,
            namespace=service.namespace,
            service=service.name,
            token=reply.token,
            expires=reply.expires,
            join_endpoints=tuple(reply.join_endpoints),
            api_endpoints=tuple(reply.api_endpoints),
            trust_bundle=reply.trust_bundle,
        )
    )
    until = datetime.fromtimestamp(reply.expires, UTC)
    if out is None:
        click.echo(data, nl=False)
        output.notice(f"for one use until {until:%Y-%m-%d %H:%M} UTC, as a sidecar of {service}")
        return
    _write_for_owner(out, data)
    output.line(f"{out} is for one use until {until:%Y-%m-%d %H:%M} UTC, as a sidecar of {service}")


def _check_place(out: Path, force: bool) -> None:
    """Before a token is made that could not be kept."""
    if out.exists() and not force:
        raise InvalidInput(Problem(str(out), "exists already", remedy="name another file, or give --force"))
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise InvalidInput(
            Problem(str(out.parent), "no directory that can be written to", remedy="make it, or name another file")
        )


def _write_for_owner(out: Path, data: bytes) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    beside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(beside, out)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InvalidInput(Problem(str(out), f"can't be written: {error.strerror}")) from error
