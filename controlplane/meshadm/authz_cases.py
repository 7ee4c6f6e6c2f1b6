"""Unit tests of policies: a file of cases, judged by the objects of files, without a mesh. Pure.

Format: docs/authorization.md, and `meshadm authz test --schema`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from authz.judge import Request, Verdict, judge
from authz.peers import mode_of
from authz.rules import MESH, port_rules
from schemas import checking
from schemas.addresses import of_one_spelling
from schemas.errors import InvalidInput, Problem
from schemas.names import ServiceRef, SpiffeId
from schemas.objects import AnyObject, AuthorizationPolicy, Mesh, PeerAuthentication, Service, TrustBundle
from schemas.objects.common import Port, TrustDomain
from schemas.objects.service import ServicePort
from schemas.yaml_text import read_documents

PLAINTEXT = "plaintext"
"""Stands for a caller that shows no certificate; no service has a name without a namespace."""

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]


class Case(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}, forbid_unknown_fields=True):
    """A request, and what is to become of it."""

    name: str = ""
    from_: Annotated[str, msgspec.Meta(min_length=1, description="NAME.NAMESPACE, a SPIFFE ID, or plaintext")]
    to: Annotated[str, msgspec.Meta(min_length=1, description="NAME.NAMESPACE")]
    port: Port | None = None
    """Of the service; needed where it has several."""
    method: Text = "GET"
    path: Text = "/"
    """Path and query, as the client would write them."""
    headers: dict[str, str] = {}
    host: str | None = None
    """Absent: the name of the service."""
    address: str = ""
    """Of the caller's host."""
    claims: dict[str, Any] | None = None
    """Of a good token in the request; absent: it has none."""
    expect: Literal["allowed", "denied", "refused"]
    by: str | None = None
    """The rule that is to decide, as ``NAMESPACE/NAME[RULE]``; ``default``: the Mesh; ``none``: nothing allows it."""


class CasesFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    objects: Annotated[
        tuple[Text, ...], msgspec.Meta(min_length=1, description="files and directories beside this one")
    ]
    trust_domain: TrustDomain | None = None
    """The mesh's own, where no Mesh is among the objects."""
    cases: Annotated[tuple[Case, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Result:
    case: Case
    verdict: Verdict

    @property
    def by(self) -> str:
        """``NAMESPACE/NAME[RULE]`` of what decided, ``default`` where the Mesh did, else ``none``."""
        found = self.verdict.policy
        if found == MESH:
            return "default"
        return "none" if found is None else f"{found.namespace}/{found.name}[{self.verdict.rule}]"

    @property
    def passed(self) -> bool:
        return self.verdict.outcome.value == self.case.expect and self.case.by in (None, self.by)


def read_cases(text: str, source: str) -> CasesFile:
    """Raises InvalidInput with every fault."""
    documents, problems = read_documents(text, source)
    if problems:
        raise InvalidInput(*problems)
    if len(documents) != 1:
        raise InvalidInput(Problem(source, f"expected one document, got {len(documents)}"))
    plain = documents[0].value
    faults = [*checking.faults(plain, CasesFile)]
    if faults:
        raise InvalidInput(*(Problem(source, one.message, checking.json_path(one.path), one.remedy) for one in faults))
    return msgspec.convert(plain, CasesFile)


def json_schema() -> Mapping[str, Any]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(CasesFile)}


def results(file: CasesFile, objects: Sequence[AnyObject], source: str) -> Iterator[Result]:
    """Raises InvalidInput for a case that can't be judged by `objects`.

    Trust domains that a TrustBundle federates with count as trusted.
    """
    mesh = next((one for one in objects if isinstance(one, Mesh)), None)
    own = file.trust_domain or (mesh.spec.trust_domain if mesh is not None else None)
    if own is None:
        remedy = "add the Mesh to the objects, or say trustDomain"
        raise InvalidInput(Problem(source, "the mesh's own trust domain is not known", remedy=remedy))
    services = {
        ServiceRef(one.metadata.namespace, one.metadata.name): one for one in objects if isinstance(one, Service)
    }
    policies = [one for one in objects if isinstance(one, AuthorizationPolicy)]
    modes = [one for one in objects if isinstance(one, PeerAuthentication)]
    trusted = {one.spec.trust_domain for one in objects if isinstance(one, TrustBundle)}
    for index, case in enumerate(file.cases):
        subject = f"{source} case {index}" + (f" ({case.name})" if case.name else "")
        try:
            to = ServiceRef.parse(case.to)
            who = caller_of(case.from_, own)
        except InvalidInput as error:
            raise InvalidInput(*(Problem(subject, one.message, remedy=one.remedy) for one in error.problems)) from error
        service = services.get(to)
        if service is None:
            raise InvalidInput(Problem(subject, f"there is no Service {to} among the objects", "$.to"))
        port = _port(service.spec.ports, case.port, subject)
        permissive = mode_of(to, port.port, modes).permissive
        rules = port_rules(
            to, port, policies, trust_domain=own, is_trusted=trusted.__contains__, plaintext=permissive, mesh=mesh
        )
        host = case.host if case.host is not None else f"{to.name}.{to.namespace}"
        address = caller_address(case.address, subject, "$.address")
        request = Request(who, case.method, case.path, tuple(case.headers.items()), host, address, case.claims)
        yield Result(case, judge(rules, port, request))


def caller_address(text: str, subject: str, path: str = "") -> str:
    """As sidecars see it; empty where it is not known. Raises InvalidInput."""
    try:
        return of_one_spelling(text) if text else ""
    except ValueError as error:
        remedy = "give the one of the caller's host: 10.1.2.3, 2001:db8::1"
        raise InvalidInput(Problem(subject, f"{text!r} is no IP address", path, remedy)) from error


def caller_of(text: str, trust_domain: str) -> SpiffeId | None:
    """``NAME.NAMESPACE``, a SPIFFE ID, or ``plaintext``, which is nobody. Raises InvalidInput."""
    if text == PLAINTEXT:
        return None
    return SpiffeId.parse(text) if "://" in text else SpiffeId.of_service(trust_domain, ServiceRef.parse(text))


def _port(ports: Iterable[ServicePort], number: int | None, subject: str) -> ServicePort:
    known = list(ports)
    found = [one for one in known if number in (None, one.port)]
    if len(found) != 1:
        remedy = f"say port: {' or '.join(str(one.port) for one in known)}"
        raise InvalidInput(
            Problem(
                subject,
                "names no port of the service" if not found else "the service has several ports",
                "$.port",
                remedy,
            )
        )
    return found[0]
