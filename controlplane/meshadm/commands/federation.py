"""`federation …` and `bundle …`: other trust domains' bundles, and our own."""

import time

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.meshadm import messages, output
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.errors import NotFederated
from controlplane.meshadm.federation import domain_lines, domains_table, plain_status
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from schemas.api import mesh_pb2 as pb
from spiffe.jwks import decode

_PATH = "/mesh.v1.Federation/"


@click.group("federation", short_help="Other trust domains whose bundles are followed.")
def federation() -> None:
    """Other trust domains: `TrustBundle` objects say which; replicas fetch their bundles and hand them to sidecars."""


@federation.command(
    "status",
    cls=MeshCommand,
    example="""
meshadm federation status
meshadm federation status -o json
""",
)
@formats("table", "json", "yaml")
@connects
def status(connect: Connect, form: Format) -> None:
    """Show each federated trust domain: its bundle, where it comes from, and why it could not be had, if so.

    Ends with 5 where one could not be had.
    """

    async def ask(client: MeshClient) -> pb.FederationStatusReply:
        return await client.call(f"{_PATH}Status", pb.FederationStatusRequest(), pb.FederationStatusReply)

    reply = connect.run(ask)
    if form == "table":
        output.show_table(domains_table(reply, time.time()))
        for text in domain_lines(reply.domains):
            output.line(text)
    else:
        output.show_plain(plain_status(reply), form)
    if any(one.problem for one in reply.domains):
        raise NotFederated("not every trust domain's bundle could be had; the last good ones stay in force")


@federation.command("fetch", cls=MeshCommand, example="meshadm federation fetch partner.example")
@click.argument("trust_domain")
@formats("table", "json", "yaml")
@connects
def fetch(connect: Connect, trust_domain: str, form: Format) -> None:
    """Fetch the bundle of TRUST_DOMAIN now, not when it is due.

    Ends with 5 where it could not be had, or was refused; the last good one stays in force then.
    """
    request = pb.FetchBundleRequest(trust_domain=trust_domain)

    async def ask(client: MeshClient) -> pb.FederatedDomain:
        return await client.call(f"{_PATH}Fetch", request, pb.FederatedDomain)

    found = connect.run(ask)
    if form != "table":
        output.show_plain(messages.plain(found), form)
    if found.problem:
        raise NotFederated(f"{found.trust_domain}: {found.problem}")
    if form == "table":
        output.line(f"bundle {found.sequence} of {found.trust_domain} is in force")


@click.group("bundle", short_help="Trust bundles, as others read them.")
def bundle() -> None:
    """Trust bundles: what verifies the identities of a trust domain. Nothing of it is secret."""


@bundle.command(
    "show",
    cls=MeshCommand,
    example="""
meshadm bundle show > shop.example.json
meshadm bundle show --form pem
meshadm bundle show --trust-domain partner.example
""",
)
@click.option("--trust-domain", default="", help="Of a federated trust domain.  [default: our own]")
@click.option(
    "--form",
    type=click.Choice(("jwks", "pem")),
    default="jwks",
    show_default=True,
    help="A SPIFFE bundle, for `TrustBundle` objects and bundle endpoints; or its X.509 authorities in PEM.",
)
@connects
def show(connect: Connect, trust_domain: str, form: str) -> None:
    """Print the bundle that is in force.

    Give it to the other side in a way that both trust: whoever can change it on its way can be anybody to them.
    """
    request = pb.BundleRequest(trust_domain=trust_domain)

    async def ask(client: MeshClient) -> pb.BundleReply:
        return await client.call(f"{_PATH}Bundle", request, pb.BundleReply)

    reply = connect.run(ask)
    if form == "jwks":
        output.line(reply.jwks.decode())
        return
    for der in decode(reply.jwks, f"bundle of {reply.trust_domain}").x509_authorities:
        output.line(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode().rstrip("\n"))
