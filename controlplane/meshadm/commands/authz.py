"""`authz`: what the policies say about a request. Nothing is sent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import click

from authz.judge import Outcome, Request, Verdict, judge
from authz.rules import port_rules
from authz.stored import check_understood
from controlplane.exit_codes import ExitCode
from controlplane.meshadm import manifests, output
from controlplane.meshadm.authz import plain_tests, plain_verdict, test_lines, verdict_lines
from controlplane.meshadm.authz_cases import Result, json_schema, read_cases, results
from controlplane.meshadm.client import MeshClient
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.table import printable
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt, InvalidInput, NotFound, Problem
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef, SpiffeId
from schemas.objects import AuthorizationPolicy, Mesh, RequestAuthentication, Service
from schemas.objects.service import ServicePort
from schemas.records import Revocation
from schemas.strict_json import NotStrict, load_object


@click.group("authz", short_help="Ask what the authorization policies say.")
def authz() -> None:
    """Authorization offline, by the model that sidecars are configured by."""


@authz.command(
    "explain",
    cls=MeshCommand,
    short_help="Say whether a request would be allowed, and why.",
    example="""
meshadm authz explain --from web.shop --to orders.shop --method GET --path /orders/7
meshadm authz explain --from spiffe://partner.example/ns/a/svc/b --to orders.shop --port 5432 -o json
""",
)
@click.option("--from", "caller", required=True, metavar="SERVICE|ID", help="Who calls: NAME.NAMESPACE or a SPIFFE ID.")
@click.option("--to", "service", required=True, metavar="SERVICE", help="The service that is called: NAME.NAMESPACE.")
@click.option("--method", default="GET", show_default=True, help="The method of the request.")
@click.option("--path", default="/", show_default=True, help="Path and query, as the client would write them.")
@click.option("--port", type=int, help="Of the service; needed where it has several.")
@click.option("--address", default="", help="Of the caller's host, where policies ask for it.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header of the request.")
@click.option(
    "--claims",
    type=click.File("rb"),
    metavar="FILE",
    help="A JSON object, the claims of a good token in the request; - for standard input.",
)
@formats("table", "json", "yaml")
@connects
@click.pass_context
def explain(
    ctx: click.Context,
    connect: Connect,
    caller: str,
    service: str,
    method: str,
    path: str,
    port: int | None,
    address: str,
    headers: tuple[str, ...],
    claims: BinaryIO | None,
    form: Format,
) -> None:
    """Say whether a request would be allowed, by which rule of which policy, or what was missing. Nothing is sent.

    Ends with 0 where it is allowed, with 6 where it is not.
    """
    to = ServiceRef.parse(service)
    pairs = tuple(map(_header, headers))
    host = next((value for name, value in pairs if name.lower() == "host"), f"{to.name}.{to.namespace}")
    others = tuple(one for one in pairs if one[0].lower() != "host")
    token = None if claims is None else _claims(claims.read())
    verdict = connect.run(
        lambda client: _verdict(
            client, caller, to, port, lambda who: Request(who, method, path, others, host, address, token)
        )
    )
    if form == "table":
        for text in verdict_lines(verdict):
            output.line(printable(text))
    else:
        output.show_plain(plain_verdict(verdict), form)
    ctx.exit(ExitCode.OK if verdict.outcome is Outcome.ALLOWED else ExitCode.DENIED)


async def _verdict(
    client: MeshClient,
    caller: str,
    to: ServiceRef,
    number: int | None,
    request: Callable[[SpiffeId], Request],
) -> Verdict:
    service = (await client.get(ObjectRef("Service", to.namespace, to.name))).object
    mesh = (await client.get(ObjectRef("Mesh", SYSTEM_NAMESPACE, "mesh"))).object
    if not isinstance(service, Service) or not isinstance(mesh, Mesh):
        raise AssertionError("a replica answered with an object of another kind")
    policies, unreadable = await _policies(client, to.namespace)
    trust_domain = mesh.spec.trust_domain
    who = SpiffeId.parse(caller) if "://" in caller else SpiffeId.of_service(trust_domain, ServiceRef.parse(caller))
    port = _port(service, number)
    rules = port_rules(
        to,
        port,
        policies,
        trust_domain=trust_domain,
        is_trusted=(await _trusted(client) if who.trust_domain != trust_domain else frozenset()).__contains__,
        unreadable=unreadable,
        revoked=await _revoked(client),
    )
    return judge(rules, port, request(who))


async def _policies(client: MeshClient, namespace: str) -> tuple[list[AuthorizationPolicy], list[ObjectRef]]:
    """Those of a namespace and of the mesh, and which can't be read (RequestAuthentications too): as a sidecar reads
    them that starts now."""
    found: list[AuthorizationPolicy] = []
    unreadable: list[ObjectRef] = []
    objects: list[pb.StoredObject] = []
    for one_namespace in dict.fromkeys((namespace, SYSTEM_NAMESPACE)):
        request = pb.ListRequest(kind=AuthorizationPolicy.__name__, namespace=one_namespace)
        objects += (await client.call("/mesh.v1.Config/List", request, pb.ListReply)).objects
    tokens = pb.ListRequest(kind=RequestAuthentication.__name__, namespace=namespace)
    objects += (await client.call("/mesh.v1.Config/List", tokens, pb.ListReply)).objects
    for one in objects:
        ref = ObjectRef(one.key.kind, one.key.namespace, one.key.name)
        try:
            policy = codec.decode_object(one.value, ref.kind, str(ref))
            if not isinstance(policy, AuthorizationPolicy | RequestAuthentication) or policy.ref != ref:
                raise Corrupt(Problem(str(ref), f"the key holds {policy.ref}", "$.metadata", "delete the key"))
            check_understood(policy, one.value, str(ref))
        except Corrupt as error:
            output.notice(printable(f"can't be read: {error}"))
            unreadable.append(ref)
        else:
            if isinstance(policy, AuthorizationPolicy):
                found.append(policy)
    return found, unreadable


async def _revoked(client: MeshClient) -> list[ServiceRef]:
    reply = await client.call("/mesh.v1.Revocations/List", pb.ListRevocationsRequest(), pb.ListRevocationsReply)
    records = [codec.decode(value, Revocation, "a revocation") for value in reply.revocations]
    return [ServiceRef(one.namespace, one.service) for one in records if one.revoked]


async def _trusted(client: MeshClient) -> frozenset[str]:
    """The trust domains that an object federates with and that have a bundle with an authority."""
    reply = await client.call("/mesh.v1.Federation/Status", pb.FederationStatusRequest(), pb.FederationStatusReply)
    return frozenset(one.trust_domain for one in reply.domains if one.objects and one.x509_authorities)


def _port(service: Service, number: int | None) -> ServicePort:
    ports = service.spec.ports
    found = [one for one in ports if number in (None, one.port)]
    if not found:
        raise NotFound(f"{service.ref} has no port {number}: it has {', '.join(str(one.port) for one in ports)}")
    if len(found) > 1:
        remedy = f"name one with --port: {', '.join(str(one.port) for one in ports)}"
        raise InvalidInput(Problem(str(service.ref), "has several ports", remedy=remedy))
    return found[0]


def _claims(data: bytes) -> dict[str, Any]:
    try:
        return load_object(data)
    except NotStrict as error:
        remedy = 'give the claims alone: {"iss": "https://login.example.com", "sub": "anna"}'
        raise InvalidInput(Problem("--claims", str(error), remedy=remedy)) from error


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise InvalidInput(Problem(f"--header {text!r}", "is not NAME=VALUE", remedy="write --header x-user=anna"))
    return name, value


@authz.command(
    "test",
    cls=MeshCommand,
    short_help="Test policies by a file of cases, without a mesh.",
    example="""
meshadm authz test -f cases.yaml
meshadm authz test --schema > cases.schema.json
""",
)
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE", help="Cases; may be repeated.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of such a file.")
@formats("table", "json", "yaml")
@click.pass_context
def test(ctx: click.Context, files: tuple[str, ...], schema: bool, form: Format) -> None:
    """Judge each case of the files by the objects that they name, and compare. Asks no replica.

    Ends with 0 where all is as expected, with 6 where a case is not.
    """
    if schema:
        output.line(output.as_json(json_schema()))
        return
    if not files:
        raise click.UsageError("name a file with -f")
    found: list[tuple[str, Result]] = []
    for name in files:
        cases = read_cases(manifests.text_of(name), name)
        paths = [str(Path(name).parent / one) for one in cases.objects]
        objects = [document.object for document in manifests.load(paths)]
        found += [(name, one) for one in results(cases, objects, name)]
    if form == "table":
        for text in test_lines(found):
            output.line(printable(text))
    else:
        output.show_plain(plain_tests(found), form)
    ctx.exit(ExitCode.OK if all(one.passed for _, one in found) else ExitCode.DENIED)
