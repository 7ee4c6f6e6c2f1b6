"""What a `Gateway` must hold beyond its schema, in the state as it will be. Pure."""

from collections.abc import Iterator

from controlplane.domain.known import After
from routing.gateways import Place, service_of_gateway
from schemas.checking import json_path
from schemas.errors import Problem
from schemas.gateway_faults import conflict, gateway_faults
from schemas.names import ObjectRef
from schemas.objects import Gateway, Service


def gateway_problems(gateway: Gateway, after: After, subject: str) -> Iterator[Problem]:
    for fault in gateway_faults(gateway):
        yield Problem(subject, fault.message, json_path(fault.path), fault.remedy)
    listeners = gateway.spec.listeners
    for other in after:
        if not isinstance(other, Gateway) or other.ref == gateway.ref:
            continue
        if service_of_gateway(other) != service_of_gateway(gateway):
            continue
        for index, listener in enumerate(listeners):
            for one in other.spec.listeners:
                reason = conflict(one, listener)
                if reason is not None:
                    text = f"{Place(other, one)}, in the same sidecars: {reason}"
                    yield Problem(subject, text, f"$.spec.listeners[{index}]", "choose another port or hostname")
    service = after.get(ObjectRef(Service.__name__, gateway.metadata.namespace, gateway.spec.service))
    if isinstance(service, Service):
        inside = {port.port for port in service.spec.ports}
        for index, listener in enumerate(listeners):
            if listener.port in inside:
                text = f"port {listener.port} is where {service.ref} itself is reached from inside of the mesh"
                path = f"$.spec.listeners[{index}].port"
                yield Problem(subject, text, path, "give the Service another port; callers inside name it, nobody else")
