"""What is open: Envoy tells the agent of every stream that lasts, again and again, for the agent to judge it anew.

Envoy judges a request when it begins, and a connection whose bytes it passes on by the first of them. A tunnel, an
upgraded connection or a gRPC stream then goes on under rules that may have changed since. Only what is longer open
than `REPORT_EVERY_S` is reported: ordinary requests cost nothing. Nothing is remembered from one report to the next: an
agent that has just started knows as much as any other.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import address_pb2, config_source_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as entry_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.service.accesslog.v3 import als_pb2 as service_pb2
from google.protobuf import wrappers_pb2
from google.protobuf.message import DecodeError

from dataplane.compile import tokens
from dataplane.compile.tls import packed
from schemas.addresses import of_one_spelling

AGENT_CLUSTER = "xds"
"""The bootstrap's cluster of the agent's socket."""
# Seconds. The greater part of the time for which something goes on that is not allowed any more. A report is some 10 µs
# of the agent's time, so that 10,000 open tunnels are a tenth of a core.
REPORT_EVERY_S = 1
# Milliseconds that Envoy gathers reports for, so that many streams are one message.
GATHER_MS = 100
# As Envoy writes each byte from 0x80 on in a value that is no UTF-8, and only there.
_BYTE = re.compile(r"\\u00[89a-fA-F]")
# Characters. What a longer header says nobody keeps, so that its request is judged as if it said what is denied: some
# peer's reports must not crowd out all others'. A cookie has up to 4,096 bytes (RFC 6265, 6.1).
MAX_KEPT = 4096
_TOO_LONG = "\n"  # which no header can have
HEADERS = "mesh.judged_headers"
"""Of the filter that keeps the headers that rules ask for, and of what it keeps: a JSON object, null for one that a
request does not have."""


class Connection(NamedTuple):
    """A TCP connection as its receiver sees it: (address, port) of either end."""

    local: tuple[str, int]
    remote: tuple[str, int]


class OpenStream(NamedTuple):
    connection: Connection
    identities: tuple[str, ...]
    """URI names of the certificate that the peer has shown."""
    method: str | None
    """None: a connection whose bytes are passed on. What is asked over it, nobody knows."""
    path: str
    authority: str = ""
    known: tuple[str, ...] = ()
    """The headers that were kept when it began, whether the request has them or not."""
    headers: tuple[tuple[str, str], ...] = ()
    """Those of `known` that it has, in order."""
    claims: bytes = b""
    """Of the request's token, a serialized Struct; empty: there was none."""


def headers_kept() -> hcm_pb2.HttpFilter:
    """Keeps nothing until a route says what, by `keep_headers`."""
    return hcm_pb2.HttpFilter(name=HEADERS, typed_config=packed(set_filter_state_pb2.Config()), disabled=True)


def keep_headers(host: route_components_pb2.VirtualHost, headers: Sequence[str]) -> None:
    """Of the requests that `host` takes from now on, for their reports. It comes with the route, since another listener
    would end what is open."""
    if headers:
        config = set_filter_state_pb2.Config()
        kept = config.on_request_headers.add(object_key=HEADERS, factory_key="envoy.string")
        # All values of a header, as rules are asked; %REQ()% has the first one only.
        kept.format_string.json_format.update({name: _said(f"request.headers['{_escaped(name)}']") for name in headers})
        host.typed_per_filter_config[HEADERS].CopyFrom(packed(config))


def _said(header: str) -> str:
    return f"%CEL(size({header}) > {MAX_KEPT} ? '\\n' : {header})%"


def _escaped(name: str) -> str:
    """Within a text of CEL within a command of Envoy's: names may have quotes, and per cent signs."""
    return "".join(one if one.isalnum() or one == "-" else f"\\x{ord(one):02x}" for one in name)


def add_reports(manager: hcm_pb2.HttpConnectionManager, name: str) -> None:
    """Let `manager` report what is open to the agent, under `name`."""
    log = als_pb2.HttpGrpcAccessLogConfig(common_config=_to_agent(name))
    log.additional_request_headers_to_log.extend([":method", ":path", ":authority"])
    log.common_config.filter_state_objects_to_log.append(HEADERS)
    reports = accesslog_pb2.AccessLog(name="envoy.access_loggers.http_grpc", typed_config=packed(log))
    reports.filter.log_type_filter.types.append(entry_pb2.DownstreamPeriodic)
    manager.access_log.append(reports)
    manager.access_log_options.access_log_flush_interval.seconds = REPORT_EVERY_S


def add_connection_reports(proxy: tcp_proxy_pb2.TcpProxy, name: str) -> None:
    """Let `proxy` report its open connections to the agent, under `name`."""
    log = als_pb2.TcpGrpcAccessLogConfig(common_config=_to_agent(name))
    reports = accesslog_pb2.AccessLog(name="envoy.access_loggers.tcp_grpc", typed_config=packed(log))
    reports.filter.log_type_filter.types.append(entry_pb2.TcpPeriodic)
    proxy.access_log.append(reports)
    proxy.access_log_options.access_log_flush_interval.seconds = REPORT_EVERY_S


def _to_agent(name: str) -> als_pb2.CommonGrpcAccessLogConfig:
    config = als_pb2.CommonGrpcAccessLogConfig(log_name=name, transport_api_version=config_source_pb2.ApiVersion.V3)
    config.grpc_service.envoy_grpc.cluster_name = AGENT_CLUSTER
    config.buffer_flush_interval.FromMilliseconds(GATHER_MS)
    return config


def reported(message: service_pb2.StreamAccessLogsMessage) -> Iterator[OpenStream]:
    """The streams of one report. One of which it does not say whose it is has no identity."""
    for entry in message.http_logs.log_entry:
        asked = entry.request.request_headers
        kept = _headers(entry.common_properties)
        headers = tuple((name, value) for name, value in kept if value is not None)
        known = tuple(name for name, _ in kept)
        whose, claims = _whose(entry.common_properties), _claims(entry.common_properties)
        yield OpenStream(*whose, asked[":method"], asked[":path"], asked.get(":authority", ""), known, headers, claims)
    for connection in message.tcp_logs.log_entry:
        yield OpenStream(*_whose(connection.common_properties), None, "")


def _whose(common: entry_pb2.AccessLogCommon) -> tuple[Connection, tuple[str, ...]]:
    names = common.tls_properties.peer_certificate_properties.subject_alt_name
    local, remote = common.downstream_local_address, common.downstream_direct_remote_address
    return Connection(_address(local), _address(remote)), tuple(name.uri for name in names if name.uri)


def _headers(common: entry_pb2.AccessLogCommon) -> list[tuple[str, str | None]]:
    """Those that were kept, in order; None: the request did not have it. What can't be read is as if none was kept, and
    so are all of a request of which one was too long."""
    kept, text = common.filter_state_objects, wrappers_pb2.StringValue()
    try:
        if HEADERS not in kept or not kept[HEADERS].Unpack(text):
            return []
        said = msgspec.convert(json.loads(text.value), dict[str, str | None])
        if _TOO_LONG in said.values():
            return []
        if text.value.isascii():
            said = {name: value and _of_bytes(value) for name, value in said.items()}
        elif _BYTE.search(text.value):  # values of both sorts, which nobody can tell apart at once
            return []
        return sorted(said.items())
    except (ValueError, DecodeError, msgspec.ValidationError):
        return []


def _of_bytes(value: str) -> str:
    """value: a character for each byte."""
    return value.encode("latin-1").decode(errors="surrogateescape")


def _claims(common: entry_pb2.AccessLogCommon) -> bytes:
    found = common.metadata.filter_metadata[tokens.METADATA].fields[tokens.PAYLOAD].struct_value
    data: bytes = found.SerializeToString(deterministic=True)
    return data


def address_of(text: str, port: int) -> tuple[str, int]:
    """In one spelling: an IPv4 peer of an IPv6 socket is the IPv4 peer."""
    return of_one_spelling(text), port


def _address(given: address_pb2.Address) -> tuple[str, int]:
    socket = given.socket_address
    return address_of(socket.address, socket.port_value) if socket.address else ("", 0)
