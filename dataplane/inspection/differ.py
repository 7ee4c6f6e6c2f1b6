"""Two sets of resources ▸ how they differ, in words. Pure. Private keys are not compared: Envoy shows none."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf import json_format

from dataplane.compile.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET, ResourceKey

KIND_WORDS = {
    CLUSTER: "cluster",
    ENDPOINTS: "endpoints",
    EXTENSION: "filter",
    LISTENER: "listener",
    ROUTES: "routes",
    SECRET: "secret",
}
# Fields that are told of one resource; the first ones already say what it is about.
MAX_FIELDS = 8
MAX_VALUE = 160  # characters of a value in a text


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    kind: str
    name: str
    how: Literal["extra", "missing", "other"]
    """extra: Envoy alone has it. missing: the model alone has it. other: both do, not the same."""
    fields: tuple[str, ...] = ()
    """Of "other": ``path: runs X, the model says Y``."""

    def __str__(self) -> str:
        match self.how:
            case "extra":
                return f"{self.kind} {self.name}: Envoy runs it, the model has none"
            case "missing":
                return f"{self.kind} {self.name}: the model has it, Envoy does not run it"
            case "other":
                return "\n  ".join((f"{self.kind} {self.name}: not the same", *self.fields))


def differences(runs: Mapping[ResourceKey, Any], model: Mapping[ResourceKey, Any]) -> list[Difference]:
    """Of messages by key; in the order of kind and name."""
    found = []
    for key in sorted(runs.keys() | model.keys()):
        kind = KIND_WORDS[key.type_url]
        if key not in model:
            found.append(Difference(kind, key.name, "extra"))
        elif key not in runs:
            if key.type_url != SECRET or _uses_tls(runs.values()):
                found.append(Difference(kind, key.name, "missing"))
        else:
            one, other = comparable(key.type_url, runs[key]), comparable(key.type_url, model[key])
            if one != other:
                found.append(Difference(kind, key.name, "other", tuple(_fields(one, other))))
    return found


def _uses_tls(messages: Iterable[Any]) -> bool:
    """Envoy asks for a secret when something uses it."""
    return any(
        one.HasField("transport_socket")
        if hasattr(one, "transport_socket")
        else any(chain.HasField("transport_socket") for chain in getattr(one, "filter_chains", ()))
        for one in messages
    )


def comparable(type_url: str, message: Any) -> Any:
    """A message as plain values, less what Envoy adds or hides in a dump."""
    if type_url == ENDPOINTS:  # it adds health, weights and empty localities to what it was given
        return sorted(placed_addresses(message))
    plain = json_format.MessageToDict(message, preserving_proto_field_name=True)
    if type_url == SECRET:
        plain.get("tls_certificate", {}).pop("private_key", None)
    return plain


def placed_addresses(assignment: Any) -> Iterator[str]:
    """``10.0.0.5:8080``, with zone and priority where they are not the default."""
    for group in assignment.endpoints:
        zone = "/".join(part for part in (group.locality.region, group.locality.zone) if part)
        suffix = (f" in {zone}" if zone else "") + (f" priority {group.priority}" if group.priority else "")
        for one in group.lb_endpoints:
            yield address(one.endpoint.address) + suffix


def address(of: Any) -> str:
    if of.HasField("envoy_internal_address"):
        return f"its own {of.envoy_internal_address.server_listener_name}"
    socket = of.socket_address
    host = f"[{socket.address}]" if ":" in socket.address else socket.address
    return f"{host}:{socket.port_value}"


def _fields(runs: Any, model: Any) -> list[str]:
    found = [
        f"{path or 'all'}: runs {_short(one)}, the model says {_short(other)}"
        for path, one, other in _walk(runs, model)
    ]
    left = len(found) - MAX_FIELDS
    return found if left <= 0 else [*found[:MAX_FIELDS], f"and {left} fields more"]


def _walk(runs: Any, model: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(runs, dict) and isinstance(model, dict):
        for key in sorted(runs.keys() | model.keys()):
            yield from _walk(runs.get(key), model.get(key), f"{path}.{key}" if path else key)
    elif isinstance(runs, list) and isinstance(model, list) and len(runs) == len(model):
        for index, (one, other) in enumerate(zip(runs, model, strict=True)):
            yield from _walk(one, other, f"{path}[{index}]")
    elif runs != model:
        yield path, runs, model


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"
