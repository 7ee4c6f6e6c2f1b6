"""What is outside of the mesh, `ExternalService`s without a sidecar at the other end: clusters that speak the app's own
protocol, with TLS that begins here.

A server is always verified: by the authorities that the object gives, or by those of this host, and by its name. Where
that can't be done there is no way to it, and the answer says why.
"""

from typing import Literal

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from google.protobuf import duration_pb2

from dataplane.compile import tls
from dataplane.compile.workload import Workload
from schemas.addresses import is_ip
from schemas.external_faults import expected_names, own_name, port_on
from schemas.objects import ExternalService, Service
from schemas.objects.external import ExternalTls
from schemas.objects.service import ServicePort

# Seconds between two questions for a name whose answer says nothing of its time to live, or says 0.
DNS_REFRESH_S = 5
# Seconds for a name server, and how many times it is asked: a cluster waits for its first answer, and whatever is
# pushed with it. c-ares' own are 5 seconds and four times.
DNS_TIMEOUT_S, DNS_TRIES = 2, 2

_DEFAULT_PORTS = {"http": 80, "https": 443}
_Cluster = cluster_pb2.Cluster

Found = Literal["addresses", "names", "nowhere"]


def is_outside(destination: Service | ExternalService | None, port: int) -> bool:
    """Whether that port of it is reached without a sidecar at the other end."""
    if not isinstance(destination, ExternalService):
        return False
    return any(one.port == port and destination.is_outside(one) for one in destination.spec.ports)


def how_found(declared: ExternalService, port: ServicePort, caller: Workload) -> Found:
    """Addresses come by EDS, so that a change of them leaves the cluster as it is; names Envoy resolves."""
    if unusable(declared, port, caller):
        return "nowhere"
    return "addresses" if all(is_ip(one.address) for one in declared.addresses) else "names"


def unusable(declared: ExternalService, port: ServicePort, caller: Workload) -> str:
    """Why nothing may be sent there; empty: it may."""
    wanted = declared.tls_of(port)
    if wanted.mode in ("SIMPLE", "MUTUAL") and wanted.ca_certificates is None and not caller.system_ca:
        return "this host has no certification authorities to verify the server by"
    files = wanted.client_certificate
    if files is not None and files not in caller.certificates:
        return f"this host has no certificate {files}"
    return ""


def host_of(destination: Service | ExternalService | None, port: int) -> str | None:
    """What the server outside expects as `Host`; None: what the app wrote, or it is of the mesh."""
    if not isinstance(destination, ExternalService) or not is_outside(destination, port):
        return None
    name = own_name(destination)
    declared = next(one for one in destination.spec.ports if one.port == port)
    if name is None:
        return None
    number = port_on(destination.addresses[0], declared.name, declared.port, declared.target_port)
    scheme = "http" if destination.tls_of(declared).mode == "DISABLE" else "https"
    return name if number == _DEFAULT_PORTS[scheme] else f"{name}:{number}"


def shape(
    cluster: cluster_pb2.Cluster,
    declared: ExternalService,
    port: ServicePort,
    caller: Workload,
    *,
    weighted: bool,
    subset: bool,
) -> None:
    """How its hosts are found, and how the connection to them is secured.

    weighted: whether localities need a weight, by the policy of the service. subset: of instances with some labels,
    of which there are none.
    """
    found = how_found(declared, port, caller)
    if found == "nowhere" or (subset and found == "names"):
        why = unusable(declared, port, caller) or "nothing outside of the mesh carries labels"
        cluster.type = _Cluster.STATIC
        cluster.load_assignment.cluster_name = cluster.name
        cluster.metadata.filter_metadata["mesh"].update({"reason": f": {declared.ref}: {why}"})
        return
    wanted = declared.tls_of(port)
    if wanted.mode in ("SIMPLE", "MUTUAL"):
        cluster.transport_socket.CopyFrom(_upstream(declared, wanted, port, caller))
    if found == "names":
        _resolve(cluster, declared, port, weighted=weighted)
    else:
        cluster.type = _Cluster.EDS
        cluster.eds_cluster_config.eds_config.CopyFrom(tls.ads_source())


def secret_name(wanted: ExternalTls) -> str:
    """The certificate that MUTUAL shows."""
    return tls.OWN_SVID if wanted.client_certificate is None else tls.file_name(wanted.client_certificate)


def _resolve(cluster: cluster_pb2.Cluster, declared: ExternalService, port: ServicePort, *, weighted: bool) -> None:
    once = declared.spec.resolution == "DNS_ROUND_ROBIN"
    cluster.type = _Cluster.LOGICAL_DNS if once else _Cluster.STRICT_DNS
    cluster.dns_lookup_family = _Cluster.V4_PREFERRED  # a host without IPv6 would send its share nowhere
    cluster.respect_dns_ttl = True
    cluster.dns_refresh_rate.CopyFrom(duration_pb2.Duration(seconds=DNS_REFRESH_S))
    resolver = cares_dns_resolver_pb2.CaresDnsResolverConfig()
    resolver.query_timeout_seconds.value, resolver.query_tries.value = DNS_TIMEOUT_S, DNS_TRIES
    cluster.typed_dns_resolver_config.name = "envoy.network.dns_resolver.cares"
    cluster.typed_dns_resolver_config.typed_config.CopyFrom(tls.packed(resolver))
    cluster.load_assignment.cluster_name = cluster.name
    zone = cluster.load_assignment.endpoints.add()
    if weighted:
        zone.locality.SetInParent()
        zone.load_balancing_weight.value = 1
    for one in declared.addresses:
        host = zone.lb_endpoints.add().endpoint
        number = port_on(one, port.name, port.port, port.target_port)
        host.address.CopyFrom(
            address_pb2.Address(socket_address=address_pb2.SocketAddress(address=one.address, port_value=number))
        )


def _upstream(
    declared: ExternalService, wanted: ExternalTls, port: ServicePort, caller: Workload
) -> base_pb2.TransportSocket:
    context = tls_pb2.UpstreamTlsContext(sni=wanted.sni or own_name(declared) or "")
    common = context.common_tls_context
    common.tls_params.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_2
    common.tls_params.tls_maximum_protocol_version = common_pb2.TlsParameters.TLSv1_3
    validation = common.validation_context
    if wanted.ca_certificates is not None:
        validation.trusted_ca.inline_string = wanted.ca_certificates
    else:
        validation.trusted_ca.filename = caller.system_ca
    for name in expected_names(declared, wanted):
        matcher = validation.match_typed_subject_alt_names.add()
        matcher.san_type = (
            common_pb2.SubjectAltNameMatcher.IP_ADDRESS if is_ip(name) else common_pb2.SubjectAltNameMatcher.DNS
        )
        matcher.matcher.exact = name
    if port.protocol in ("http2", "grpc"):
        common.alpn_protocols.append("h2")
    elif port.protocol == "http":
        common.alpn_protocols.append("http/1.1")
    if wanted.mode == "MUTUAL":
        common.tls_certificate_sds_secret_configs.append(
            secret_pb2.SdsSecretConfig(name=secret_name(wanted), sds_config=tls.ads_source())
        )
    context.max_session_keys.value = 0  # a resumed session would be of a server that was verified by other authorities
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=tls.packed(context))
