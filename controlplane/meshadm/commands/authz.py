"""`authz`: what the policies say about a request. Nothing is sent."""

import time
from pathlib import Path
from typing import Any, BinaryIO

import click

from authz.judge import Outcome, Request
from controlplane.exit_codes import ExitCode
from controlplane.meshadm import manifests, output
from controlplane.meshadm.authz import plain_tests, plain_verdict, test_lines, verdict_lines
from controlplane.meshadm.authz_cases import Result, caller_address, json_schema, read_cases, results
from controlplane.meshadm.evidence import evidence
from controlplane.meshadm.options import Connect, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.table import printable
from schemas.errors import InvalidInput, Problem
from schemas.names import ServiceRef
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
meshadm authz explain --from web.shop --to orders.shop --at-revision 4711
""",
)
@click.option(
    "--from",
    "caller",
    required=True,
    metavar="SERVICE|ID|plaintext",
    help="Who calls: NAME.NAMESPACE, a SPIFFE ID, or `plaintext` for who comes without mTLS.",
)
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
@click.option(
    "--jwt",
    type=click.File("rb"),
    metavar="FILE",
    help="A token of the request, verified by the keys that sidecars have now; - for standard input.",
)
@click.option(
    "--at-revision",
    "revision",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="By the policies as they were then, for as long as etcd keeps them (an hour); 0: as they are now.",
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
    jwt: BinaryIO | None,
    revision: int,
    form: Format,
) -> None:
    """Say whether a request would be allowed, by which rule of which policy, or what was missing. Nothing is sent.

    Ends with 0 where it is allowed, with 6 where it is not.
    """
    if claims is not None and jwt is not None:
        raise click.UsageError("give a token by --jwt, or the claims of a good one by --claims, not both")
    to = ServiceRef.parse(service)
    pairs = tuple(map(_header, headers))
    host = next((value for name, value in pairs if name.lower() == "host"), f"{to.name}.{to.namespace}")
    others = tuple(one for one in pairs if one[0].lower() != "host")
    token = None if claims is None else _claims(claims.read())
    from_address = caller_address(address, "--address")
    known = connect.run(lambda client: evidence(client, to, revision, with_keys=jwt is not None))
    proved = None if jwt is None else known.proved(jwt.read().decode("ascii", "replace").strip(), time.time())
    if isinstance(proved, dict):
        token = proved
    request = Request(known.caller(caller), method, path, others, host, from_address, token)
    verdict = known.with_token(known.verdict(port, request), proved, known.port(port))
    decided = known.revisions.get(verdict.policy) if verdict.policy is not None else None
    if form == "table":
        for text in verdict_lines(verdict):
            output.line(printable(text))
        of_policy = f", which was written at {decided}" if decided is not None else ""
        output.line(f"  by the policies at revision {known.revision}{of_policy}")
    else:
        output.show_plain({**plain_verdict(verdict), "revision": known.revision, "policyRevision": decided}, form)
    ctx.exit(ExitCode.OK if verdict.outcome is Outcome.ALLOWED else ExitCode.DENIED)


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
