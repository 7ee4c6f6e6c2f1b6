"""`apply`, `delete`, `validate`: change sets, and the check of one."""

import click

from controlplane.meshadm import manifests, output, render
from controlplane.meshadm.changes import Manner, delete_of, put_of, send
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.kinds import DEFAULT_NAMESPACE, ref_of
from controlplane.meshadm.options import Connect, Duration, KindWord, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.table import count, printable
from schemas.api import mesh_pb2 as pb

_files = click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="FILE|DIR|-",
    help="YAML or JSON with any number of objects; a directory: all of its .yaml, .yml and .json; -: standard input."
    " Repeat it for more.",
)
_recursive = click.option("-R", "--recursive", is_flag=True, help="The directories inside of directories too.")
_wait = click.option(
    "--wait", is_flag=True, help="Return when every connected sidecar runs the change; fail when one refuses it."
)
_timeout = click.option(
    "--timeout", type=Duration(), default="60s", show_default=True, help="Bound on the whole, the wait included."
)
_force = click.option(
    "--force", is_flag=True, help="Refuse plaintext although somebody still sends it: it is cut off, and recorded."
)
_dry_run = click.option("--dry-run", is_flag=True, help="Let a replica check and plan it; write nothing.")


@click.command(
    "apply",
    cls=MeshCommand,
    short_help="Create and update objects, all or none.",
    example="""
meshadm apply -f shop.yaml --wait
meshadm apply -f deploy/examples/shop/ --dry-run
generate-config | meshadm apply -f - -o json
""",
)
@_files
@_recursive
@_wait
@_timeout
@_dry_run
@_force
@formats("table", "json", "yaml")
@connects
def apply(
    connect: Connect,
    files: tuple[str, ...],
    recursive: bool,
    wait: bool,
    timeout: float,
    dry_run: bool,
    force: bool,
    form: Format,
) -> None:
    """Create and update objects, all of them in one change or none.

    An object whose metadata has a revision is only changed if it still is at that revision.
    """
    documents = manifests.load(_required(files), recursive=recursive)
    send(connect, [put_of(document) for document in documents], Manner(dry_run, wait, timeout, form, force))


@click.command(
    "delete",
    cls=MeshCommand,
    short_help="Delete objects, all of them or none.",
    example="""
meshadm delete service orders -n shop
meshadm delete -f shop.yaml --wait
""",
)
@click.argument("kind", type=KindWord(), required=False)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="Namespace of NAME.")
@_files
@_recursive
@_wait
@_timeout
@_dry_run
@_force
@formats("table", "json", "yaml")
@connects
def delete(
    connect: Connect,
    kind: str | None,
    names: tuple[str, ...],
    namespace: str,
    files: tuple[str, ...],
    recursive: bool,
    wait: bool,
    timeout: float,
    dry_run: bool,
    force: bool,
    form: Format,
) -> None:
    """Delete objects by kind and name, or all that stand in files; all of them or none."""
    if bool(kind) == bool(files):
        raise click.UsageError("name what to delete: KIND NAME..., or -f FILE")
    if kind and not names:
        raise click.UsageError(f"name the {kind} to delete")
    if kind:
        changes = [delete_of(ref_of(kind, namespace, name), "command line") for name in dict.fromkeys(names)]
    else:
        documents = manifests.load(files, recursive=recursive)
        changes = [delete_of(document.object.ref, document.source) for document in documents]
    send(connect, changes, Manner(dry_run, wait, timeout, form, force))


@click.command(
    "validate",
    cls=MeshCommand,
    short_help="Check objects, write nothing.",
    example="""
meshadm validate -f shop.yaml
meshadm validate -f shop.yaml --server
""",
)
@_files
@_recursive
@click.option("--server", is_flag=True, help="Ask a replica too: references, limits and conflicts with what is there.")
@formats("table", "json", "yaml")
@connects
def validate(connect: Connect, files: tuple[str, ...], recursive: bool, server: bool, form: Format) -> None:
    """Check objects without writing anything; needs no replica unless --server is given."""
    documents = manifests.load(_required(files), recursive=recursive)
    if server:
        request = pb.ApplyRequest(request_id=new_request_id(), changes=[put_of(one) for one in documents], dry_run=True)

        async def ask(client: MeshClient) -> pb.ApplyReply:
            return await client.apply(request, connect.call_seconds)

        reply = connect.run(ask)
        if form != "table":
            output.show_plain(render.plain_outcomes(reply, dry_run=True), form)
            return
    if form == "table":
        for document in documents:
            output.line(printable(f"{document.source}: {document.object.ref} is valid"))
        output.line(f"{count(len(documents), 'object is', 'objects are')} valid{'' if server else ' (schema only)'}")
        return
    found = [
        {"source": one.source, "kind": one.object.ref.kind, "namespace": one.object.ref.namespace,
         "name": one.object.ref.name}
        for one in documents
    ]  # fmt: skip
    output.show_plain({"valid": found}, form)


def _required(files: tuple[str, ...]) -> tuple[str, ...]:
    if not files:
        raise click.UsageError("nothing to read: give -f FILE, -f DIR or -f -")
    return files
