"""What one object must hold beyond its own schema, in the state as it will be. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from authz.stored import policy_faults
from authz.tokens import authentication_faults
from controlplane.domain.external import external_problems
from controlplane.domain.federation import (
    identity_problems,
    rival_problems,
    trust_bundle_problems,
)
from controlplane.domain.gateways import gateway_problems
from controlplane.domain.known import After
from controlplane.domain.peer_authentications import peer_authentication_problems
from controlplane.domain.rate_limits import rate_limit_problems
from controlplane.domain.references import ANY_SERVICE, Reference, dependency_target, references
from controlplane.domain.routes import route_problems
from controlplane.domain.telemetry import telemetry_problems
from schemas.checking import json_path
from schemas.errors import Problem
from schemas.names import SYSTEM_NAMESPACE, ObjectRef
from schemas.objects import (
    AnyObject,
    AuthorizationPolicy,
    BackendTrafficPolicy,
    ExternalService,
    Gateway,
    GRPCRoute,
    HTTPRoute,
    Mesh,
    PeerAuthentication,
    RateLimitPolicy,
    RequestAuthentication,
    Service,
    TCPRoute,
    Telemetry,
    TrustBundle,
)
from schemas.objects.health import AppHealthCheck
from schemas.objects.service import Dependency, ServicePort
from schemas.traffic_faults import traffic_faults
from schemas.virtual_addresses import range_faults

MESH_NAME = "mesh"


def problems_of(value: AnyObject, after: After, subject: str) -> Iterator[Problem]:
    """Everything that is wrong with `value`; `subject` is what the problems are said to be about."""
    yield from _broken_references(value, after, subject)
    match value:
        case Mesh():
            yield from _mesh(value, subject)
        case Service():
            yield from _service(value, after, subject)
        case HTTPRoute() | GRPCRoute() | TCPRoute():
            yield from route_problems(value, after, subject)
        case BackendTrafficPolicy():
            yield from _traffic_policy(value, after, subject)
        case ExternalService():
            yield from _unique_ports(value.spec.ports, subject)
            yield from external_problems(value, after, subject)
        case Gateway():
            yield from gateway_problems(value, after, subject)
        case TrustBundle():
            yield from trust_bundle_problems(value, after, subject)
        case Telemetry():
            yield from telemetry_problems(value, after, subject)
        case RateLimitPolicy():
            yield from rate_limit_problems(value, after, subject)
        case PeerAuthentication():
            yield from peer_authentication_problems(value, after, subject)
        case RequestAuthentication():
            for fault in authentication_faults(value.spec):
                yield Problem(subject, fault.message, json_path(fault.path), fault.remedy)
        case AuthorizationPolicy():
            yield from _authorization_policy(value, after, subject)


def _broken_references(value: AnyObject, after: After, subject: str) -> Iterator[Problem]:
    for reference in references(value):
        if after.get(reference.target) is None:
            yield _missing(reference, after, subject)


def _missing(reference: Reference, after: After, subject: str) -> Problem:
    target = reference.target
    if after.is_unreadable(target):
        what = f"names {target}, whose stored value can't be understood"
        return Problem(subject, what, reference.path, f"apply {target} again in the same change set")
    remedy = "correct the name, or create it in the same change set"
    return Problem(subject, f"names {target}, which does not exist", reference.path, remedy)


# -- Mesh


def _mesh(mesh: Mesh, subject: str) -> Iterator[Problem]:
    if (mesh.metadata.namespace, mesh.metadata.name) != (SYSTEM_NAMESPACE, MESH_NAME):
        remedy = f"name it {MESH_NAME} and leave the namespace out"
        yield Problem(subject, "there is one Mesh, of one name", "$.metadata.name", remedy)
    for fault in range_faults(mesh.spec.virtual_addresses):
        path = json_path(("spec", "virtualAddresses", *fault.path))
        yield Problem(subject, fault.message, path, fault.remedy)


# -- Service


def _service(service: Service, after: After, subject: str) -> Iterator[Problem]:
    yield from rival_problems(service, after, subject)
    yield from _unique_ports(service.spec.ports, subject)
    for index, port in enumerate(service.spec.ports):
        if not port.identity_header and port.protocol not in ("http", "http2"):
            message = f"a port of protocol {port.protocol} has no choice"
            path = f"$.spec.ports[{index}].identityHeader"
            yield Problem(subject, message, path, "leave it out; it is for http and http2")
    if service.spec.health_check is not None:
        yield from _health_check(service, service.spec.health_check, subject)
    dependencies = service.spec.dependencies or ()
    for index, dependency in enumerate(dependencies):
        yield from _dependency(service, dependency, f"$.spec.dependencies[{index}]", after, subject)
    bound = [dependency.bind_port or -index for index, dependency in enumerate(dependencies, 1)]  # unbound: unique
    for index in _repeated(bound):
        message = f"bindPort {bound[index]} is already taken by another dependency"
        path = f"$.spec.dependencies[{index}].bindPort"
        yield Problem(subject, message, path, "give each dependency a port of its own")


def _unique_ports(ports: Sequence[ServicePort], subject: str) -> Iterator[Problem]:
    for index in _repeated([port.name for port in ports]):
        message = f"a second port of the name {ports[index].name!r}"
        yield Problem(subject, message, f"$.spec.ports[{index}].name", "give each port a name of its own")
    for index in _repeated([port.port for port in ports]):
        message = f"the port {ports[index].port} a second time"
        yield Problem(subject, message, f"$.spec.ports[{index}].port", "give each port a number of its own")


def _health_check(service: Service, check: AppHealthCheck, subject: str) -> Iterator[Problem]:
    path = "$.spec.healthCheck"
    for of_type, field, given in (("HTTP", "http", check.http), ("GRPC", "grpc", check.grpc)):
        if given is not None and check.type != of_type:
            yield Problem(subject, f"says nothing for type {check.type}", f"{path}.{field}", "leave it out")
    if isinstance(check.port, int):
        return
    port = service.spec.ports[0] if check.port is None else service.port_named(check.port)
    if port is None:
        remedy = f"name one of {', '.join(port.name for port in service.spec.ports)}, or give a number"
        yield Problem(subject, f"there is no port {check.port!r}", f"{path}.port", remedy)
    elif check.type == "HTTP" and port.protocol in ("http2", "grpc"):
        message = f"it is asked in HTTP/1.1, and port {port.name!r} speaks {port.protocol}"
        yield Problem(subject, message, f"{path}.type", "use GRPC or TCP, or name another port")


def _dependency(service: Service, dependency: Dependency, path: str, after: After, subject: str) -> Iterator[Problem]:
    if dependency.name == ANY_SERVICE:
        for field, given in (
            ("kind", dependency.kind if dependency.kind != "Service" else None),
            ("namespace", dependency.namespace),
            ("port", dependency.port),
            ("bindPort", dependency.bind_port),
        ):
            if given is not None:
                remedy = f"leave {field} out, or name one service"
                yield Problem(subject, f"{field} says nothing beside name '*'", f"{path}.{field}", remedy)
        return
    target = after.get(dependency_target(service, dependency))
    if not isinstance(target, Service | ExternalService):
        return  # reported as a broken reference
    numbers = [port.port for port in target.spec.ports]
    if dependency.port is not None and dependency.port not in numbers:
        message = f"{target.ref} has no port {dependency.port}"
        yield Problem(subject, message, f"{path}.port", f"its ports are {_join(numbers)}")
    if dependency.bind_port is not None and dependency.port is None and len(numbers) > 1:
        message = f"bindPort leads to one port, and {target.ref} has several"
        yield Problem(subject, message, f"{path}.bindPort", f"give the port too, one of {_join(numbers)}")


# -- policies


def _traffic_policy(policy: BackendTrafficPolicy, after: After, subject: str) -> Iterator[Problem]:
    for fault in traffic_faults(policy.spec):
        yield Problem(subject, fault.message, json_path(("spec", *fault.path)), fault.remedy)
    targets = [reference.target for reference in references(policy)]
    for index in _repeated(targets):
        yield Problem(subject, f"names {targets[index]} twice", f"$.spec.targetRefs[{index}]", "name it once")
    for other in after:
        if isinstance(other, BackendTrafficPolicy) and other.ref != policy.ref:
            taken = {reference.target for reference in references(other)}
            for index, target in enumerate(targets):
                if target in taken:
                    message = f"{other.ref} already speaks for {target}"
                    remedy = "merge the two, or take the service out of one"
                    yield Problem(subject, message, f"$.spec.targetRefs[{index}]", remedy)


def _authorization_policy(policy: AuthorizationPolicy, after: After, subject: str) -> Iterator[Problem]:
    for fault in policy_faults(policy.spec):
        yield Problem(subject, fault.message, json_path(fault.path), fault.remedy)
    targeted = [after.get(reference.target) for reference in references(policy)]
    services = [target for target in targeted if isinstance(target, Service)]
    # Without targets it is for all services of the namespace, of today and later; with a broken target that is said.
    known_ports = (
        {port.port for service in services for port in service.spec.ports}
        if services and len(services) == len(targeted)
        else None
    )
    for number, rule in enumerate(policy.spec.rules):
        for index, operation in enumerate(rule.to or ()):
            for place, port in enumerate(operation.ports or ()):  # a port too many in `notPorts` excludes nothing
                if known_ports is not None and port not in known_ports:
                    message = f"no targeted service has port {port}"
                    path = f"$.spec.rules[{number}].to[{index}].ports[{place}]"
                    yield Problem(subject, message, path, f"their ports are {_join(sorted(known_ports))}")
        for index, source in enumerate(rule.from_ or ()):
            for name, identities in (("identities", source.identities), ("notIdentities", source.not_identities)):
                for place, identity in enumerate(identities or ()):
                    path = f"$.spec.rules[{number}].from[{index}].{name}[{place}]"
                    yield from identity_problems(identity, path, subject)


# -- helpers


def _repeated(values: Sequence[int | str | ObjectRef]) -> Iterator[int]:
    """Indexes of values that stood earlier in the sequence."""
    seen: Counter[int | str | ObjectRef] = Counter()
    for index, value in enumerate(values):
        if seen[value]:
            yield index
        seen[value] += 1


def _join(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
