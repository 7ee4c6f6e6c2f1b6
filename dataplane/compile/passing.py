"""Ports whose bytes are passed on: mTLS ends here, the identity is judged, and nobody reads HTTP a second time.

Who may be called so is in the Service (`ServicePort.passes_bytes`), so that callers know it too: they speak the app's
own protocol, and say so by ALPN. The listener keeps its HTTP chain for all others, so nothing is lost while some
callers don't know yet. Where anything asks for more than the identity (`reading.read_for`), the HTTP chain is the only
one.

- Envoy's network RBAC judges at the first byte. Until then nothing is connected to the app, which so can't speak to
  whom nobody has judged.
- Rules travel in the chain. When they change, Envoy takes the new chain for new connections and closes those of the old
  one after its drain time (`EnvoySettings.drain_seconds`). Callers change connections sooner (`ROTATE_S`), each after
  its last answer, so that the closing finds none of theirs. Who is no longer allowed anything is not given that time:
  the agent ends its connections as it does with all that is open (`open_streams`).
"""

from collections.abc import Iterable, Iterator

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import wrappers_pb2

from dataplane.compile.one_identity import one_identity
from dataplane.compile.open_streams import add_connection_reports
from dataplane.compile.tls import BYTES_ALPN, packed

# Seconds between connections of callers; with Envoy's drain time of ten seconds it leaves six to a request's answer.
ROTATE_S = 4
# Seconds for a TLS handshake.
HANDSHAKE_S = 10
# Bytes that wait for the connection to the app; what comes above that waits in the kernel.
_EARLY_BYTES = 64 * 1024

_Filter = listener_components_pb2.Filter


def judges_identities_only(policy: rbac_pb2.Policy) -> bool:
    """Whether it asks for nothing of a request."""
    anything = all(permission.WhichOneof("rule") == "any" for permission in policy.permissions)
    return anything and not any(map(_asks_for_a_token, policy.principals))


def _asks_for_a_token(principal: rbac_pb2.Principal) -> bool:
    within = [*principal.and_ids.ids, *principal.or_ids.ids]
    if principal.HasField("not_id"):
        within.append(principal.not_id)
    return principal.HasField("metadata") or any(map(_asks_for_a_token, within))


def add_chain(
    listener: listener_pb2.Listener,
    cluster: str,
    deny: rbac_pb2.RBAC,
    allow: rbac_pb2.RBAC,
    transport_socket: base_pb2.TransportSocket,
    access_logs: Iterable[accesslog_pb2.AccessLog],
) -> None:
    """The way past HTTP, for callers that ask for it. What is logged of it are connections."""
    chain = listener.filter_chains.add(name="bytes", transport_socket=transport_socket)
    chain.filter_chain_match.application_protocols.append(BYTES_ALPN)
    chain.transport_socket_connect_timeout.seconds = HANDSHAKE_S
    chain.filters.append(one_identity(listener.name))
    chain.filters.extend(judging(listener.name, deny, allow))
    chain.filters.append(proxy(listener.name, listener.name, cluster, access_logs))


def judging(
    stat_prefix: str, deny: rbac_pb2.RBAC, allow: rbac_pb2.RBAC, audit: rbac_pb2.RBAC | None = None
) -> Iterator[listener_components_pb2.Filter]:
    """By the first byte, and before `proxy` connects to the app. audit: what is to be counted only."""
    for what, rules, shadow in (("deny", deny, audit), ("allow", allow, None)):
        judge = network_rbac_pb2.RBAC(stat_prefix=f"{stat_prefix}|{what}|", rules=rules, shadow_rules=shadow)
        yield _Filter(name="envoy.filters.network.rbac", typed_config=packed(judge))


def proxy(
    stat_prefix: str, name: str, cluster: str, access_logs: Iterable[accesslog_pb2.AccessLog]
) -> listener_components_pb2.Filter:
    """Passes bytes on to `cluster`, from the first one that was let through. name: under which the open is reported."""
    made = tcp_proxy_pb2.TcpProxy(
        stat_prefix=stat_prefix,
        access_log=access_logs,
        cluster=cluster,
        upstream_connect_mode=tcp_proxy_pb2.ON_DOWNSTREAM_DATA,
        max_early_data_bytes=wrappers_pb2.UInt32Value(value=_EARLY_BYTES),
    )
    add_connection_reports(made, name)
    return _Filter(name="envoy.filters.network.tcp_proxy", typed_config=packed(made))
