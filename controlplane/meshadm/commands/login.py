"""`login`, `logout`: as whom meshadm calls the replicas."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.meshadm import login_store, output
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.connection import Connection
from controlplane.meshadm.options import Duration, MeshCommand
from schemas import codec, joinfile
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, Problem, Unavailable
from schemas.joinfile import LoginFile
from schemas.records import TrustBundle
from spiffe.bundle import certificates
from spiffe.bundle import pem as to_pem
from trio_grpc import TLS


@click.command(
    "login",
    cls=MeshCommand,
    short_help="Become an operator on this machine.",
    example="""
meshadm login anna.login
ssh admin@host1 cat anna.login | meshadm login -
""",
)
@click.argument("file", type=click.File("rb"))
@click.option(
    "--request-timeout", type=Duration(), default="10s", show_default=True, help="How long to wait for an answer."
)
def login(file: BinaryIO, request_timeout: float) -> None:
    """Use a login file (`meshadm token create --operator`) up, and keep the identity that it gives for 12 hours.

    Commands without --identity use it from then on, and renew it when half of its life is over. The identity is in
    ~/.config/meshadm, for you alone.
    """
    path = _path()
    held = joinfile.load_login(file.read(), getattr(file, "name", "standard input"))
    bundle = to_pem(certificates(codec.decode(held.trust_bundle, TrustBundle, "trust bundle of the login file")))
    if not bundle or not held.join_endpoints:
        raise InvalidInput(Problem("login file", "names no replica to trust", remedy="make a new one"))
    login_store.check_writable(path)
    reply, key = trio.run(_ask, held, TLS(bundle), request_timeout)
    made = login_store.login_of(reply, key, time.time())
    login_store.save(path, made)
    until = datetime.fromtimestamp(made.expires, UTC)
    may = reply.operator.role + (f" of {', '.join(reply.operator.namespaces)}" if reply.operator.namespaces else "")
    output.line(f"logged in as {made.spiffe_id} ({may}) until {until:%Y-%m-%d %H:%M} UTC; kept in {path}")


async def _ask(held: LoginFile, tls: TLS, seconds: float) -> tuple[pb.OperatorReply, ec.EllipticCurvePrivateKey]:
    key = login_store.new_key()
    request = pb.LoginRequest(token=held.token, csr=login_store.signing_request(key))
    with MeshClient(Connection(held.join_endpoints, tls), seconds, output.notice) as client:
        try:
            return await client.call("/mesh.v1.Identity/Login", request, pb.OperatorReply), key
        except Unavailable as error:
            if error.outcome_unknown:
                raise
            raise login_store.outdated(error, "this login file") from error


@click.command(
    "logout",
    cls=MeshCommand,
    short_help="Forget the identity of `login`.",
    example="""
meshadm logout
""",
)
def logout() -> None:
    """Delete the identity that `meshadm login` keeps here; `operator revoke` ends all of them, everywhere."""
    path = _path()
    try:
        path.unlink()
    except FileNotFoundError:
        output.line("nobody was logged in")
    except OSError as error:
        raise InvalidInput(Problem(str(path), f"can't be deleted: {error.strerror}")) from error
    else:
        output.line(f"{path} is deleted")


def _path() -> Path:
    path = login_store.path_of(os.environ)
    if path is None:
        raise InvalidInput(Problem("login", "there is no home directory to keep it in", remedy="set HOME"))
    return path
