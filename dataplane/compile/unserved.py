"""What the sidecar of an app that gave no answer tells the caller's, so that this can try another instance.

    caller's sidecar ◀── 503 `x-mesh-unserved: unreached` ── the app's sidecar ──✗ app

Where the app is down or cuts the connection, its own sidecar answers, with a 503: to the caller's sidecar a response
like any other, which no condition about connections matches. So it says how far the request came, and the caller's
tries it again by that header. No app is told. Nor can one say so itself: its sidecar takes the header away, and where
none reads its answers, outside of the mesh and at ports whose bytes are passed on, callers don't go by it
(`route_actions.sidecars_tell`).
"""

from collections.abc import Iterator

from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from routing.headers import UNSERVED

UNREACHED = "unreached"
"""The app has not seen the request: there was no connection, or it refused the stream (RFC 9113, 8.7)."""
RESET = "reset"
"""It may have, and have done what was asked."""

# Envoy's flag for a refused stream is that of any reset; its details tell them apart.
_HOW_FAR = f"%CEL(response.code_details.contains('refused_stream') ? '{UNREACHED}' : '{RESET}')%"


def tell(manager: hcm_pb2.HttpConnectionManager) -> None:
    """Have `manager` say so of what it answers for the app."""
    for flags, value in ((("UF",), UNREACHED), (("UC", "UR", "UPE"), _HOW_FAR)):
        mapper = manager.local_reply_config.mappers.add()
        mapper.filter.response_flag_filter.flags.extend(flags)
        header = mapper.headers_to_add.add().header
        header.key, header.value = UNSERVED, value


def retriable(*, reset: bool) -> Iterator[route_components_pb2.HeaderMatcher]:
    """Of an answer that is to be tried again. reset: also where the app may have seen the request."""
    for value in (UNREACHED, RESET) if reset else (UNREACHED,):
        matcher = route_components_pb2.HeaderMatcher(name=UNSERVED)
        matcher.string_match.exact = value
        yield matcher


def keep_from_apps(configuration: route_pb2.RouteConfiguration) -> None:
    """At the caller its app is not told; at the app's sidecar what the app itself says under that name is lost."""
    configuration.response_headers_to_remove.append(UNSERVED)
