"""Values of every kind, for the tests of this folder."""

from typing import Any

from hypothesis import strategies as st

from schemas import codec
from schemas.log_levels import LogLevels
from schemas.names import ObjectRef, ServiceRef, SpiffeId
from schemas.objects import AnyObject, Metadata
from schemas.objects.authorization import AuthorizationPolicy, AuthorizationPolicySpec, Operation, Rule, Source
from schemas.objects.common import TargetRef
from schemas.objects.external import ExternalEndpoint, ExternalPort, ExternalService, ExternalServiceSpec, ExternalTls
from schemas.objects.federation import BundleEndpoint, TrustBundleSpec
from schemas.objects.federation import TrustBundle as FederatedTrustBundle
from schemas.objects.mesh import Mesh, MeshSpec, VirtualRanges
from schemas.objects.peer_authentication import MutualTls, PeerAuthentication, PeerAuthenticationSpec
from schemas.objects.rate_limit import (
    Limit,
    LimitHeader,
    LimitMatch,
    LimitPath,
    LimitSource,
    RateLimitPolicy,
    RateLimitPolicySpec,
    RateLimitRule,
)
from schemas.objects.request_authentication import (
    FromHeader,
    JwtRule,
    RequestAuthentication,
    RequestAuthenticationSpec,
)
from schemas.objects.service import Dependency, Service, ServicePort, ServiceSpec, VirtualAddress
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
from schemas.objects.traffic import BackendTrafficPolicy, BackendTrafficPolicySpec, LoadBalancer
from schemas.records import (
    AddressBlock,
    AddressSlot,
    AnyRecord,
    Beacon,
    Endpoint,
    Epoch,
    ExcusedLeaf,
    FederationStatus,
    HostAuthority,
    HostRule,
    IssuingTimes,
    JoinToken,
    KeySet,
    KeySetStatus,
    LoginToken,
    LogLevel,
    Nack,
    OpenStreams,
    Operator,
    Outage,
    PlaintextPort,
    PlaintextSource,
    RequestRecord,
    Revocation,
    SealedKey,
    SidecarStatus,
    SilentSidecar,
    TokenUse,
    TrustBundle,
)

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
trust_domains = st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True)
service_refs = st.builds(ServiceRef, names, names)
object_refs = st.builds(ObjectRef, st.sampled_from(["Service", "Mesh", "AuthorizationPolicy"]), names, names)
spiffe_ids = st.builds(
    lambda domain, segments: SpiffeId(domain, "".join(f"/{segment}" for segment in segments)),
    trust_domains,
    st.lists(st.from_regex(r"[a-zA-Z0-9._-]{1,20}", fullmatch=True).filter(lambda s: s not in (".", "..")), max_size=6),
)

SERVICE = Service(
    api_version="mesh/v1",
    metadata=Metadata(name="orders", namespace="shop", labels={"team": "b"}),
    spec=ServiceSpec(
        ports=(
            ServicePort(name="web", port=8080, protocol="http"),
            ServicePort(name="db", port=5432, protocol="tcp", target_port=15432),
        ),
        dependencies=(Dependency(name="payments", namespace="money", bind_port=9101),),
        virtual_address=VirtualAddress(ipv4="127.240.3.4", ipv6="fd6d:6573:6800::304"),
    ),
)
MESH = Mesh(
    api_version="mesh/v1",
    metadata=Metadata(name="mesh", namespace="mesh-system"),
    spec=MeshSpec(
        trust_domain="example.org", svid_ttl_seconds=600, virtual_addresses=VirtualRanges(ipv4="127.241.0.0/20")
    ),
)
BALANCING = BackendTrafficPolicy(
    api_version="mesh/v1",
    metadata=Metadata(name="spread", namespace="shop"),
    spec=BackendTrafficPolicySpec(
        target_refs=(TargetRef(name="orders"),), load_balancer=LoadBalancer(type="RoundRobin")
    ),
)
POLICY = AuthorizationPolicy(
    api_version="mesh/v1",
    metadata=Metadata(name="web-may-order", namespace="shop"),
    spec=AuthorizationPolicySpec(
        target_refs=(TargetRef(name="orders"),),
        rules=(
            Rule(
                from_=(Source(identities=("spiffe://example.org/ns/shop/svc/web",)),),
                to=(Operation(methods=("GET",), paths=("/orders/*",), ports=(8080,)),),
            ),
        ),
    ),
)
EXTERNAL = ExternalService(
    api_version="mesh/v1",
    metadata=Metadata(name="stock", namespace="partner"),
    spec=ExternalServiceSpec(
        ports=(ExternalPort(name="web", port=8080, protocol="http"),),
        endpoints=(ExternalEndpoint(address="192.0.2.7", ports={"web": 18080}),),
        tls=ExternalTls(mode="MESH", spiffe_id="spiffe://partner.example/ns/back/svc/stock"),
    ),
)
FEDERATED = FederatedTrustBundle(
    api_version="mesh/v1",
    metadata=Metadata(name="partner", namespace="mesh-system"),
    spec=TrustBundleSpec(
        trust_domain="partner.example",
        bundle_endpoint=BundleEndpoint(
            url="https://partner.example/bundle",
            profile="https_spiffe",
            endpoint_spiffe_id="spiffe://partner.example/control-plane",
        ),
        bundle='{"keys": []}',
    ),
)
ROUTES = tuple(
    document.object
    for document in codec.load_yaml(
        """
apiVersion: mesh/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: orders, sectionName: web}]
  hostnames: ['*.example.com']
  rules:
  - matches: [{path: {value: /a}, headers: [{name: x, value: y}], queryParams: [{name: q, value: '1'}], method: GET}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /b}}}
    - {type: Fault, fault: {delay: {fixedDelay: 1s, percentage: 0.5}}}
    backendRefs: [{name: orders, port: 8080, weight: 9, matchLabels: {version: v2}}]
    timeouts: {request: 10s}
    retry: {codes: [503], backoff: 10ms}
    sessionPersistence: {type: Header}
---
apiVersion: mesh/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: orders, port: 9000}]
  rules: [{matches: [{method: {service: shop.Orders}}], backendRefs: [{name: orders, port: 9000}]}]
---
apiVersion: mesh/v1
kind: TCPRoute
metadata: {name: db, namespace: shop}
spec: {parentRefs: [{kind: Service, name: orders, port: 5432}], rules: [{backendRefs: [{name: orders, port: 5432}]}]}
""",
        "values",
    )
)
TELEMETRY = Telemetry(
    api_version="mesh/v1",
    metadata=Metadata(name="slow-ones", namespace="shop"),
    spec=TelemetrySpec(
        target_refs=(TargetRef(name="orders"),),
        access_logging=(
            AccessLogging(
                match=TelemetryMatch(mode="SERVER"),
                filter=AccessLogFilter(min_status_code=400, min_duration="1s"),
                random_sampling_percentage=12,
            ),
        ),
        metrics=(Metrics(match=TelemetryMatch(mode="CLIENT"), disabled=True),),
        tracing=Tracing(
            provider=TracingProvider(backend_ref=CollectorRef(name="otel", namespace="observability", port=4317)),
            random_sampling_percentage=0.5,
            custom_tags=(CustomTag(name="shop.tenant", request_header="x-tenant"),),
        ),
    ),
)
LIMITS = RateLimitPolicy(
    api_version="mesh/v1",
    metadata=Metadata(name="orders", namespace="shop"),
    spec=RateLimitPolicySpec(
        target_refs=(TargetRef(name="orders"),),
        rules=(
            RateLimitRule(
                from_=(LimitSource(namespaces=("shop",)),),
                matches=(
                    LimitMatch(
                        path=LimitPath(type="Exact", value="/orders"),
                        method="POST",
                        headers=(LimitHeader(name="x-batch", value="yes"),),
                    ),
                ),
                ports=(8080,),
                per="All",
                limit=Limit(requests=10, unit="Minute", burst=20),
            ),
        ),
    ),
)
AUTHENTICATION = RequestAuthentication(
    api_version="mesh/v1",
    metadata=Metadata(name="issuers", namespace="shop"),
    spec=RequestAuthenticationSpec(
        target_refs=(TargetRef(name="orders"),),
        jwt_rules=(
            JwtRule(
                issuer="https://one.example",
                audiences=("orders",),
                jwks='{"keys": []}',
                from_headers=(FromHeader(name="X-Token", prefix="Token "),),
                forward_original_token=True,
            ),
            JwtRule(issuer="https://two.example", jwks='{"keys": []}'),
            JwtRule(
                issuer="https://three.example",
                jwks_uri="https://three.example/keys",
                jwks_ca="PEM",
                jwks_refresh_interval="5m",
            ),
        ),
    ),
)
PEERS = PeerAuthentication(
    api_version="mesh/v1",
    metadata=Metadata(name="orders", namespace="shop"),
    spec=PeerAuthenticationSpec(
        target_refs=(TargetRef(name="orders"),),
        mtls=MutualTls(mode="STRICT"),
        port_level_mtls={"8080": MutualTls(mode="PERMISSIVE")},
    ),
)
OBJECTS: tuple[AnyObject, ...] = (
    SERVICE,
    MESH,
    BALANCING,
    POLICY,
    LIMITS,
    EXTERNAL,
    FEDERATED,
    *ROUTES,
    TELEMETRY,
    AUTHENTICATION,
    PEERS,
)

RECORDS: tuple[AnyRecord, ...] = (
    AddressBlock(slots={"127.240.3.4": AddressSlot(namespace="shop", name="orders", released=7)}),
    Endpoint(address="10.0.0.1", ports={"web": 8080}, labels={"zone": "a"}),
    SidecarStatus(
        service="orders",
        namespace="shop",
        instance="orders-1",
        applied_revision=7,
        acked_revision=6,
        nacks=(Nack(type_url="type.googleapis.com/x", resource="inbound", message="no", revision=7),),
        stale_since=1_700_000_000,
        svid_expires=1_700_003_600,
        plaintext=(
            PlaintextPort(
                port=8080,
                since=1_600_000_000,
                last_seen=1_700_000_000,
                signs=3,
                counted=2,
                sources=(PlaintextSource(address="10.0.0.7", last_seen=1_700_000_000),),
            ),
        ),
        open_streams=OpenStreams(bound_ms=2000, passed_bound_ms=11_000, problem="no"),
    ),
    SilentSidecar(until=1_700_003_630, trust_sequence=3, address="10.0.0.7"),
    LogLevel(
        namespace="shop",
        service="orders",
        instance="orders-1",
        levels=LogLevels(level="debug", components={"http": "trace", "agent": "info"}, until=1_700_000_600),
        seconds=600,
        at=1_700_000_000,
        by="anna",
    ),
    Epoch(id="4f1c"),
    Beacon(replica="4f1c", count=7),
    IssuingTimes(epoch="4f1c", seen=1_700_000_000, outages=(Outage(start=1_690_000_000, end=1_690_009_000),)),
    ExcusedLeaf(identity="spiffe://example.org/ns/shop/svc/orders", at=1_700_000_000, by="10.0.0.7", key=b"k" * 32),
    Revocation(
        namespace="shop",
        service="orders",
        serial=1_700_000_000,
        revoked=True,
        at=1_700_000_000,
        by="anna",
        reason="key",
    ),
    TrustBundle(trust_domain="example.org", sequence=3, x509_authorities=(b"\x30\x82", b"\x00\xff")),
    SealedKey(
        id="k1",
        role="mesh-root",
        state="active",
        chain=(b"\x30",),
        kek_id="e",
        nonce=b"n" * 12,
        sealed=b"do-not-show",
        not_after=2_000_000_000,
    ),
    JoinToken(
        id="t1",
        sha256=b"s" * 32,
        epoch="4f1c",
        namespace="shop",
        service="orders",
        expires=9,
        created=1,
        created_by="operator/ann",
        uses=2,
        used=(TokenUse(at=2, by="10.0.0.7"),),
    ),
    FederationStatus(trust_domain="partner.example", object_revision=4, seed=b"d" * 32, problem="no answer", next=9),
    KeySet(uri="https://one.example/keys", ca_sha256=b"c" * 32, fetched=3, jwks='{"keys":[]}'),
    KeySetStatus(uri="https://one.example/keys", tried=4, fetched=3, failures=1, problem="no answer", next=9, by="r1"),
    RequestRecord(fingerprint=b"f" * 32, revision=4),
    LoginToken(id="t2", sha256=b"s" * 32, epoch="4f1c", operator="ann", expires=9, created=1, created_by="root-local"),
    Operator(name="ann", role="editor", namespaces=("shop",), since=1, granted_by="root-local"),
    HostAuthority(
        name="corp",
        x509_authorities=(b"\x30",),
        rules=(HostRule(match="dns:*.example.org", selector="shop/*"),),
        changed=1,
        changed_by="root-local",
    ),
)


def plain_service(**changes: Any) -> dict[str, Any]:
    """The YAML form of a sound service, with top-level fields replaced."""
    return {
        "apiVersion": "mesh/v1",
        "kind": "Service",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"ports": [{"name": "web", "port": 8080, "protocol": "http"}]},
        **changes,
    }
