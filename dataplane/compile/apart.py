"""Network filters that come apart from their listener (Envoy's extension config discovery).

A change of one replaces no filter chain: it is for the connections that begin, and those that are open go on by theirs.
While Envoy has not got a filter it takes no connection.
"""

from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from google.protobuf import any_pb2

from dataplane.compile.resources import EXTENSION, Resource
from dataplane.compile.tls import ads_source


def apart(name: str, config: any_pb2.Any) -> tuple[listener_components_pb2.Filter, Resource]:
    """What stands in the chain, and what it is to be. The first depends on the name and the type of `config` alone."""
    placed = listener_components_pb2.Filter(name=name)
    placed.config_discovery.config_source.CopyFrom(ads_source())
    placed.config_discovery.type_urls.append(config.type_url)
    return placed, Resource.of(EXTENSION, name, extension_pb2.TypedExtensionConfig(name=name, typed_config=config))
