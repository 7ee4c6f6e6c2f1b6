"""Short ways to write what a mesh may hold. A state is the list of what is in etcd, by key."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec.structs import asdict, replace

from dataplane.compile.compiler import Compiler
from dataplane.compile.workload import Credentials, Workload
from dataplane.snapshot.state import MeshState
from dataplane.watch.events import Listing, Put
from schemas import codec
from schemas.key_sets import ca_digest, place_of
from schemas.keys import EndpointRef, EpochRef, Keyspace, TrustRef
from schemas.names import SYSTEM_NAMESPACE, ServiceRef
from schemas.objects import (
    AnyObject,
    AuthorizationPolicy,
    BackendTrafficPolicy,
    ExternalService,
    Mesh,
    Metadata,
    Service,
    TargetRef,
    federation,
)
from schemas.objects.authorization import AuthorizationPolicySpec, Operation, Rule, Source
from schemas.objects.external import ExternalEndpoint, ExternalPort, ExternalServiceSpec, ExternalTls
from schemas.objects.federation import BundleEndpoint, TrustBundleSpec
from schemas.objects.mesh import MeshSpec, VirtualRanges
from schemas.objects.peer_authentication import PeerAuthentication, PeerAuthenticationSpec
from schemas.objects.rate_limit import RateLimitPolicy, RateLimitPolicySpec
from schemas.objects.request_authentication import RequestAuthentication, RequestAuthenticationSpec
from schemas.objects.service import Dependency, Protocol, ServicePort, ServiceSpec, VirtualAddress
from schemas.objects.telemetry import Telemetry, TelemetrySpec
from schemas.objects.traffic import BackendTrafficPolicySpec, LoadBalancer
from schemas.records import Endpoint, Epoch, KeySet, Locality, Revocation, TrustBundle
from schemas.virtual_addresses import Ranges

KEYS = Keyspace()
TRUST_DOMAIN = "mesh.test"
WEB, ORDERS = ServiceRef("shop", "web"), ServiceRef("shop", "orders")

# A self-signed CA certificate, valid until 2126, whose key was thrown away.
ROOT_DER = base64.b64decode(
    "MIIBZTCCAQugAwIBAgIBATAKBggqhkjOPQQDAjAZMRcwFQYDVQQDDA5tZXNoLnRlc3Qgcm9vdDAgFw0yNjAxMDEwMDAwMDBaGA8y"
    "MTI2MDEwMTAwMDAwMFowGTEXMBUGA1UEAwwObWVzaC50ZXN0IHJvb3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAToExZnu8Lc"
    "7t8vIq5Gxruob7aO+UDWl1gKmCCvXB+mVKrRTUQOxuDD340P6nVoprQzQmAm+qZfQiLxL0riIYY2o0IwQDAPBgNVHRMBAf8EBTAD"
    "AQH/MA4GA1UdDwEB/wQEAwIBBjAdBgNVHREEFjAUhhJzcGlmZmU6Ly9tZXNoLnRlc3QwCgYIKoZIzj0EAwIDSAAwRQIhANx/JpEi"
    "xGPujuuUlNjaOXOTClsMYI17GYqFH1puuSZJAiAlukg13LxYjsORJtCQrZK5e9iwf6tygNcaI767Bodn2A=="
)


@dataclass(frozen=True)
class State:
    """What etcd holds under ``data/``. `name` is the golden folder; `about` says what the state is there to show."""

    name: str
    about: str
    values: Mapping[bytes, bytes]
    workload: Workload = field(default_factory=lambda: workload(ORDERS))
    """Whose sidecar's configuration the golden files hold."""
    learnt: tuple[str, ...] = ()
    """Authorities that its app has called."""


Item = AnyObject | tuple[bytes, bytes]


def state(name: str, about: str, *items: Item, of: Workload | None = None, learnt: Sequence[str] = ()) -> State:
    values = dict(item if isinstance(item, tuple) else (KEYS.object(item.ref), codec.encode(item)) for item in items)
    return State(name, about, values, of or workload(ORDERS), tuple(learnt))


def workload(service: ServiceRef, system_ca: str = "", **ports: int) -> Workload:
    """`ports`: where the app listens, by the service port's name."""
    return Workload(
        system_ca=system_ca,
        service=service,
        trust_domain=TRUST_DOMAIN,
        inbound_address="127.9.1.1",
        app_ports=ports,
        access_log="/dev/null",  # a file that every Envoy can open
    )


# -- objects; a name is "name" (namespace shop) or "name.namespace"


def ref(name: str) -> ServiceRef:
    return ServiceRef.parse(name, "shop")


def _metadata(name: str) -> Metadata:
    parsed = ref(name)
    return Metadata(name=parsed.name, namespace=parsed.namespace)


def port(
    name: str, number: int, protocol: Protocol = "http", target: int | None = None, *, identity_header: bool = True
) -> ServicePort:
    return ServicePort(name=name, port=number, protocol=protocol, target_port=target, identity_header=identity_header)


def service(name: str, *ports: ServicePort, needs: Sequence[Dependency] | None = ()) -> Service:
    """`needs` None: what it calls is learnt."""
    dependencies = None if needs is None else tuple(needs)
    return Service(
        api_version="mesh/v1",
        metadata=_metadata(name),
        spec=ServiceSpec(ports=ports or (port("http", 80),), dependencies=dependencies),
    )


def external(
    name: str, server: str, *ports: ServicePort, at: Sequence[str], numbers: Mapping[str, int] | None = None
) -> ExternalService:
    """`server`: a SPIFFE ID. `numbers`: on each address, by the port's name."""
    endpoints = tuple(ExternalEndpoint(address=one, ports=dict(numbers) if numbers else None) for one in at)
    spec = ExternalServiceSpec(
        ports=external_ports(ports or (port("http", 80),)),
        endpoints=endpoints,
        tls=ExternalTls(mode="MESH", spiffe_id=server),
    )
    return ExternalService(api_version="mesh/v1", metadata=_metadata(name), spec=spec)


def external_ports(ports: Sequence[ServicePort]) -> tuple[ExternalPort, ...]:
    return tuple(ExternalPort(**asdict(one)) for one in ports)


def federates(
    name: str, trust_domain: str, endpoint: BundleEndpoint | None = None, bundle: str | None = None
) -> federation.TrustBundle:
    spec = TrustBundleSpec(trust_domain=trust_domain, bundle_endpoint=endpoint, bundle=bundle)
    metadata = Metadata(name=name, namespace=SYSTEM_NAMESPACE)
    return federation.TrustBundle(api_version="mesh/v1", metadata=metadata, spec=spec)


def need_external(name: str, *, port: int | None = None, bind: int | None = None) -> Dependency:
    return replace(need(name, port=port, bind=bind), kind="ExternalService")


def at(value: Service | ExternalService, address: int | VirtualAddress) -> Service | ExternalService:
    """With a virtual address; a number is one of the default ranges."""
    if isinstance(address, int):
        ranges = Ranges.of(VirtualRanges())
        assert ranges is not None
        address = ranges.address(address)
    return replace(value, spec=replace(value.spec, virtual_address=address))


def need(name: str, *, port: int | None = None, bind: int | None = None) -> Dependency:
    target, _, namespace = name.partition(".")
    return Dependency(name=target, namespace=namespace or None, port=port, bind_port=bind)


def policy(
    name: str, action: Literal["ALLOW", "DENY", "AUDIT"], *rules: Rule, on: Sequence[str] | None = None
) -> AuthorizationPolicy:
    targets = None if on is None else tuple(TargetRef(name=one) for one in on)
    spec = AuthorizationPolicySpec(target_refs=targets, action=action, rules=rules)
    return AuthorizationPolicy(api_version="mesh/v1", metadata=_metadata(name), spec=spec)


def telemetry(name: str, spec: object, on: Sequence[str] | None = None) -> Telemetry:
    """`spec` in the form that people write."""
    targets = {"targetRefs": [{"name": one} for one in on]} if on is not None else {}
    made = msgspec.convert({**targets, **msgspec.convert(spec, dict)}, TelemetrySpec)
    return Telemetry(api_version="mesh/v1", metadata=_metadata(name), spec=made)


def rate_limit(name: str, *rules: object, on: Sequence[str] = ("orders",)) -> RateLimitPolicy:
    """`rules` in the form that people write."""
    spec = msgspec.convert({"targetRefs": [{"name": one} for one in on], "rules": rules}, RateLimitPolicySpec)
    return RateLimitPolicy(api_version="mesh/v1", metadata=_metadata(name), spec=spec)


def authentication(name: str, *rules: object, on: Sequence[str] | None = None) -> RequestAuthentication:
    """`rules` in the form that people write."""
    targets = {"targetRefs": [{"name": one} for one in on]} if on is not None else {}
    spec = msgspec.convert({**targets, "jwtRules": rules}, RequestAuthenticationSpec)
    return RequestAuthentication(api_version="mesh/v1", metadata=_metadata(name), spec=spec)


def peers(name: str, mode: str | None = None, on: Sequence[str] | None = None, **ports: str) -> PeerAuthentication:
    """ports: ``p8080="PERMISSIVE"``."""
    targets = {"targetRefs": [{"name": one} for one in on]} if on is not None else {}
    said = {"mtls": {"mode": mode}} if mode is not None else {}
    of_ports = {"portLevelMtls": {port[1:]: {"mode": one} for port, one in ports.items()}}
    spec = msgspec.convert({**targets, **said, **of_ports}, PeerAuthenticationSpec)
    return PeerAuthentication(api_version="mesh/v1", metadata=_metadata(name), spec=spec)


def rule(*sources: Source, to: Sequence[Operation] | None = None) -> Rule:
    """No sources: from anybody."""
    return Rule(from_=sources or None, to=None if to is None else tuple(to))


def who(*names: str) -> Source:
    return Source(identities=tuple(identity(name) for name in names))


def identity(name: str, trust_domain: str = TRUST_DOMAIN) -> str:
    parsed = ref(name)
    return f"spiffe://{trust_domain}/ns/{parsed.namespace}/svc/{parsed.name}"


def balance(name: str, kind: Literal["LeastRequest", "RoundRobin"], *targets: str) -> BackendTrafficPolicy:
    spec = BackendTrafficPolicySpec(
        target_refs=tuple(TargetRef(name=one) for one in targets), load_balancer=LoadBalancer(type=kind)
    )
    return BackendTrafficPolicy(api_version="mesh/v1", metadata=_metadata(name), spec=spec)


def traffic(name: str, *targets: str, **spec: object) -> BackendTrafficPolicy:
    """`spec`: its other fields as people write them: ``circuitBreaker={"maxConnections": 1}``."""
    refs = [{"name": target} for target in targets]
    whole = msgspec.convert({"targetRefs": refs, **spec}, BackendTrafficPolicySpec)
    return BackendTrafficPolicy(api_version="mesh/v1", metadata=_metadata(name), spec=whole)


# -- records


def instance(
    name: str, which: str, address: str, zone: str = "", *, labels: Mapping[str, str] | None = None, **ports: int
) -> tuple[bytes, bytes]:
    """`zone`: ``region/zone``."""
    key = KEYS.endpoint(EndpointRef(ref(name), which))
    record = Endpoint(address=address, ports=ports, labels=dict(labels or {}), locality=locality(zone))
    return key, codec.encode(record)


def locality(zone: str) -> Locality:
    region, _, name = zone.partition("/")
    return Locality(region=region, zone=name)


def bundle(sequence: int, *authorities: bytes, trust_domain: str = TRUST_DOMAIN) -> tuple[bytes, bytes]:
    record = TrustBundle(trust_domain=trust_domain, sequence=sequence, x509_authorities=authorities)
    return KEYS.trust_bundle(trust_domain), codec.encode(record)


def revocation(name: str, serial: int = 1, *, revoked: bool = True) -> tuple[bytes, bytes]:
    of = ref(name)
    record = Revocation(
        namespace=of.namespace, service=of.name, serial=serial, revoked=revoked, at=serial, by="anna", reason="stolen"
    )
    return KEYS.revocation(of), codec.encode(record)


def key_set(uri: str, jwks: str, ca: str | None = None) -> tuple[bytes, bytes]:
    """As a replica has fetched it."""
    record = KeySet(uri=uri, ca_sha256=ca_digest(ca), fetched=1, jwks=jwks)
    return KEYS.key_set(place_of(record)), codec.encode(record)


def epoch(value: str) -> tuple[bytes, bytes]:
    return KEYS.epoch(), codec.encode(Epoch(id=value))


def unreadable(item: AnyObject, value: bytes = b"\xc1") -> tuple[bytes, bytes]:
    """What stands under that object's key, and that nobody can read (0xc1 is no MessagePack)."""
    return KEYS.object(item.ref), value


# -- what a sidecar makes of them


def listings(
    values: Mapping[bytes, bytes], revision: int = 1, revisions: Mapping[bytes, int] | None = None
) -> list[Listing]:
    """As the watch stage lists: one listing a prefix."""
    prefixes = (KEYS.config(), KEYS.endpoints(), KEYS.trust(), KEYS.revocations(), KEYS.key_sets(), KEYS.epoch())
    return [
        Listing(
            prefix,
            revision,
            tuple(
                Put(key, value, (revisions or {}).get(key, revision))
                for key, value in sorted(values.items())
                if key.startswith(prefix)
            ),
        )
        for prefix in prefixes
    ]


def mesh_saying(**spec: object) -> Mesh:
    """The Mesh object, with fields as they are written."""
    made = msgspec.convert({"trustDomain": TRUST_DOMAIN, **spec}, MeshSpec)
    return Mesh(api_version="mesh/v1", metadata=Metadata(name="mesh", namespace="mesh-system"), spec=made)


def mesh_of(
    values: Mapping[bytes, bytes], revision: int = 1, revisions: Mapping[bytes, int] | None = None
) -> MeshState:
    mesh = MeshState(KEYS)
    for listing in listings(values, revision, revisions):
        mesh.apply(listing)
    return mesh


def compiled(
    of: Workload, mesh: MeshState, credentials: Credentials | None = None, learnt: Iterable[str] = ()
) -> Compiler:
    """A new compiler that has built everything from `mesh`."""
    compiler = Compiler(of, credentials=credentials or CREDENTIALS, learnt=dict.fromkeys(learnt, True))
    compiler.rebuild(mesh)
    return compiler


CREDENTIALS = Credentials(chain_pem=b"the chain of the SVID", key_pem=b"its private key")


def merged(states: Iterable[State]) -> dict[bytes, bytes]:
    """All that any of them holds; the later wins."""
    return {key: value for one in states for key, value in one.values.items()}


__all__ = [
    "CREDENTIALS", "KEYS", "ORDERS", "ROOT_DER", "TRUST_DOMAIN", "WEB", "EpochRef", "Item", "Operation", "Rule",
    "Source", "State", "TrustRef", "authentication", "balance", "bundle", "compiled", "epoch", "external", "federates",
    "identity", "instance", "key_set", "listings", "locality", "merged", "mesh_of", "need", "need_external", "policy",
    "port", "rate_limit", "ref", "revocation", "rule", "service", "state", "telemetry", "traffic", "unreadable", "who",
    "workload",
]  # fmt: skip
