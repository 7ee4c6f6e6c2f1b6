"""Traces: a span for each request on either side, passed on as W3C Trace Context, and exported by OTLP where asked for.

    request ─▶ listener: tracer ─▶ cluster `telemetry|traces` ─▶ internal listener `telemetry|traces|…` ─▶ collector

A listener that changes drains its connections. So each has two filter chains that are alike but for the tracer, always
both, and what a `Telemetry` says chooses the one that new connections come to: requests pay for spans where somebody
wants them. All else comes by other ways: which collector, and in which protocol, is the internal listener's matter; how
many requests are sampled is a value of the runtime; attributes are in the routes.

- Of requests that come without a ``traceparent`` a part is sampled, by Envoy's runtime. All are given one, mostly by
  the caller's sidecar; one that has it is sampled as that says. Envoy would ask the runtime for those too, and so cut
  traces that an app began: a header makes it leave them alone (`KEEP`). A sampler could tell the two apart as well, and
  costs a fifth of all that a request costs.
- OTLP/HTTP is OTLP/gRPC without its frame: Envoy's reverse bridge takes that off.
- A collector that is not there costs nothing but its spans: they are sent aside, and dropped where too many wait.
"""

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_address

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, extension_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.config.trace.v3 import http_tracer_pb2, opentelemetry_pb2
from envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3 import config_pb2 as bridge_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.tracing.v3 import custom_tag_pb2
from google.protobuf import any_pb2

from dataplane.compile import backends, clusters
from dataplane.compile.chains import choose
from dataplane.compile.hardening import http2_options
from dataplane.compile.http import router
from dataplane.compile.outside import host_of
from dataplane.compile.resources import CLUSTER, LISTENER, Resource
from dataplane.compile.route_actions import retry_policy, sidecars_tell
from dataplane.compile.stamps import NAMESPACE
from dataplane.compile.telemetry import Side, collector_of, tracing_of
from dataplane.compile.tls import packed
from dataplane.compile.workload import Workload
from dataplane.snapshot.state import MeshState
from routing.backends import Target
from routing.names import HOST_SUFFIX
from schemas.errors import Problem
from schemas.objects.telemetry import CustomTag, TracingProvider

Tracer = Callable[[hcm_pb2.HttpConnectionManager], None]
"""Has a connection manager make spans."""

TRACED = " traced"
"""How the name of a chain with a tracer ends."""
TRACES = "telemetry|traces"
COLLECTOR = "telemetry|collector"
# Spans that wait for the collector, in each worker: some MiB. What comes above that is dropped.
MAX_WAITING = 4096
# Seconds for one export.
EXPORT_S = 5
_EXPORT_PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_PROTOBUF = "application/x-protobuf"
OF_STRANGERS = ("traceparent", "tracestate")
"""Headers that a gateway takes away: nobody outside decides what is sampled here."""
KEEP = "x-client-trace-id"
"""Header for which Envoy samples a request without asking for how many, if only the parent says so too. It goes no
further than this sidecar."""

_TAGS = {
    "mesh.revision": f"%METADATA(VIRTUAL_HOST:{NAMESPACE}:revision)%",
    "mesh.response_code_details": "%RESPONSE_CODE_DETAILS%",
}
_CLIENT_TAGS = {
    "mesh.destination": f"%METADATA(CLUSTER:{NAMESPACE}:destination)%",
    "mesh.route": "%ROUTE_NAME%",
    "url.path": "%PATH(NQ:ORIG_OR_PATH)%",
}
_SERVER_TAGS = {"mesh.source": "%DOWNSTREAM_PEER_URI_SAN%", "url.path": "%PATH(NQ:PATH)%"}


@lru_cache(maxsize=8)
def _tracer(own: str, service: str, side: Side) -> hcm_pb2.HttpConnectionManager.Tracing:
    # The path with its query, which may hold secrets, is cut to nothing: `url.path` is without.
    made = hcm_pb2.HttpConnectionManager.Tracing(operation="%REQ(:METHOD)%")
    made.max_path_tag_length.SetInParent()
    made.client_sampling.value = 100  # of those with the header KEEP
    fixed = {"mesh.source" if side == "client" else "mesh.destination": own}
    for name, text in sorted((_TAGS | (_CLIENT_TAGS if side == "client" else _SERVER_TAGS)).items()):
        made.custom_tags.add(tag=name, value=text)
    for name, text in fixed.items():
        made.custom_tags.add(tag=name).literal.value = text
    config = opentelemetry_pb2.OpenTelemetryConfig(service_name=service)
    config.grpc_service.envoy_grpc.cluster_name = TRACES
    config.grpc_service.envoy_grpc.authority = "collector"  # the cluster's name is none that HTTP would take
    config.grpc_service.timeout.seconds = EXPORT_S
    config.max_cache_size.value = MAX_WAITING
    made.provider.CopyFrom(
        http_tracer_pb2.Tracing.Http(name="envoy.tracers.opentelemetry", typed_config=packed(config))
    )
    return made


def traced(state: MeshState, workload: Workload) -> bool:
    """Whether spans are made at all."""
    return tracing_of(state.telemetries(workload.service)) is not None


def add_chains(
    listener: listener_pb2.Listener,
    name: str,
    chain: Callable[[Tracer | None], listener_components_pb2.FilterChain],
    tracer: Tracer,
    *,
    spans: bool,
) -> None:
    """Both chains, `name` and ``<name> traced``, and the choice between them, which changes in place."""
    for suffix, of in (("", None), (TRACED, tracer)):
        made = chain(of)
        made.name = name + suffix
        listener.filter_chains.append(made)
    choose(listener, name + (TRACED if spans else ""))


def set_up(workload: Workload, side: Side, manager: hcm_pb2.HttpConnectionManager) -> None:
    """Let `manager` make spans."""
    manager.tracing.CopyFrom(_tracer(str(workload.identity), str(workload.service), side))
    ids = uuid_pb2.UuidRequestIdConfig()
    ids.pack_trace_reason.value = False  # the app's request id stays as it is
    manager.request_id_extension.typed_config.CopyFrom(packed(ids))
    keep = header_mutation_pb2.HeaderMutation()
    keep.mutations.add(remove=KEEP)  # what others set says nothing
    header = keep.mutations.add().append
    header.header.key, header.header.value = KEEP, "%REQ(TRACEPARENT)%"  # absent where that is
    header.append_action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    manager.early_header_mutation_extensions.append(
        extension_pb2.TypedExtensionConfig(name="mesh.keep_trace", typed_config=packed(keep))
    )


# -- what routes say


def tag(state: MeshState, workload: Workload, hosts: Iterable[route_components_pb2.VirtualHost]) -> None:
    """What the spans of requests that these routes take say beside what all spans do."""
    found = tracing_of(state.telemetries(workload.service))
    if found is None or not found[1].custom_tags:
        return
    said = route_components_pb2.Tracing()
    for one in found[1].custom_tags:
        said.custom_tags.append(_custom(one))
    for host in hosts:
        for route in host.routes:
            route.tracing.CopyFrom(said)


def _custom(one: CustomTag) -> custom_tag_pb2.CustomTag:
    made = custom_tag_pb2.CustomTag(tag=one.name)
    if one.request_header is not None:
        made.request_header.name = one.request_header
    else:
        made.literal.value = one.literal or ""
    return made


# -- the way to the collector


def tracing_resources(state: MeshState, workload: Workload) -> list[Resource] | Problem:
    """Nothing where nothing is exported."""
    found = tracing_of(state.telemetries(workload.service))
    if found is None or found[1].provider is None:
        return []
    telemetry, provider = found[0], found[1].provider
    result = []
    if provider.backend_ref is not None:
        service = collector_of(telemetry)
        assert service is not None  # noqa: S101  (the very field)
        port = provider.backend_ref.port
        declared = state.destination(service)
        if declared is None or all(one.port != port for one in declared.spec.ports):
            message = f"spans are lost: there is no port {port} of {service}"
            return Problem(str(telemetry.ref), message, "$.spec.tracing.provider.backendRef", "apply it")
        cluster = clusters.outbound_name(service, port)
        authority = host_of(declared, port) or f"{service}.{HOST_SUFFIX}:{port}"
        told = sidecars_tell(state, [Target(service, port)])
    else:
        told = False
        authority = provider.address or ""
        cluster = COLLECTOR
        result.append(_collector(authority, grpc=provider.protocol == "grpc"))
    # Another way is another listener: connections to the one before would go on with the one before.
    way = "|".join((provider.protocol, cluster, authority, provider.path))
    name = f"{TRACES}|{hashlib.blake2b(way.encode(), digest_size=4).hexdigest()}"
    return [*result, _way_in(name), _relay(name, provider, cluster, authority, told=told)]


def _way_in(listener: str) -> Resource:
    cluster = clusters.static(TRACES, address_pb2.Address())
    address = cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address
    address.envoy_internal_address.server_listener_name = listener
    cluster.typed_extension_protocol_options[backends.HTTP_OPTIONS].CopyFrom(_http(grpc=True))
    return Resource.of(CLUSTER, TRACES, cluster)


def _collector(authority: str, *, grpc: bool) -> Resource:
    host, _, port = authority.rpartition(":")
    cluster = clusters.static(COLLECTOR, clusters.socket_address(host.strip("[]"), int(port)))
    if not _is_ip(host.strip("[]")):
        cluster.type, cluster.dns_lookup_family = cluster_pb2.Cluster.STRICT_DNS, cluster_pb2.Cluster.ALL
    cluster.typed_extension_protocol_options[backends.HTTP_OPTIONS].CopyFrom(_http(grpc=grpc))
    return Resource.of(CLUSTER, COLLECTOR, cluster)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _http(*, grpc: bool) -> any_pb2.Any:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    if grpc:
        options.explicit_http_config.http2_protocol_options.CopyFrom(http2_options())
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    return packed(options)


def _relay(name: str, provider: TracingProvider, cluster: str, authority: str, *, told: bool) -> Resource:
    """Takes the tracer's OTLP/gRPC and sends it on. told: as of `retry_policy`."""
    route = route_components_pb2.Route(match=route_components_pb2.RouteMatch(path=_EXPORT_PATH))
    route.route.cluster = cluster
    route.route.host_rewrite_literal = authority
    route.route.timeout.seconds = EXPORT_S
    route.route.retry_policy.CopyFrom(retry_policy(told=told))
    filters = []
    if provider.protocol == "http":
        route.route.prefix_rewrite = provider.path
        bridge = bridge_pb2.FilterConfig(content_type=_PROTOBUF, withhold_grpc_frames=True)
        filters.append(hcm_pb2.HttpFilter(name="mesh.otlp", typed_config=packed(bridge)))
    manager = hcm_pb2.HttpConnectionManager(stat_prefix=TRACES, http_filters=[*filters, router()])
    manager.http2_protocol_options.CopyFrom(http2_options())
    manager.route_config.virtual_hosts.add(name=TRACES, domains=["*"], routes=[route])
    manager.generate_request_id.value = False
    listener = listener_pb2.Listener(name=name)
    listener.internal_listener.SetInParent()
    listener.filter_chains.add().filters.append(
        listener_components_pb2.Filter(
            name="envoy.filters.network.http_connection_manager", typed_config=packed(manager)
        )
    )
    return Resource.of(LISTENER, name, listener)
