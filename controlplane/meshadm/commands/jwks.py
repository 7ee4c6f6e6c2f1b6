"""`jwks …`: the keys of token issuers that replicas fetch."""

import time

import click

from controlplane.meshadm import jwks as words
from controlplane.meshadm import output
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.errors import NotFetched
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from schemas.api import mesh_pb2 as pb

_PATH = "/mesh.v1.KeySets/"


@click.group("jwks", short_help="Keys of token issuers that replicas fetch.")
def jwks() -> None:
    """Keys of token issuers: `RequestAuthentication` says where they are; replicas fetch them for all sidecars."""


@jwks.command(
    "status",
    cls=MeshCommand,
    example="""
meshadm jwks status
meshadm jwks status -n shop -o json
""",
)
@click.option("-n", "--namespace", default="", help="Only what objects of this namespace name.  [default: all]")
@formats("table", "json", "yaml")
@connects
def status(connect: Connect, namespace: str, form: Format) -> None:
    """Show each place that keys are fetched from: when they were last, and why they could not be had, if so.

    Ends with 5 where some could not be had; the last good ones stay in force then.
    """
    request = pb.KeySetsRequest(namespace=namespace)

    async def ask(client: MeshClient) -> pb.KeySetsReply:
        return await client.call(f"{_PATH}Status", request, pb.KeySetsReply)

    reply = connect.run(ask)
    if form == "table":
        output.show_table(words.table(reply, time.time()))
        for text in words.problems(reply.key_sets):
            output.line(text)
    else:
        output.show_plain(words.plain(reply), form)
    if any(one.problem for one in reply.key_sets):
        raise NotFetched("not all keys could be had; the last good ones stay in force")


@jwks.command("fetch", cls=MeshCommand, example="meshadm jwks fetch https://login.example.com/keys")
@click.argument("uri")
@formats("table", "json", "yaml")
@connects
def fetch(connect: Connect, uri: str, form: Format) -> None:
    """Fetch the keys at URI now, not when they are due: an issuer has changed them unannounced.

    Ends with 5 where they could not be had; the last good ones stay in force then.
    """
    request = pb.FetchKeySetsRequest(uri=uri)

    async def ask(client: MeshClient) -> pb.KeySetsReply:
        return await client.call(f"{_PATH}Fetch", request, pb.KeySetsReply)

    reply = connect.run(ask)
    if form != "table":
        output.show_plain(words.plain(reply), form)
    failed = words.problems(reply.key_sets)
    if failed:
        raise NotFetched("\n".join(failed))
    if form == "table":
        for one in reply.key_sets:
            for text in words.words(one, time.time()):
                output.line(text)
