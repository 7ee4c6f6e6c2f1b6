"""Bytes under a key ▸ the value that belongs there, or Corrupt.

Stricter than the types: what would contradict itself, or what Envoy would refuse together with all that is beside it
in the same resource, is not let through. Replicas refuse the same on a write; this is for what came past them.
"""

from collections.abc import Hashable, Iterable, Mapping

from authz.jwks import InvalidKeys, public_keys
from authz.stored import check_understood
from routing.check import route_faults
from schemas import checking, codec
from schemas.addresses import is_reachable
from schemas.errors import Corrupt, InvalidInput, Problem
from schemas.external_faults import external_faults, tls_parts
from schemas.gateway_faults import gateway_faults
from schemas.key_sets import place_of
from schemas.keys import DataRef, EndpointRef, EpochRef, KeySetRef, RevocationRef, TrustRef
from schemas.names import SYSTEM_NAMESPACE, ObjectRef, ServiceRef, SpiffeId, check_name
from schemas.objects import (
    MESH_WIDE,
    AnyObject,
    AnyRoute,
    AuthorizationPolicy,
    BackendTrafficPolicy,
    ExternalService,
    Gateway,
    GRPCRoute,
    HTTPRoute,
    Mesh,
    PeerAuthentication,
    RequestAuthentication,
    Service,
    TCPRoute,
    Telemetry,
)
from schemas.objects.external import ExternalTls
from schemas.records import Endpoint, Epoch, KeySet, Revocation, TrustBundle
from schemas.telemetry_faults import telemetry_faults
from schemas.traffic_faults import traffic_faults
from spiffe.bundle import certificates
from spiffe.pem import holds_certificates

Value = AnyObject | Endpoint | TrustBundle | Revocation | KeySet | Epoch


def read(ref: DataRef, data: bytes) -> Value:
    """The value that belongs under `ref`; raises Corrupt for anything else, one that claims another name too."""
    subject = str(ref)
    match ref:
        case ObjectRef():
            value = codec.decode_object(data, ref.kind, subject)
            if value.ref != ref:
                raise Corrupt(Problem(subject, f"the key holds {value.ref}", "$.metadata", "delete the key"))
            if ref.kind in MESH_WIDE and ref.namespace != SYSTEM_NAMESPACE:
                raise Corrupt(Problem(subject, "is not of a namespace", "$.metadata.namespace", "delete the key"))
            match value:
                case Service():
                    _check_service(value, subject)
                case ExternalService():
                    _check_external(value, subject)
                case Gateway():
                    _check_gateway(value, subject)
                case AuthorizationPolicy() | RequestAuthentication() | PeerAuthentication() | Mesh():
                    check_understood(value, data, subject)
                case BackendTrafficPolicy():
                    _check_traffic(value, subject)
                case HTTPRoute() | GRPCRoute() | TCPRoute():
                    _check_route(value, subject)
                case Telemetry():
                    _check_telemetry(value, subject)
            return value
        case EndpointRef():
            return _endpoint(ref, data, subject)
        case TrustRef():
            bundle = codec.decode(data, TrustBundle, subject)
            if bundle.trust_domain != ref.trust_domain:
                raise Corrupt(Problem(subject, f"holds the bundle of {bundle.trust_domain[:64]!r}", "$.trustDomain"))
            certificates(bundle)  # Envoy takes a secret whole or not at all
            return bundle
        case RevocationRef(service):
            record = codec.decode(data, Revocation, subject)
            if ServiceRef(record.namespace, record.service) != service:
                raise Corrupt(Problem(subject, f"holds the revocation of {record.namespace}/{record.service}"))
            return record
        case KeySetRef():
            return _key_set(ref, data, subject)
        case EpochRef():
            return codec.decode(data, Epoch, subject)


def _key_set(ref: KeySetRef, data: bytes, subject: str) -> KeySet:
    found = codec.decode(data, KeySet, subject)
    if place_of(found) != ref:
        raise Corrupt(Problem(subject, f"holds the keys of {found.uri[:200]!r}", "$.uri", "delete the key"))
    try:
        public_keys(found.jwks)
    except InvalidKeys as error:
        raise Corrupt(Problem(subject, f"holds no usable keys: {error}", "$.jwks", "delete the key")) from error
    return found


def _check_service(service: Service, subject: str) -> None:
    """Ports and bound ports are told apart by name and number: one of them twice has no meaning, and Envoy refuses a
    RouteConfiguration whole, with every other service in it, for one domain that stands there twice."""
    ports = service.spec.ports
    bound = [one.bind_port for one in service.spec.dependencies or () if one.bind_port is not None]
    _check_unique(
        subject, {"port name": [one.name for one in ports], "port": [one.port for one in ports], "bindPort": bound}
    )


def _check_external(service: ExternalService, subject: str) -> None:
    ports = service.spec.ports
    _check_unique(subject, {"port name": [one.name for one in ports], "port": [one.port for one in ports]})
    fault = next(external_faults(service), None)
    if fault is not None:
        raise Corrupt(Problem(subject, fault.message, checking.json_path(fault.path), fault.remedy))
    for place, tls in tls_parts(service):
        _check_tls(tls, subject, checking.json_path(place))


def _check_tls(tls: ExternalTls, subject: str, path: str) -> None:
    if tls.ca_certificates is not None and not holds_certificates(tls.ca_certificates):
        raise Corrupt(Problem(subject, "holds no PEM certificates", f"{path}.caCertificates"))
    if tls.spiffe_id is None:
        return
    try:
        identity = SpiffeId.parse(tls.spiffe_id)
    except InvalidInput as error:
        raise Corrupt(Problem(subject, str(error), f"{path}.spiffeId")) from error
    if not identity.path:
        raise Corrupt(Problem(subject, f"{identity} names no server", f"{path}.spiffeId", "name one identity"))


def _check_gateway(gateway: Gateway, subject: str) -> None:
    fault = next(gateway_faults(gateway), None)
    if fault is not None:
        raise Corrupt(Problem(subject, fault.message, checking.json_path(fault.path), fault.remedy))


def _check_unique(subject: str, of: Mapping[str, Iterable[Hashable]]) -> None:
    for what, values in of.items():
        twice = _first_repeated(values)
        if twice is not None:
            raise Corrupt(Problem(subject, f"{what} {twice!r} stands there twice", "$.spec", "keep one of them"))


def _check_traffic(policy: BackendTrafficPolicy, subject: str) -> None:
    fault = next(traffic_faults(policy.spec), None)
    if fault is not None:
        raise Corrupt(Problem(subject, fault.message, checking.json_path(("spec", *fault.path)), fault.remedy))


def _check_telemetry(telemetry: Telemetry, subject: str) -> None:
    fault = next(telemetry_faults(telemetry.spec), None)
    if fault is not None:
        raise Corrupt(Problem(subject, fault.message, checking.json_path(("spec", *fault.path)), fault.remedy))


def _check_route(route: AnyRoute, subject: str) -> None:
    fault = next(route_faults(route), None)
    if fault is not None:
        raise Corrupt(Problem(subject, fault.message, checking.json_path(fault.path), fault.remedy))


def _endpoint(ref: EndpointRef, data: bytes, subject: str) -> Endpoint:
    try:
        for name in (ref.service.namespace, ref.service.name, ref.instance):
            check_name(name, "name in the key")
    except InvalidInput as error:
        raise Corrupt(Problem(subject, f"not a key of the mesh: {error}", remedy="delete the key")) from error
    endpoint = codec.decode(data, Endpoint, subject)
    _check_address(endpoint.address, subject, "$.address")
    return endpoint


def _check_address(text: str, subject: str, path: str) -> None:
    if not is_reachable(text):
        raise Corrupt(Problem(subject, f"expected an IP address that other hosts can reach, got {text[:64]!r}", path))


def _first_repeated(values: Iterable[Hashable]) -> Hashable | None:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
