"""`get`, `describe`: what is in the mesh."""

import time

import click

from controlplane.meshadm import describe as description
from controlplane.meshadm import output, render
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.kinds import DEFAULT_NAMESPACE, is_namespaced, ref_of
from controlplane.meshadm.options import Connect, KindWord, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.values import Listing, Stored
from schemas.api import mesh_pb2 as pb


@click.command(
    "get",
    cls=MeshCommand,
    example="""
meshadm get services -A
meshadm get svc orders -n shop -o yaml
meshadm get authz -n shop -o json
""",
)
@click.argument("kind", type=KindWord())
@click.argument("name", required=False)
@click.option("-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="Of this namespace.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Of all namespaces.")
@formats("table", "json", "yaml")
@connects
def get(connect: Connect, kind: str, name: str | None, namespace: str, all_namespaces: bool, form: Format) -> None:
    """Show one object, or all of a kind.

    What -o yaml shows can be applied again: its metadata.revision makes that fail if somebody changed it meanwhile.
    """
    if name is not None:
        if all_namespaces:
            raise click.UsageError("a NAME is of one namespace: use -n instead of -A")
        ref = ref_of(kind, namespace, name)
        stored = connect.run(lambda client: client.get(ref))
        _show_one(kind, stored, form)
        return
    where = None if all_namespaces or not is_namespaced(kind) else namespace
    listing = connect.run(lambda client: client.list_objects(kind, where))
    _show_list(kind, listing, where, form)


def _show_one(kind: str, stored: Stored, form: Format) -> None:
    if form == "table":
        output.show_table(render.object_table(kind, [stored], ""))
    else:
        output.show_plain(render.plain_object(stored), form)


def _show_list(kind: str, listing: Listing, namespace: str | None, form: Format) -> None:
    if form == "table":
        where = f"in namespace {namespace} (-A: all)" if namespace else "in the mesh"
        output.show_table(render.object_table(kind, listing.objects, where))
    elif form == "json":
        output.show_plain(render.plain_list(listing), form)
    else:
        output.show_documents([render.plain_object(stored) for stored in listing.objects])
    for text in listing.unreadable:
        output.notice(f"left out: {text}")


@click.command(
    "describe",
    cls=MeshCommand,
    short_help="Show an object and what belongs to it.",
    example="""
meshadm describe service orders -n shop
meshadm describe authz web-may-order -n shop
""",
)
@click.argument("kind", type=KindWord())
@click.argument("name")
@click.option("-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="Its namespace.")
@formats("table", "json", "yaml")
@connects
def describe(connect: Connect, kind: str, name: str, namespace: str, form: Format) -> None:
    """Show an object with what belongs to it.

    Of a service: the policies for it, the services that depend on it, its sidecars. Of a policy: what it says. Of a
    RequestAuthentication: how it goes with fetching keys.
    """
    ref = ref_of(kind, namespace, name)

    async def ask(client: MeshClient) -> description.Subject:
        stored = await client.get(ref)
        if kind == "RequestAuthentication":
            request = pb.KeySetsRequest(namespace=ref.namespace)
            reply = await client.call("/mesh.v1.KeySets/Status", request, pb.KeySetsReply)
            mine = tuple(one for one in reply.key_sets if f"{ref.namespace}/{ref.name}" in one.objects)
            return description.Subject(stored, key_sets=mine)
        if kind != "Service":
            return description.Subject(stored)
        policies: list[Stored] = []
        for policy_kind in description.POLICY_KINDS:
            policies += (await client.list_objects(policy_kind, ref.namespace)).objects
        services = (await client.list_objects("Service", None)).objects
        return description.Subject(stored, services, tuple(policies), await client.sidecars())

    subject = connect.run(ask)
    if form == "table":
        for text in description.lines(subject, time.time()):
            output.line(text)
    else:
        output.show_plain(description.plain(subject, time.time()), form)
