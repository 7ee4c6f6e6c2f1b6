"""The fields of a kind, as paths: what there is, and what an object says.

``HTTPRoute.rules.retry.backoff``; of a field with a choice of words one path for each of them:
``HTTPRoute.rules.matches.path.type=Exact``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from schemas.objects.common import Part

SAYS_NOTHING = {"group"}
"""Taken so that manifests of Gateway API can be; nothing goes by it."""


def fields_of(kind: str, of: type[Part]) -> set[str]:
    """All that there are."""
    return set(_below(kind, inspect.type_info(of)))


def _below(path: str, of: inspect.Type) -> Iterator[str]:
    for struct in _structs(of):
        for field in struct.fields:
            if field.encode_name in SAYS_NOTHING:
                continue
            here = f"{path}.{field.encode_name}"
            words = _words(field.type)
            yield from (f"{here}={word}" for word in words) if words else (here,)
            yield from _below(here, field.type)


def said_in(kind: str, spec: object) -> set[str]:
    """The fields that differ from what they are when absent, and every word that is chosen."""
    return set(_said(kind, spec))


def _said(path: str, value: object) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _said(path, one)
    if not isinstance(value, msgspec.Struct):
        return
    for field in _fields(type(value)):
        here, found = f"{path}.{field.encode_name}", getattr(value, field.name)
        if _words(field.type):
            yield from (f"{here}={word}" for word in (found if isinstance(found, tuple) else (found,)))
        elif found != _default(field):
            yield here
        yield from _said(here, found)


@cache
def _fields(of: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(of)
    assert isinstance(info, inspect.StructType)
    return info.fields


def _default(field: inspect.Field) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


def _parts(of: inspect.Type) -> Iterator[inspect.Type]:
    """What it may be, and what its items may be."""
    match of:
        case inspect.Metadata():
            yield from _parts(of.type)
        case inspect.UnionType():
            for one in of.types:
                yield from _parts(one)
        case inspect.VarTupleType():
            yield from _parts(of.item_type)
        case _:
            yield of


def _structs(of: inspect.Type) -> Iterator[inspect.StructType]:
    return (one for one in _parts(of) if isinstance(one, inspect.StructType))


def _words(of: inspect.Type) -> list[Any]:
    return [word for one in _parts(of) if isinstance(one, inspect.LiteralType) for word in one.values]
