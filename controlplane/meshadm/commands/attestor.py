"""`attestor`: hosts that join with a certificate that they have already."""

import time
from pathlib import Path
from typing import BinaryIO

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.meshadm import output, private_file
from controlplane.meshadm.access import attestor_table, plain_attestors
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from schemas import codec, joinfile
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt, InvalidInput, Problem
from schemas.joinfile import JoinFile
from schemas.records import HostAuthority


@click.group("attestor", short_help="Show and change how hosts may join without a token.")
def attestor() -> None:
    """Ways to join besides tokens. Where there is no host authority, hosts join by tokens only."""


@attestor.command(
    "list",
    cls=MeshCommand,
    short_help="Show the host authorities and their rules.",
    example="""
meshadm attestor list
meshadm attestor list -o yaml
""",
)
@formats("table", "json", "yaml")
@connects
def list_attestors(connect: Connect, form: Format) -> None:
    """Show each host authority with what the holders of its certificates may be."""

    async def ask(client: MeshClient) -> pb.ListAttestorsReply:
        return await client.call("/mesh.v1.Attestors/List", pb.ListAttestorsRequest(), pb.ListAttestorsReply)

    reply = connect.run(ask)
    found: list[HostAuthority] = []
    for data in reply.host_authorities:
        try:
            found.append(codec.decode(data, HostAuthority, "host authority"))
        except Corrupt as error:
            output.notice(f"left out: {error}")
    if form == "table":
        output.show_table(attestor_table(found, time.time()))
    else:
        output.show_plain(plain_attestors(found, reply.revision), form)


@attestor.group("x509", short_help="Host authorities.")
def x509_group() -> None:
    """Authorities whose certificates hosts may show, and as what they then join."""


@x509_group.command(
    "add",
    cls=MeshCommand,
    short_help="Let hosts join with certificates of a CA.",
    example="""
meshadm attestor x509 add corp --ca corp.pem --allow 'dns:*.shop.example.com=shop/*'
meshadm attestor x509 add corp --ca corp.pem --allow cn:db1=shop/payments --allow dns:web1.example.com=shop/web
""",
)
@click.argument("name")
@click.option(
    "--ca",
    "ca_files",
    type=click.File("rb"),
    multiple=True,
    required=True,
    help="PEM certificates of the CA that signs the hosts' certificates; may be repeated.",
)
@click.option(
    "--allow",
    "rules",
    multiple=True,
    required=True,
    metavar="MATCH=SELECTOR",
    help="dns:NAME, dns:*.DOMAIN, cn:NAME, cn:*.DOMAIN, uri:URI or any = NAMESPACE/SERVICE or NAMESPACE/*; repeatable.",
)
@connects
def add(connect: Connect, name: str, ca_files: tuple[BinaryIO, ...], rules: tuple[str, ...]) -> None:
    """In place of the one of that name. Only the names in the certificate count, and only those that a rule names.

    Whoever controls that CA, or a host whose certificate a rule matches, gets the identity that the rule names.
    """
    request = pb.PutAttestorRequest(
        request_id=new_request_id(),
        name=name,
        x509_authorities=[der for file in ca_files for der in _certificates(file.read(), file.name)],
        rules=[_rule(text) for text in rules],
    )

    async def ask(client: MeshClient) -> pb.PutAttestorReply:
        return await client.call("/mesh.v1.Attestors/Put", request, pb.PutAttestorReply, write=True)

    output.line(f"host authority {name} counts from revision {connect.run(ask).revision} on")


@x509_group.command(
    "remove",
    cls=MeshCommand,
    short_help="Let no more hosts join with certificates of a CA.",
    example="""
meshadm attestor x509 remove corp
""",
)
@click.argument("name")
@connects
def remove(connect: Connect, name: str) -> None:
    """Nobody joins by it from then on. Who has joined goes on renewing its identity."""
    request = pb.DeleteAttestorRequest(request_id=new_request_id(), name=name)

    async def ask(client: MeshClient) -> pb.DeleteAttestorReply:
        return await client.call("/mesh.v1.Attestors/Delete", request, pb.DeleteAttestorReply, write=True)

    output.line(f"host authority {name} is removed at revision {connect.run(ask).revision}")


@attestor.command(
    "join-file",
    cls=MeshCommand,
    short_help="Write a join file without a token.",
    example="""
meshadm attestor join-file > mesh.join
""",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the file there.  [default: standard output]",
)
@click.option("--force", is_flag=True, help="Write over an existing file.")
@connects
def join_file(connect: Connect, out: Path | None, force: bool) -> None:
    """Where hosts join and how they know a replica: for hosts that show a certificate. The same file for all of them.

    Nothing in it is secret, but hosts trust whom it names: put it in place as you do with other configuration.
    """
    if out is not None:
        private_file.check_place(out, force=force)

    async def ask(client: MeshClient) -> pb.WhereReply:
        return await client.call("/mesh.v1.Attestors/Where", pb.WhereRequest(), pb.WhereReply)

    reply = connect.run(ask)
    data = joinfile.dump(
        JoinFile(
            trust_domain=reply.trust_domain,
            join_endpoints=tuple(reply.join_endpoints),
            api_endpoints=tuple(reply.api_endpoints),
            trust_bundle=reply.trust_bundle,
        )
    )
    if out is None:
        click.echo(data, nl=False)
    else:
        private_file.write(out, data)
        output.line(f"{out} is for any number of hosts")


def _certificates(data: bytes, source: str) -> list[bytes]:
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise InvalidInput(
            Problem(source, "not PEM certificates", remedy="give the CA's certificate in PEM")
        ) from error
    return [one.public_bytes(Encoding.DER) for one in found]


def _rule(text: str) -> pb.HostRule:
    """A URI may have a '=' too, a selector may not."""
    match, equals, selector = text.rpartition("=")
    if not equals or not match:
        raise InvalidInput(Problem(f"--allow {text!r}", "not understood", remedy="write MATCH=NAMESPACE/SERVICE"))
    return pb.HostRule(match=match, selector=selector)
