"""What a `Telemetry` must hold beyond its own schema: its collector is there, and one matter of one service is said
once in each rank. Pure."""

from collections.abc import Iterator

from controlplane.domain.known import After
from controlplane.domain.references import COLLECTOR_PATH, collector_of, references
from schemas.checking import json_path
from schemas.errors import Problem
from schemas.objects import ExternalService, Service, Telemetry
from schemas.telemetry_faults import telemetry_faults


def telemetry_problems(telemetry: Telemetry, after: After, subject: str) -> Iterator[Problem]:
    for fault in telemetry_faults(telemetry.spec):
        yield Problem(subject, fault.message, json_path(("spec", *fault.path)), fault.remedy)
    yield from _collector_problems(telemetry, after, subject)
    targets = [one.target for one in references(telemetry) if one.path != COLLECTOR_PATH]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            yield Problem(subject, f"names {target} twice", f"$.spec.targetRefs[{index}]", "name it once")
    for other in after:
        if not isinstance(other, Telemetry) or other.ref == telemetry.ref:
            continue
        if other.metadata.namespace != telemetry.metadata.namespace or not _meet(telemetry, other):
            continue
        for section in telemetry.sections:
            if section in other.sections:
                message = f"{other.ref} already says that, for the same services"
                yield Problem(subject, message, f"$.spec.{section}", "merge the two")


def _collector_problems(telemetry: Telemetry, after: After, subject: str) -> Iterator[Problem]:
    tracing, target = telemetry.spec.tracing, collector_of(telemetry)
    if tracing is None or tracing.provider is None or tracing.provider.backend_ref is None or target is None:
        return
    collector = after.get(target)
    if not isinstance(collector, Service | ExternalService):
        return  # that it is not there is said of every reference
    number = tracing.provider.backend_ref.port
    port = next((one for one in collector.spec.ports if one.port == number), None)
    if port is None:
        yield Problem(subject, f"{target} has no port {number}", f"{COLLECTOR_PATH}.port", "name one of its ports")
    elif port.protocol not in (("grpc", "http2") if tracing.provider.protocol == "grpc" else ("http", "http2")):
        message = f"port {number} of {target} speaks {port.protocol}"
        remedy = "name the port of the collector's receiver for this protocol"
        yield Problem(subject, message, f"{COLLECTOR_PATH}.port", remedy)


def _meet(one: Telemetry, other: Telemetry) -> bool:
    """Of one namespace: whether both speak for one service by name, or both for all of the namespace."""
    first, second = one.spec.target_refs, other.spec.target_refs
    if first is None or second is None:
        return first is None and second is None
    return bool(set(first) & set(second))
