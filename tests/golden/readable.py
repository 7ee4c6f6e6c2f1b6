"""Compiled resources as YAML that people can review: one text an xDS kind, names in order, nothing packed.

What every listener has alike, its logs and its chain with a tracer, is shown whole where it is asked for, else by its
hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

import yaml
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.runtime.v3 import rtds_pb2
from google.protobuf import json_format

from dataplane.compile.hardening import PATHS
from dataplane.compile.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, RUNTIME, SECRET, Resource
from schemas.errors import Problem

_KINDS = {
    "clusters": (CLUSTER, cluster_pb2.Cluster),
    "endpoints": (ENDPOINTS, endpoint_pb2.ClusterLoadAssignment),
    "extensions": (EXTENSION, extension_pb2.TypedExtensionConfig),
    "listeners": (LISTENER, listener_pb2.Listener),
    "routes": (ROUTES, route_pb2.RouteConfiguration),
    "runtime": (RUNTIME, rtds_pb2.Runtime),
    "secrets": (SECRET, secret_pb2.Secret),
}
# Fields of type map: protobuf gives their entries in no order.
_MAPS = {"policies", "providers", "typed_per_filter_config", "typed_extension_protocol_options"}
_STRUCTS = {"filter_metadata", "json_format", "layer", "value"}
_SHORT = {"listeners", "extensions"}
_ALIKE = {"access_log", "tracing"}


def readable(resources: Iterable[Resource], problems: Iterable[Problem], *, whole: bool = True) -> dict[str, str]:
    """File name -> text; no file where there is nothing of a kind."""
    found = sorted(resources, key=lambda resource: resource.key)
    texts = {}
    for kind, (type_url, message) in _KINDS.items():
        plain = [_plain(message.FromString(one.body)) for one in found if one.key.type_url == type_url]
        if plain:
            texts[f"{kind}.yaml"] = _yaml(plain if whole or kind not in _SHORT else _short(plain))
    lines = [str(problem) for problem in problems]
    return {**texts, "problems.yaml": _yaml(lines)} if lines else texts


def _plain(message: Any) -> Any:
    return _shown(json_format.MessageToDict(message, preserving_proto_field_name=True))


def _shown(value: Any, name: str = "", *, unordered: bool = False) -> Any:
    """unordered: within a google.protobuf.Struct, all of whose parts are maps.

    What refuses paths is left out: it is long, and the same everywhere (tests/dataplane/compile/test_hardening.py).
    """
    if name == "private_key":
        return "[a private key]"
    if isinstance(value, dict) and value.get("name") == PATHS:
        return {"name": PATHS, "typed_config": "[as everywhere]"}
    if name == "local_reply_config" and isinstance(value, dict):
        value = {**value, "mappers": [one for one in value["mappers"] if "header_filter" not in one["filter"]]}
        value = value if value["mappers"] else "[as everywhere]"
    if isinstance(value, dict):
        unordered = unordered or name in _STRUCTS
        order = sorted(value) if unordered or name in _MAPS else list(value)
        return {key: _shown(value[key], key, unordered=unordered) for key in order}
    if isinstance(value, list):
        return [_shown(one, unordered=unordered) for one in value]
    # PEM: the text itself is easier to compare than its base64
    return base64.b64decode(value).decode() if name == "inline_bytes" else value


def _short(value: Any, name: str = "") -> Any:
    if isinstance(value, dict) and str(value.get("name", "")).endswith(" traced") and "filters" in value:
        return {"name": value["name"], "filters": _short(value["filters"], "tracing")}
    if name in _ALIKE:
        return f"[{hashlib.blake2b(_yaml(value).encode(), digest_size=8).hexdigest()}]"
    if isinstance(value, dict):
        return {key: _short(one, key) for key, one in value.items()}
    return [_short(one) for one in value] if isinstance(value, list) else value


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text.rstrip("\n") else None)


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True))
