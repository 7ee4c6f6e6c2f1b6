"""Samples of requests for the agent: of each sidecar a few a second, however many there are.

    Envoy ─(buckets of tokens, by the kind of request)─▶ ads ─▶ Flows

Most requests cost a look into a bucket (`buckets`). There are three, so that many reads do not hide a write, nor
denials either.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.service.accesslog.v3 import als_pb2 as service_pb2

from dataplane.compile.buckets import takes_token
from dataplane.compile.log_filters import at_its_end, denied_here, of_method
from dataplane.compile.open_streams import AGENT_CLUSTER, address_of
from dataplane.compile.tls import packed

Kind = Literal["reads", "others", "denied"]
KINDS: tuple[Kind, ...] = ("reads", "others", "denied")

PREFIX = "samples|"
"""Of the name under which Envoy reports them; the listener's follows."""
# Milliseconds that Envoy gathers samples for: to send them costs more than to make them.
_GATHER_MS = 1000
_READS = ("GET", "HEAD")


class Sample(NamedTuple):
    """A request that has ended. identity: URI name of the certificate shown; empty: it came in plaintext; None: there
    are several. path: without the query. rule: that let it in or denied it, as the access log has it. address: of the
    host.
    """

    identity: str | None
    method: str
    authority: str
    path: str
    address: str
    denied: bool
    rule: str


def add_samples(manager: hcm_pb2.HttpConnectionManager, name: str, directory: str) -> None:
    """Let `manager` report samples of its requests under `name`. directory: with the files of the buckets."""
    for kind in KINDS:
        log = als_pb2.HttpGrpcAccessLogConfig()
        log.common_config.log_name = PREFIX + name
        log.common_config.transport_api_version = config_source_pb2.ApiVersion.V3
        log.common_config.grpc_service.envoy_grpc.cluster_name = AGENT_CLUSTER
        log.common_config.buffer_flush_interval.FromMilliseconds(_GATHER_MS)
        log.additional_request_headers_to_log.extend([":method", ":path", ":authority"])
        reports = accesslog_pb2.AccessLog(name="envoy.access_loggers.http_grpc", typed_config=packed(log))
        every = reports.filter.and_filter.filters
        # What is cheap, and what most requests fail, first.
        if kind == "reads":
            either = every.add().or_filter.filters
            for method in _READS:
                of_method(either.add(), method)
        elif kind == "others":
            for method in _READS:
                of_method(every.add(), method, other=True)
        at_its_end(every.add())
        denied_here(every.add(), denied=kind == "denied")
        takes_token(every.add(), kind, directory)
        manager.access_log.append(reports)


def samples(message: service_pb2.StreamAccessLogsMessage) -> Iterator[Sample]:
    """Of one report."""
    for entry in message.http_logs.log_entry:
        common, asked = entry.common_properties, entry.request.request_headers
        names = [one.uri for one in common.tls_properties.peer_certificate_properties.subject_alt_name if one.uri]
        remote = common.downstream_direct_remote_address.socket_address
        details = entry.response.response_code_details
        rule = _rule(common.metadata)
        denied = details.startswith("rbac_access_denied")
        yield Sample(
            "".join(names) if len(names) < 2 else None,
            asked[":method"],
            asked.get(":authority", ""),
            asked.get(":path", "/").partition("?")[0],
            address_of(remote.address, remote.port_value)[0] if remote.address else "",
            denied,
            rule,
        )


def _rule(metadata: base_pb2.Metadata) -> str:
    found = metadata.filter_metadata["envoy.filters.http.rbac"].fields["enforced_effective_policy_id"]
    return str(found.string_value)
