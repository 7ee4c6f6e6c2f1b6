"""Envoy's ``/config_dump?include_eds`` ▸ the dynamic resources that it runs. Pure.

https://www.envoyproxy.io/docs/envoy/latest/api-v3/admin/v3/config_dump_shared.proto
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf import json_format

from dataplane.compile.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    SECRET,
    Resource,
    ResourceKey,
)

MESSAGES: Mapping[str, Any] = {
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    EXTENSION: extension_pb2.TypedExtensionConfig,
    LISTENER: listener_pb2.Listener,
    ROUTES: route_pb2.RouteConfiguration,
    SECRET: secret_pb2.Secret,
}
# In each part of the dump: the list, the way to the resource in an element, the type.
_DYNAMIC = (
    ("dynamic_active_clusters", ("cluster",), CLUSTER),
    ("dynamic_endpoint_configs", ("endpoint_config",), ENDPOINTS),
    ("dynamic_listeners", ("active_state", "listener"), LISTENER),
    ("dynamic_route_configs", ("route_config",), ROUTES),
    ("ecds_filters", ("ecds_filter",), EXTENSION),
    ("dynamic_active_secrets", ("secret",), SECRET),
)


@dataclass(frozen=True, slots=True)
class Running:
    """messages: protobuf messages by key. refused: name to Envoy's words, of what it did not take."""

    messages: Mapping[ResourceKey, Any]
    refused: Mapping[str, str]


def running(dump: Mapping[str, Any]) -> Running:
    """dump: as `Admin.config_dump` gives it. Endpoints of static clusters are part of those, and left out."""
    found = {}
    for type_url, content in _dynamic(dump):
        message = json_format.ParseDict(content, MESSAGES[type_url](), ignore_unknown_fields=True)
        found[ResourceKey(type_url, getattr(message, "name", None) or message.cluster_name)] = message
    by_eds = {key.name for key, one in found.items() if key.type_url == CLUSTER and one.type == cluster_pb2.Cluster.EDS}
    draining = _draining(dump)
    kept = {
        key: one
        for key, one in found.items()
        # Connections that are open may use the routes of a listener that is gone until the drain time is over.
        if not (key.type_url == ENDPOINTS and key.name not in by_eds)
        and not (key.type_url == ROUTES and key.name in draining)
        and not (key.type_url == EXTENSION and draining & {key.name, key.name.rpartition("|")[0]})
    }
    return Running(kept, _refused(dump))


def modelled(resources: Mapping[ResourceKey, Resource]) -> dict[ResourceKey, Any]:
    """The compiler's resources as messages, as far as a dump has a place for them: not Envoy's runtime, nor secrets
    that nothing refers to, which Envoy does not ask for."""
    bodies = [one.body for key, one in resources.items() if key.type_url != SECRET]
    known = {
        key: one
        for key, one in resources.items()
        if key.type_url in MESSAGES and (key.type_url != SECRET or any(key.name.encode() in body for body in bodies))
    }
    return {key: MESSAGES[key.type_url].FromString(one.body) for key, one in known.items()}


def _dynamic(dump: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in dump["configs"]:
        for listed, way, type_url in _DYNAMIC:
            for element in part.get(listed, ()):
                for step in way:
                    element = element.get(step, {})
                if element:  # a listener that was refused is listed without being active
                    yield type_url, {key: value for key, value in element.items() if key != "@type"}


def _draining(dump: Mapping[str, Any]) -> set[str]:
    listed = [one for part in dump["configs"] for one in part.get("dynamic_listeners", ())]
    return {one["name"] for one in listed if "active_state" not in one}


def _refused(dump: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for part in dump["configs"]:
        for listed, way in (
            ("dynamic_listeners", ""),
            ("dynamic_active_clusters", "cluster"),
            ("dynamic_route_configs", "route_config"),
            ("ecds_filters", "ecds_filter"),
        ):
            for one in part.get(listed, ()):
                if "error_state" in one:
                    named = one.get("name") or one.get(way, {}).get("name", listed)
                    found[named] = str(one["error_state"].get("details", "no details"))
    return found
