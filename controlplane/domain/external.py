"""What an `ExternalService` must hold beyond its schema, in the state as it will be. Pure."""

from collections.abc import Iterator

from controlplane.domain.federation import identity_problems, rival_problems
from controlplane.domain.known import After
from schemas.checking import json_path
from schemas.errors import Problem
from schemas.external_faults import external_faults, tls_parts
from schemas.objects import ExternalService
from spiffe.pem import holds_certificates


def external_problems(service: ExternalService, after: After, subject: str) -> Iterator[Problem]:
    yield from rival_problems(service, after, subject)
    for fault in external_faults(service):
        yield Problem(subject, fault.message, json_path(fault.path), fault.remedy)
    for path, tls in tls_parts(service):
        if tls.spiffe_id is not None:
            yield from identity_problems(tls.spiffe_id, json_path((*path, "spiffeId")), subject)
        if tls.ca_certificates is not None and not holds_certificates(tls.ca_certificates):
            remedy = "paste the CA's certificate in PEM"
            yield Problem(subject, "holds no PEM certificates", json_path((*path, "caCertificates")), remedy)
    yield from _taken_hosts(service, after, subject)
    for index, port in enumerate(service.spec.ports):
        if not port.identity_header and (service.is_outside(port) or port.protocol not in ("http", "http2")):
            message = "there is no sidecar at the other end that could tell who calls"
            if not service.is_outside(port):
                message = f"a port of protocol {port.protocol} has no choice"
            yield Problem(subject, message, f"$.spec.ports[{index}].identityHeader", "leave it out")


def _taken_hosts(service: ExternalService, after: After, subject: str) -> Iterator[Problem]:
    """A host and port of one namespace lead to one place."""
    numbers = {port.port for port in service.spec.ports}
    for other in after:
        if (
            not isinstance(other, ExternalService)
            or other.ref == service.ref
            or other.metadata.namespace != service.metadata.namespace
        ):
            continue
        both = sorted(numbers & {port.port for port in other.spec.ports})
        for index, host in enumerate(service.spec.hosts):
            if both and host in other.spec.hosts:
                message = f"{other.ref} already says where port {both[0]} of {host} is"
                yield Problem(subject, message, f"$.spec.hosts[{index}]", "merge the two, or take it out of one")
