"""`route`: which route, rule and backend would serve a request. Nothing is sent."""

import click

from controlplane.exit_codes import ExitCode
from controlplane.meshadm import manifests, output
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.verdict import plain_verdict, verdict_lines
from routing.explain import explain, explain_outside
from routing.requests import parse_url
from schemas.errors import InvalidInput, Problem
from schemas.names import ServiceRef
from schemas.objects import ROUTE_KINDS, AnyObject, AnyRoute, ExternalService, Gateway, Service

_KINDS = (Service.__name__, ExternalService.__name__, Gateway.__name__, *ROUTE_KINDS)
OUTSIDE = "outside"
"""As FROM: a client of a gateway. No service has such a name: those have a namespace."""


@click.command(
    "route",
    cls=MeshCommand,
    short_help="Say which route, rule and backend would serve a request.",
    example="""
meshadm route web.shop orders.shop GET http://orders.shop:8080/orders/7
meshadm route web.shop orders.shop POST http://orders.shop/shop.Orders/Get -H content-type=application/grpc
meshadm route web.shop database.shop CONNECT database.shop:5432
meshadm route web.shop orders.shop GET /orders/7 -f shop.yaml -o json
meshadm route outside edge.shop GET https://shop.example.com/orders/7
""",
)
@click.argument("caller", metavar="FROM")
@click.argument("service", metavar="TO")
@click.argument("method")
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header of the request.")
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    help="Judge by the objects of these files alone, without a replica: a file, a directory, or -.",
)
@formats("table", "json", "yaml")
@connects
@click.pass_context
def route(
    ctx: click.Context,
    connect: Connect,
    caller: str,
    service: str,
    method: str,
    url: str,
    headers: tuple[str, ...],
    files: tuple[str, ...],
    form: Format,
) -> None:
    """Say which route, rule and backend would serve a request of the service FROM to the service TO, and why.

    Nothing is sent: the answer comes from the same model that sidecars are configured by. URL is what the app would
    ask its sidecar for; of a gRPC call /<package>.<service>/<method>, of a TCP connection host:port with the method
    CONNECT. Where FROM is `outside`, TO is a Gateway, and URL what its client asks for.

    Ends with 6 where the request is answered 400 before any route is asked.
    """
    outside, to = caller == OUTSIDE, ServiceRef.parse(service)
    whole = f"http://{to}{url}" if url.startswith("/") and not outside else url
    address, request = parse_url(method, whole, map(_header, headers), outside=outside)

    async def ask(client: MeshClient) -> list[AnyObject]:
        return [stored.object for kind in _KINDS for stored in (await client.list_objects(kind, None)).objects]

    objects = [document.object for document in manifests.load(files)] if files else connect.run(ask)
    services = {
        ServiceRef(one.metadata.namespace, one.metadata.name): one
        for kind in (ExternalService, Service)  # a service of the mesh goes before an external one
        for one in objects
        if isinstance(one, kind)
    }
    routes = [one for one in objects if isinstance(one, AnyRoute)]
    if outside:
        gateways = [one for one in objects if isinstance(one, Gateway)]
        gateway = next((one for one in gateways if _is(one, to)), None)
        if gateway is None:
            raise InvalidInput(Problem(f"Gateway {to}", "does not exist", remedy="meshadm get gateways -A"))
        verdict = explain_outside(gateway, address, request, services, routes, gateways)
    else:
        verdict = explain(ServiceRef.parse(caller), to, address, request, services, routes)
    if form == "table":
        for text in verdict_lines(verdict):
            output.line(text)
    else:
        output.show_plain(plain_verdict(verdict), form)
    ctx.exit(ExitCode.DENIED if verdict.refused else ExitCode.OK)


def _is(gateway: Gateway, named: ServiceRef) -> bool:
    return (gateway.metadata.namespace, gateway.metadata.name) == (named.namespace, named.name)


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise InvalidInput(Problem(f"--header {text!r}", "is not NAME=VALUE", remedy="write --header x-user=anna"))
    return name, value
