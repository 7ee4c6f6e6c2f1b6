"""`ca …`: the life of the mesh's CA keys."""

import os
import time
from pathlib import Path

import click
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.meshadm import authority, messages, output
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.errors import RotationWaits
from controlplane.meshadm.options import Connect, Duration, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, Problem
from trio_grpc.background import background_nursery

_ROLES = click.Choice(("root", "issuing", "jwt"))
_PATH = "/mesh.v1.Authority/"

_force = click.option(
    "--force", is_flag=True, help="Pass a closed gate: whoever holds it back may be cut off. It is recorded."
)


@click.group("ca", short_help="Rotate the CA's keys, and see them.")
def ca() -> None:
    """The life of CA keys: prepared, active, retired, gone. `rotate` takes all steps, each when its gate opens."""


@ca.command("status", cls=MeshCommand, example="meshadm ca status\nmeshadm ca status -o json")
@formats("table", "json", "yaml")
@connects
def status(connect: Connect, form: Format) -> None:
    """Show each CA key, the replicas, and what the rotation under way is waiting for."""

    async def ask(client: MeshClient) -> pb.AuthorityStatus:
        reply = await client.call(f"{_PATH}Status", pb.AuthorityStatusRequest(), pb.AuthorityStatus)
        await connect.renew_login()
        return reply

    found = connect.run(ask)
    if form != "table":
        output.show_plain(messages.plain(found), form)
        return
    now = time.time()
    output.show_table(authority.keys_table(found, now))
    for text in authority.status_lines(found, now):
        output.line(text)


@ca.command(
    "rotate",
    cls=MeshCommand,
    example="""
meshadm ca rotate
meshadm ca rotate issuing --reason "laptop with the kek was stolen"
meshadm ca rotate root --no-wait
meshadm ca rotate --stop
""",
)
@click.argument("role", type=_ROLES, default="root")
@click.option("--reason", default="", help="Why; for the record.")
@_force
@click.option("--no-wait", is_flag=True, help="Start it and leave; else stay until it is done, and show progress.")
@click.option("--timeout", type=Duration(), default="1d", show_default=True, help="How long to stay.")
@click.option("--stop", is_flag=True, help="Take no further step of the rotation under way; keys stay as they are.")
@connects
def rotate(connect: Connect, role: str, reason: str, force: bool, no_wait: bool, timeout: float, stop: bool) -> None:
    """Replace the root and the issuing key (`root`, the default), the issuing key alone, or the JWT key.

    Replicas take the steps, whether this command stays or not. It takes as long as an SVID lives: until then, hosts
    that are not connected may come back with a certificate of the old key. Ends with 4 where a rotation is under way
    already, and with 7 where --timeout is over first.
    """
    if stop:
        request = pb.CaStepRequest(request_id=new_request_id())
        _step(connect, "StopRotation", request, "stopped the rotation; keys stay as they are")
        return
    if force:
        _warn("every step is taken at once: hosts that have not followed are cut off, and have to join anew")

    async def work(client: MeshClient) -> None:
        start = pb.RotateRequest(request_id=new_request_id(), role=role, force=force, reason=reason)
        reply = await client.call(f"{_PATH}Rotate", start, pb.CaStepReply, write=True)
        output.line(f"started at revision {reply.revision}: {', '.join(reply.keys)} will be replaced")
        if not no_wait:
            await _follow(connect, client, timeout)

    connect.run(work)


async def _follow(connect: Connect, client: MeshClient, timeout: float) -> None:
    """Renews the login as well after each step: between two of them it comes to know the new root."""
    told: list[str] = []
    step, stepped = "", trio.Event()

    async def keep_login() -> None:
        nonlocal stepped
        while True:
            await stepped.wait()
            stepped = trio.Event()
            await connect.renew_login()

    def take(progress: pb.RotationProgress) -> bool:
        nonlocal step
        if progress.next != step:
            step = progress.next
            stepped.set()
        lines = authority.progress_lines(progress, time.time())
        if lines != told:
            told[:] = lines
            for text in lines:
                output.line(text)
        return progress.done

    with trio.move_on_after(timeout) as patience:
        async with background_nursery() as nursery:
            nursery.start_soon(keep_login)
            await client.follow(f"{_PATH}Follow", pb.FollowRotationRequest(), pb.RotationProgress, take)
        await connect.renew_login()
    if patience.cancelled_caught:
        raise RotationWaits("the rotation goes on without us: follow it with `meshadm ca status`\n" + "\n".join(told))


@ca.command("prepare", cls=MeshCommand, example="meshadm ca prepare root\nmeshadm ca prepare issuing")
@click.argument("role", type=_ROLES)
@connects
def prepare(connect: Connect, role: str) -> None:
    """Make a key and publish what verifies it; it signs nothing yet. `root` makes an issuing key below it too."""
    _step(connect, "Prepare", pb.CaStepRequest(request_id=new_request_id(), role=role), "prepared")


@ca.command("activate", cls=MeshCommand, example="meshadm ca activate mesh-issuing-0123456789abcdef")
@click.argument("key")
@_force
@connects
def activate(connect: Connect, key: str, force: bool) -> None:
    """Sign with a prepared key from now on; its root becomes active, their predecessors are retired.

    Refused (4) while a connected sidecar or a replica does not trust by a bundle that has the new root, and while a
    sidecar that fell silent without it may serve on.
    """
    if force:
        _warn("sidecars that do not trust the new root yet will refuse those that have renewed")
    request = pb.CaStepRequest(request_id=new_request_id(), key=key, force=force)
    _step(connect, "Activate", request, "activated, or retired by it:")


@ca.command("retire", cls=MeshCommand, example="meshadm ca retire mesh-issuing-0123456789abcdef")
@click.argument("key")
@connects
def retire(connect: Connect, key: str) -> None:
    """Give a prepared key up. An active one is retired by activating its successor."""
    _step(connect, "Retire", pb.CaStepRequest(request_id=new_request_id(), key=key), "given up")


@ca.command("remove", cls=MeshCommand, example="meshadm ca remove mesh-root-0123456789abcdef")
@click.argument("key")
@_force
@connects
def remove(connect: Connect, key: str, force: bool) -> None:
    """Remove a retired key: what chains to it is refused from then on. A root takes what it signed along.

    Refused (4) while anybody may still hold a live certificate that chains to it.
    """
    if force:
        _warn("whoever still has a certificate that chains to it is cut off, and has to join anew")
    _step(connect, "Remove", pb.CaStepRequest(request_id=new_request_id(), key=key, force=force), "removed")


@ca.command("csr", cls=MeshCommand, example="meshadm ca csr --out mesh.csr")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="[default: standard output]")
@connects
def csr(connect: Connect, out: Path | None) -> None:
    """Make an issuing key whose certificate comes from your own CA, and write the request for it (PEM)."""

    async def ask(client: MeshClient) -> pb.CaRequestReply:
        request = pb.CaStepRequest(request_id=new_request_id())
        return await client.call(f"{_PATH}Request", request, pb.CaRequestReply, write=True)

    reply = connect.run(ask)
    text = x509.load_der_x509_csr(reply.csr).public_bytes(Encoding.PEM)
    if out is None:
        click.echo(text, nl=False)
    else:
        try:
            out.write_bytes(text)
        except OSError as error:
            raise InvalidInput(Problem(str(out), f"can't be written: {error.strerror}")) from error
    output.notice(f"have it signed as a CA certificate with the same URI SAN, then `meshadm ca install` ({reply.key})")


@ca.command("install", cls=MeshCommand, example="meshadm ca install -f chain.pem")
@click.option(
    "-f",
    "--file",
    "file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="PEM: the issuing certificate, the intermediates above it, the root.",
)
@connects
def install(connect: Connect, file: Path) -> None:
    """Give the requested key the certificate that your CA has issued. It is checked, and signs nothing yet."""
    try:
        chain = [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(file.read_bytes())]
    except OSError as error:
        raise InvalidInput(Problem(str(file), f"can't be read: {error.strerror}")) from error
    except ValueError as error:
        raise InvalidInput(Problem(str(file), "holds no certificates in PEM")) from error
    request = pb.InstallRequest(request_id=new_request_id(), chain=chain)
    _step(connect, "Install", request, "installed; activate it with `meshadm ca activate`:")


@ca.command("reseal", cls=MeshCommand, example="meshadm ca reseal --new-kek /etc/mesh/kek.new")
@click.option(
    "--new-kek",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The new key-encryption key, which every replica has as `nextKek` by now. It is not sent.",
)
@_force
@connects
def reseal(connect: Connect, new_kek: Path, force: bool) -> None:
    """Seal all CA keys under another key-encryption key, in one transaction."""
    from controlplane.ca.keystore import read_kek  # only this command needs the CA

    if force:
        _warn("replicas without the new key-encryption key can't sign after their next start")
    kek = read_kek(new_kek, os.environ)
    request = pb.ResealRequest(request_id=new_request_id(), kek_id=kek.id, force=force)
    _step(connect, "Reseal", request, f"sealed under {kek.id}:")


def _warn(what: str) -> None:
    output.notice(f"{click.style('FORCE', fg='red')}: {what}; it is recorded with your name")


def _step(
    connect: Connect, rpc: str, request: pb.CaStepRequest | pb.InstallRequest | pb.ResealRequest, done: str
) -> None:
    async def ask(client: MeshClient) -> pb.CaStepReply:
        reply = await client.call(f"{_PATH}{rpc}", request, pb.CaStepReply, write=True)
        await connect.renew_login()
        return reply

    reply = connect.run(ask)
    output.line(f"{done} {', '.join(reply.keys)} (revision {reply.revision})")
    for hold in reply.passed:
        output.notice(f"FORCED past {authority.hold_line(hold, time.time())}")
