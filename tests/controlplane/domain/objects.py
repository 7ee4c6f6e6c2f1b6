"""Short ways to write objects, and the state that a change set meets."""

from __future__ import annotations

from functools import cache

from controlplane.domain.change import Change
from controlplane.domain.known import Known, Listed, Stored
from controlplane.domain.reads import objects_needed, prefixes_needed
from schemas import codec
from schemas.keys import Keyspace
from schemas.objects import AnyObject

KEYSPACE = Keyspace()


def objects(text: str) -> list[AnyObject]:
    """Objects of a YAML stream in which `apiVersion` may be left out."""
    full = "\n---\n".join("apiVersion: mesh/v1\n" + part.strip() for part in text.split("---"))
    return [document.object for document in codec.load_yaml(full, "test.yaml")]


@cache
def service(
    name: str, *, namespace: str = "shop", ports: tuple[int, ...] = (8080,), depends_on: str = "[]"
) -> AnyObject:
    lines = ", ".join(f"{{name: p{port}, port: {port}, protocol: http}}" for port in ports)
    return objects(
        f"kind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{ports: [{lines}], dependencies: {depends_on}}}"
    )[0]


def put(value: AnyObject, source: str = "", expected_revision: int = 0) -> Change:
    return Change(value.ref, value, source, expected_revision)


def delete(value: AnyObject, source: str = "", expected_revision: int = 0) -> Change:
    return Change(value.ref, None, source, expected_revision)


def known(*stored: AnyObject, revision: int = 10, listed: tuple[bytes, ...] = ()) -> Known:
    """All of `stored`, written at `revision`."""
    return Known(
        {value.ref: Stored(codec.encode(value), revision, value) for value in stored},
        tuple(Listed(prefix, revision) for prefix in listed),
    )


def known_for(changes: list[Change], *stored: AnyObject, revision: int = 10) -> Known:
    """Only what `reads` asks for: shows that it asks for enough."""
    everything = known(*stored, revision=revision)
    wanted = objects_needed(changes)
    first = Known({ref: value for ref, value in everything.objects.items() if ref in wanted})
    prefixes = prefixes_needed(KEYSPACE, changes, first)
    return Known(
        {
            ref: value
            for ref, value in everything.objects.items()
            if ref in wanted or any(KEYSPACE.object(ref).startswith(prefix) for prefix in prefixes)
        },
        tuple(Listed(prefix, revision) for prefix in sorted(prefixes)),
    )
