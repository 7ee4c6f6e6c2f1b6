"""Random content of etcd, of few names, so that things meet."""

from __future__ import annotations

import ssl

from hypothesis import strategies as st

from schemas import codec
from schemas.keys import EndpointRef
from schemas.names import SYSTEM_NAMESPACE, ServiceRef
from schemas.objects import (
    AuthorizationPolicy,
    BackendTrafficPolicy,
    ExternalService,
    Gateway,
    Mesh,
    Metadata,
    PeerAuthentication,
    RateLimitPolicy,
    RequestAuthentication,
    Service,
)
from schemas.objects.authorization import AuthorizationPolicySpec, ClaimMatch, Operation, Rule, Source
from schemas.objects.common import CertificateFiles, TargetRef
from schemas.objects.external import ExternalEndpoint, ExternalPort, ExternalServiceSpec, ExternalTls
from schemas.objects.gateway import (
    AllowedRoutes,
    GatewaySpec,
    Listener,
    ListenerTls,
    RouteGroupKind,
    RouteNamespaces,
)
from schemas.objects.mesh import Authorization, MeshSpec, OutboundTrafficPolicy, VirtualRanges
from schemas.objects.peer_authentication import MutualTls, PeerAuthenticationSpec
from schemas.objects.rate_limit import Limit, LimitMatch, LimitPath, LimitSource, RateLimitPolicySpec, RateLimitRule
from schemas.objects.request_authentication import FromHeader, JwtRule, RequestAuthenticationSpec
from schemas.objects.service import Dependency, ServicePort, ServiceSpec, VirtualAddress
from schemas.objects.telemetry import (
    AccessLogFilter,
    AccessLogging,
    CollectorRef,
    CustomTag,
    Metrics,
    Telemetry,
    TelemetryMatch,
    TelemetrySpec,
    Tracing,
    TracingProvider,
)
from schemas.objects.traffic import (
    BackendTrafficPolicySpec,
    CircuitBreaker,
    ConsistentHash,
    Failover,
    Force,
    HashHeader,
    HealthCheck,
    LoadBalancer,
    PassiveHealthCheck,
    PreferLocal,
    RingHash,
    ZoneAware,
    ZoneFailover,
)
from schemas.records import Endpoint, Locality, TrustBundle
from tests.properties.routes import LABELS, routes
from tests.states.build import KEYS, ROOT_DER, TRUST_DOMAIN, epoch, federates, identity, key_set, revocation
from tests.support.tokens import NOBODYS

ANOTHERS = NOBODYS.replace('"kty"', '"kid":"other","kty"')
PORTS = (
    ServicePort(name="http", port=80, protocol="http"),
    ServicePort(name="raw", port=7, protocol="tcp"),
    ServicePort(name="passed", port=81, protocol="http2", identity_header=False),
)

_namespaces = st.sampled_from(["shop", "back"])
_services = st.sampled_from(["web", "orders", "cart"])
_port_numbers = st.sampled_from([7, 80, 8080])
_port_names = st.sampled_from(["http", "raw", "more"])


def _few(strategy: st.SearchStrategy[object], least: int = 0) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


def _maybe(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | strategy


# -- objects

_identities = st.sampled_from(
    [
        identity("web"),
        identity("orders"),
        identity("web.back"),
        identity("web").replace(TRUST_DOMAIN, "MESH.test"),
        "spiffe://other.test/ns/shop/svc/web",
        "spiffe://mesh.test/ns//svc",
    ]
)
_sources = st.builds(Source, identities=_maybe(_few(_identities)), namespaces=_maybe(_few(_namespaces)))
_callers = st.builds(LimitSource, identities=_maybe(_few(_identities)), namespaces=_maybe(_few(_namespaces)))
_operations = st.builds(
    Operation,
    methods=_maybe(_few(st.sampled_from(["GET", "POST"]))),
    paths=_maybe(_few(st.sampled_from(["/", "/*", "/a", "/a/*", "/b/c"]))),
    ports=_maybe(_few(_port_numbers)),
)
_asking_tokens = st.builds(
    Source,
    identities=_maybe(_few(_identities)),
    request_principals=_few(st.sampled_from(["*", "https://one.example/*", "*/anna", "https://one.example/anna"])),
)
_when = st.builds(
    ClaimMatch,
    key=st.sampled_from(["request.auth.claims[groups]", "request.auth.claims[realm][role]"]),
    values=_few(st.sampled_from(["*", "admin", "adm*", "*min"]), 1),
)
_rules = st.builds(
    Rule,
    from_=_maybe(_few(st.one_of(_sources, _sources, _asking_tokens))),
    to=_maybe(_few(_operations)),
    when=st.just(()) | st.just(()) | _few(_when),
)
_targets = _few(st.builds(TargetRef, name=_services))


def _object(
    kind: type,
    names: st.SearchStrategy[str],
    spec: st.SearchStrategy[object],
    namespaces: st.SearchStrategy[str] = _namespaces,
) -> st.SearchStrategy[object]:
    metadata = st.builds(Metadata, name=names, namespace=namespaces)
    return st.builds(kind, api_version=st.just("mesh/v1"), metadata=metadata, spec=spec)


def policies(action: str | None = None) -> st.SearchStrategy[AuthorizationPolicy]:
    actions = st.sampled_from(["ALLOW", "ALLOW", "DENY", "AUDIT"]) if action is None else st.just(action)
    spec = st.builds(AuthorizationPolicySpec, target_refs=_maybe(_targets), action=actions, rules=_few(_rules))
    namespaces = st.sampled_from(["shop", "shop", "back", "mesh-system"])
    return _object(AuthorizationPolicy, st.sampled_from(["p1", "p2", "p3"]), spec, namespaces)  # type: ignore[return-value]


_dependencies = st.builds(
    Dependency,
    kind=st.sampled_from(["Service", "ExternalService"]),
    name=st.sampled_from(["web", "orders", "cart", "*"]),
    namespace=_maybe(_namespaces),
    port=_maybe(_port_numbers),
    bind_port=_maybe(st.sampled_from([9101, 9102, 15001])),
)
_service_ports = st.builds(
    ServicePort,
    name=_port_names,
    port=_port_numbers,
    protocol=st.sampled_from(["http", "http2", "grpc", "tcp"]),
    target_port=_maybe(_port_numbers),
)
# Two that replicas may have given out, one of another range, and one that nobody may listen at.
_virtual = st.sampled_from(
    [
        None,
        VirtualAddress(ipv4="127.240.3.4", ipv6="fd6d:6573:6800::304"),
        VirtualAddress(ipv4="127.240.0.5", ipv6="fd6d:6573:6800::5"),
        VirtualAddress(ipv4="127.241.0.5", ipv6="fd6d:6573:6800::5"),
        VirtualAddress(ipv4="0.0.0.0", ipv6="no address"),  # noqa: S104  (not bound)
    ]
)
services = _object(
    Service,
    _services,
    st.builds(
        ServiceSpec,
        ports=_few(_service_ports, 1),
        dependencies=_maybe(_few(_dependencies)),
        virtual_address=_virtual,
    ),
)
_hashes = st.builds(
    ConsistentHash,
    type=st.just("Header"),
    header=st.just(HashHeader(name="x-user")),
    ring_hash=_maybe(st.just(RingHash())),
) | st.just(ConsistentHash(type="SourceIP"))
_zones = st.builds(
    ZoneAware,
    prefer_local=st.builds(
        PreferLocal,
        min_endpoints_threshold=st.sampled_from([1, 3]),
        percentage_enabled=st.sampled_from([0, 50, 100]),
        force=_maybe(st.just(Force())),
    ),
) | st.just(ZoneAware(failover=Failover(zones=(ZoneFailover(from_="a", to=("b",)),))))
_balancers = st.builds(
    LoadBalancer, type=st.sampled_from(["LeastRequest", "RoundRobin", "Random"]), zone_aware=_maybe(_zones)
) | st.builds(LoadBalancer, type=st.just("ConsistentHash"), consistent_hash=_hashes, zone_aware=_maybe(_zones))
_breakers = st.builds(CircuitBreaker, max_connections=_maybe(st.sampled_from([0, 5])))
_health_checks = st.builds(HealthCheck, passive=_maybe(st.just(PassiveHealthCheck())))
_log_levels = st.builds(
    AccessLogging,
    match=st.builds(TelemetryMatch, mode=st.sampled_from(["CLIENT", "SERVER", "CLIENT_AND_SERVER"])),
    disabled=st.booleans(),
    filter=_maybe(
        st.builds(
            AccessLogFilter,
            min_status_code=_maybe(st.sampled_from([200, 400])),
            min_duration=_maybe(st.sampled_from(["0s", "1s"])),
        )
    ),
    random_sampling_percentage=st.sampled_from([0, 25, 100]),
)
_collectors = st.builds(CollectorRef, name=_services, namespace=_maybe(_namespaces), port=st.sampled_from([80, 9000]))
_providers = st.builds(
    TracingProvider,
    protocol=st.sampled_from(["grpc", "http"]),
    backend_ref=_collectors,
) | st.builds(TracingProvider, address=st.sampled_from(["127.0.0.1:4317", "otel.example:4318"]))
_tracing = st.builds(
    Tracing,
    disabled=st.booleans(),
    provider=_maybe(_providers),
    random_sampling_percentage=st.sampled_from([0.0, 0.25, 100.0]),
    custom_tags=_few(st.builds(CustomTag, name=st.just("tenant"), request_header=st.just("x-tenant")), 1),
)
_metrics = st.builds(Metrics, disabled=st.booleans())
_telemetry = _object(
    Telemetry,
    st.sampled_from(["t1", "t2"]),
    st.builds(
        TelemetrySpec,
        target_refs=_maybe(_few(st.builds(TargetRef, name=_services), 1)),
        access_logging=_maybe(_few(_log_levels)),
        metrics=_maybe(_few(_metrics)),
        tracing=_maybe(_tracing),
    ),
    _namespaces | st.just(SYSTEM_NAMESPACE),
)
_limits = _object(
    RateLimitPolicy,
    st.sampled_from(["l1", "l2"]),
    st.builds(
        RateLimitPolicySpec,
        target_refs=_few(st.builds(TargetRef, name=_services), 1),
        rules=_few(
            st.builds(
                RateLimitRule,
                from_=_maybe(_few(_callers, 1)),
                matches=_few(
                    st.builds(
                        LimitMatch,
                        path=st.sampled_from([LimitPath(), LimitPath(value="/a/"), LimitPath(type="Exact")]),
                        method=_maybe(st.sampled_from(["GET", "POST"])),
                    )
                ),
                ports=_maybe(_few(_port_numbers, 1)),
                per=st.sampled_from(["Client", "All"]),
                limit=st.builds(Limit, requests=st.sampled_from([1, 5]), unit=st.sampled_from(["Second", "Hour"])),
            ),
            1,
        ),
    ),
)
_key_places = st.sampled_from(["https://three.example/keys", "https://three.example/others"])
_key_sets = st.builds(key_set, _key_places, st.sampled_from([NOBODYS, ANOTHERS]))
_authentications = _object(
    RequestAuthentication,
    st.sampled_from(["t1", "t2"]),
    st.builds(
        RequestAuthenticationSpec,
        target_refs=_maybe(_targets),
        jwt_rules=_few(
            st.builds(
                JwtRule,
                issuer=st.sampled_from(["https://one.example", "https://two.example"]),
                jwks=st.sampled_from([NOBODYS, NOBODYS, "no keys"]),
                from_headers=st.sampled_from([(), (FromHeader(name="X-Token"),)]),
                forward_original_token=st.booleans(),
            )
            | st.builds(JwtRule, issuer=st.just("https://three.example"), jwks_uri=_key_places),
            1,
        ),
    ),
    _namespaces | st.just(SYSTEM_NAMESPACE),
)
_modes = st.builds(MutualTls, mode=st.sampled_from(["STRICT", "PERMISSIVE", "PERMISSIVE"]))
_peers = _object(
    PeerAuthentication,
    st.sampled_from(["m1", "m2"]),
    st.builds(
        PeerAuthenticationSpec,
        target_refs=_maybe(_targets),
        mtls=_maybe(_modes),
        port_level_mtls=st.dictionaries(_port_numbers.map(str), _modes, max_size=2),
    ),
    _namespaces | st.just(SYSTEM_NAMESPACE),
)
_traffic = _object(
    BackendTrafficPolicy,
    st.sampled_from(["b1", "b2"]),
    st.builds(
        BackendTrafficPolicySpec,
        target_refs=_few(st.builds(TargetRef, name=_services), 1),
        load_balancer=_balancers,
        circuit_breaker=_maybe(_breakers),
        health_check=_maybe(_health_checks),
    ),
)
_mesh = st.builds(
    Mesh,
    api_version=st.just("mesh/v1"),
    metadata=st.just(Metadata(name="mesh", namespace=SYSTEM_NAMESPACE)),
    spec=st.builds(
        MeshSpec,
        trust_domain=st.just(TRUST_DOMAIN),
        virtual_addresses=st.sampled_from(
            [VirtualRanges(), VirtualRanges(ipv4="127.241.0.0/24"), VirtualRanges(ipv4="everywhere")]
        ),
        outbound_traffic_policy=st.builds(OutboundTrafficPolicy, mode=st.sampled_from(["REGISTRY_ONLY", "ALLOW_ANY"])),
        authorization=st.builds(Authorization, default_action=st.sampled_from(["DENY", "DENY", "ALLOW"])),
    ),
)


_CA = ssl.DER_cert_to_PEM_cert(ROOT_DER)
_tls = st.one_of(
    st.builds(ExternalTls, mode=st.just("MESH"), spiffe_id=_identities),
    st.just(ExternalTls(mode="DISABLE")),
    st.builds(
        ExternalTls,
        mode=st.sampled_from(["SIMPLE", "MUTUAL"]),
        sni=_maybe(st.just("sni.test")),
        ca_certificates=st.sampled_from([None, _CA, "no PEM"]),
        client_certificate=_maybe(st.sampled_from([CertificateFiles(certificate="a.crt", key="a.key")])),
    ),
)
_hosts = st.sampled_from([(), (), ("a.example",), ("a.example", "b.example"), ("orders.shop",)])
_external_ports = st.builds(
    ExternalPort,
    name=_port_names,
    port=_port_numbers,
    protocol=st.sampled_from(["http", "http2", "tcp"]),
    target_port=_maybe(_port_numbers),
    tls=_maybe(_tls),
)
_externals = _object(
    ExternalService,
    _services,
    st.builds(
        ExternalServiceSpec,
        hosts=_hosts,
        ports=_few(_external_ports, 1),
        endpoints=_few(
            st.builds(
                ExternalEndpoint,
                address=st.sampled_from(["192.0.2.1", "2001:db8::2", "0.0.0.0", "a.example"]),  # noqa: S104  (not bound)
                ports=_maybe(st.dictionaries(_port_names, _port_numbers, max_size=2)),
            ),
        ),
        resolution=st.sampled_from(["DNS", "DNS", "DNS_ROUND_ROBIN"]),
        tls=_tls,
        virtual_address=_virtual,
    ),
    _namespaces | st.just(SYSTEM_NAMESPACE),
)
_FILES = (CertificateFiles(certificate="a.crt", key="a.key"), CertificateFiles(certificate="b.crt", key="b.key"))
_listeners = st.builds(
    Listener,
    name=_port_names,
    hostname=st.sampled_from([None, "a.example", "*.example"]),
    port=st.sampled_from([80, 8080]),
    protocol=st.just("HTTP"),
    tls=_maybe(st.builds(ListenerTls, https_redirect=st.booleans())),
    allowed_routes=st.builds(
        AllowedRoutes,
        namespaces=st.sampled_from(
            [RouteNamespaces(), RouteNamespaces(from_="All"), RouteNamespaces(from_="Names", names=("back",))]
        ),
        kinds=st.sampled_from([(), (RouteGroupKind(kind="HTTPRoute"),)]),
    ),
) | st.builds(
    Listener,
    name=_port_names,
    hostname=st.sampled_from([None, "a.example", "*.example"]),
    port=st.just(443),
    protocol=st.just("HTTPS"),
    tls=st.builds(ListenerTls, certificate_refs=_few(st.sampled_from(_FILES), 1)),
)
_gateways = _object(
    Gateway,
    _services,
    st.builds(GatewaySpec, service=_services, listeners=_few(_listeners, 1), xff_trusted_hops=st.sampled_from([0, 1])),
)
_federated = st.builds(
    federates, st.sampled_from(["f1", "f2"]), st.sampled_from([TRUST_DOMAIN, "other.test", "third.test"])
)


def _stored(value: object) -> tuple[bytes, bytes]:
    return KEYS.object(value.ref), codec.encode(value)  # type: ignore[attr-defined, arg-type]


# -- keys with their values


_endpoints = st.tuples(
    st.builds(EndpointRef, st.builds(ServiceRef, _namespaces, _services), st.sampled_from(["i1", "i2"])).map(
        KEYS.endpoint
    ),
    st.builds(
        Endpoint,
        address=st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1"]),
        ports=st.dictionaries(_port_names, _port_numbers, max_size=3),
        labels=st.sampled_from(LABELS),
        locality=st.sampled_from([Locality(), Locality(region="eu", zone="a"), Locality(region="eu", zone="b")]),
    ).map(codec.encode),
)
_bundles = st.builds(
    lambda domain, sequence, authorities: (
        KEYS.trust_bundle(domain),
        codec.encode(TrustBundle(trust_domain=domain, sequence=sequence, x509_authorities=authorities)),
    ),
    st.sampled_from([TRUST_DOMAIN, "other.test"]),
    st.integers(0, 3),
    st.sampled_from([(), (ROOT_DER,)]),
)

_revocations = st.builds(
    revocation,
    st.sampled_from(["web", "orders", "web.back", "cart"]),
    st.integers(1, 3),
    revoked=st.booleans(),
)

items = st.one_of(
    services.map(_stored),
    policies().map(_stored),
    routes.map(_stored),
    routes.map(_stored),
    _traffic.map(_stored),
    _telemetry.map(_stored),
    _limits.map(_stored),
    _authentications.map(_stored),
    _peers.map(_stored),
    _mesh.map(_stored),
    _externals.map(_stored),
    _gateways.map(_stored),
    _federated.map(_stored),
    _endpoints,
    _bundles,
    _key_sets,
    _revocations,
    st.sampled_from(["e1", "e2"]).map(epoch),
)


@st.composite
def _spoiled(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A key that may hold something, with a value that is damaged."""
    key, value = draw(items)
    how = draw(st.sampled_from(["cut", "bytes", "empty", "version", "other", "deep"]))
    match how:
        case "cut":
            value = value[: draw(st.integers(0, max(len(value) - 1, 0)))]
        case "bytes":
            value = draw(st.binary(max_size=20))
        case "empty":
            value = b""
        case "version":
            value = value.replace(b"mesh/v1", b"mesh/v2")
        case "other":
            value = draw(items)[1]
        case "deep":
            value = b"\x91" * 100_000
    return key, value


spoiled = _spoiled()

_segments = st.one_of(
    st.sampled_from(["Service", "shop", "a.b", "UP", "", "..", "é", "\x00", "orders"]), st.text(max_size=4)
)
foreign_keys = st.one_of(
    st.binary(max_size=40),
    st.tuples(
        st.sampled_from(
            [
                "data/config",
                "data/endpoints",
                "data/trust",
                "data/revocations",
                "data/jwks",
                "data/epoch",
                "data",
                "control/status",
                "",
            ]
        ),
        st.lists(_segments, max_size=4),
    ).map(lambda parts: f"/mesh/v1/{'/'.join([parts[0], *parts[1]])}".encode(errors="replace")),
)
