"""Ports whose bytes are passed on: mTLS ends here, the identity is judged, and nobody reads HTTP a second time.

Who may be called so is in the Service (`ServicePort.passes_bytes`), so that callers know it too: they speak the app's
own protocol, and say so by ALPN. The listener keeps its HTTP chain for all others, so nothing is lost while some
callers don't know yet. Where anything asks for more than the identity (`reading.read_for`), the HTTP chain is the only
one.

- Envoy's network RBAC judges at the first byte. Until then nothing is connected to the app, which so can't speak to
  whom nobody has judged.
- Rules come apart from the chain, and judge the connections that begin. Those that are open, and those of whom no byte
  has come, the agent judges anew, as all that is open (`open_streams`), and ends those of whom is no longer allowed.
- When HTTP is to be read, or no longer, the chain goes or comes. New connections come to the other one; those in a
  chain that goes Envoy closes after its drain time (`EnvoySettings.drain_seconds`). Callers change connections sooner
  (`ROTATE_S`), each after its last answer, so that the closing finds none of theirs.
"""

from collections.abc import Iterable

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from google.protobuf import wrappers_pb2

from dataplane.compile.apart import apart
from dataplane.compile.authorization import Judging
from dataplane.compile.chains import prefer
from dataplane.compile.one_identity import one_identity
from dataplane.compile.open_streams import add_connection_reports
from dataplane.compile.resources import Resource
from dataplane.compile.tls import BYTES_ALPN, packed

CHAIN = "bytes"
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
    judged: Judging,
    transport_socket: base_pb2.TransportSocket,
    access_logs: Iterable[accesslog_pb2.AccessLog],
) -> list[Resource]:
    """The way past HTTP, for callers that ask for it. What is logged of it are connections. Gives what judges them,
    apart from the chain."""
    chain = listener.filter_chains.add(name=CHAIN, transport_socket=transport_socket)
    chain.transport_socket_connect_timeout.seconds = HANDSHAKE_S
    chain.filters.append(one_identity(listener.name))
    filters, rules = judging(listener.name, judged, listener.name)
    chain.filters.extend(filters)
    chain.filters.append(proxy(listener.name, listener.name, cluster, access_logs))
    return rules


def prefer_chain(listener: listener_pb2.Listener) -> None:
    """For callers that offer the one protocol, and it alone, as sidecars do."""
    prefer(listener, CHAIN, where=network_inputs_pb2.ApplicationProtocolInput(), is_=f"'{BYTES_ALPN}'")


def judging(
    name: str, judged: Judging, stat_prefix: str, audit: rbac_pb2.RBAC | None = None
) -> tuple[list[listener_components_pb2.Filter], list[Resource]]:
    """Filters that judge by the first byte, and before `proxy` connects to the app, with the rules apart from them.
    name: of the listener. audit: what is to be counted only.

    The second filter says all of it, so that no connection meets denials of one state and permissions of another; the
    first is there to name the rule that denies.
    """
    filters, rules = [], []
    for what, of, shadow in (("deny", judged.deny, audit), ("allow", _whole(judged), None)):
        judge = network_rbac_pb2.RBAC(stat_prefix=f"{stat_prefix}|{what}|", rules=of, shadow_rules=shadow)
        placed, resource = apart(f"{name}|{what}", packed(judge))
        filters.append(placed)
        rules.append(resource)
    return filters, rules


def _whole(judged: Judging) -> rbac_pb2.RBAC:
    """Allows whom one of the ALLOW rules allows and no DENY rule denies."""
    if not judged.deny.policies or not judged.allow.policies:
        return judged.allow
    allows = {name: one for name, one in judged.allow.policies.items() if judges_identities_only(one)}
    allowed = [one for name in sorted(allows) for one in allows[name].principals]
    denied = [one for name in sorted(judged.deny.policies) for one in judged.deny.policies[name].principals]
    whole = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    if allowed:
        both = whole.policies[", ".join(sorted(allows))]
        both.permissions.add(any=True)
        both_of = both.principals.add().and_ids.ids
        both_of.add().or_ids.ids.extend(allowed)
        both_of.add().not_id.or_ids.ids.extend(denied)
    return whole


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
