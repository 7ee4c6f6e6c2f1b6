"""Value <-> bytes. Canonical MessagePack in etcd, YAML or JSON from people, JSON Schema for editors.

Canonical: map keys sorted, so the same object always has the same bytes; maps with the field names of the YAML form,
so any MessagePack library reads them.
"""

import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
import yaml

from schemas import checking
from schemas.errors import Corrupt, InvalidInput, Problem
from schemas.names import SYSTEM_NAMESPACE
from schemas.objects import API_VERSION, KINDS, MESH_WIDE, AnyObject
from schemas.records import AnyRecord, Record
from schemas.yaml_text import YamlDocument, read_documents

T = TypeVar("T")

# etcd refuses a request above 1.5 MiB (its --max-request-bytes); 512 KiB an object leaves room for a change set.
MAX_VALUE_BYTES = 512 * 1024


class _OfNoKind(msgspec.Struct, tag_field="kind", tag=""):
    pass


_encoder = msgspec.msgpack.Encoder(order="sorted")
_decoders: dict[object, msgspec.msgpack.Decoder[Any]] = {}


def encode(value: AnyObject | Record) -> bytes:
    """Canonical MessagePack. An object's `metadata.revision` is etcd's to say and is left out."""
    if not isinstance(value, Record) and value.metadata.revision:
        value = msgspec.structs.replace(value, metadata=msgspec.structs.replace(value.metadata, revision=0))
    return _encoder.encode(value)


def encode_over(original: bytes, value: AnyObject | Record, subject: str = "stored value") -> bytes:
    """Like `encode`, and carries over from `original` every field that our types don't know.

    For read-modify-write: what a newer writer stored beside our fields survives us. A field inside of a list item
    stays with the item of the same name, or with the same item; it goes when its item, or the optional part that it
    stood in, has gone. Raises Corrupt, naming `subject`, when `original` is no MessagePack with string keys.
    """
    stored = decode_plain(original, subject)
    ours = msgspec.msgpack.decode(encode(value))
    try:
        _carry_over(stored, ours, type(value))
        return _encoder.encode(ours)
    except (RecursionError, ValueError, TypeError) as error:
        raise Corrupt(_not_messagepack(subject, error)) from error


def decode_plain(data: bytes, subject: str) -> Any:
    """MessagePack as dicts, lists and the like, unknown fields too. Raises Corrupt, naming `subject`, for any bytes.

    It reads what `decode` passes over, and refuses more: text that is no UTF-8 in a field that no type knows. Map keys
    may be of any type here.
    """
    try:
        return msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError, TypeError) as error:
        raise Corrupt(_not_messagepack(subject, error)) from error


def decode(data: bytes, type_: type[T], subject: str) -> T:
    """A stored value as `type_`. Unknown fields are passed over: a newer writer may have added them.

    Raises Corrupt, naming `subject`, for anything that is not exactly that type, version and kind; for any bytes.
    """
    if len(data) > MAX_VALUE_BYTES:
        raise Corrupt(Problem(subject, f"{len(data)} bytes, above the limit of {MAX_VALUE_BYTES}"))
    decoder = _decoders.get(type_)
    if decoder is None:
        # As a member of a union a type insists on its `kind`; on its own it would take a value without one.
        decoder = _decoders[type_] = msgspec.msgpack.Decoder(Union[type_, _OfNoKind])  # noqa: UP007  (a variable)
    try:
        value: T = decoder.decode(data)
    except msgspec.ValidationError as error:
        message, path = checking.explain(str(error), _descriptions())
        raise Corrupt(Problem(subject, message, path, _CORRUPT_REMEDY)) from error
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Corrupt(_not_messagepack(subject, error)) from error
    if isinstance(value, _OfNoKind):
        raise Corrupt(Problem(subject, "kind is empty", "$.kind", _CORRUPT_REMEDY))
    return value


_CORRUPT_REMEDY = "write it again, or delete the key"


def _not_messagepack(subject: str, error: Exception) -> Problem:
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return Problem(subject, f"not MessagePack: {reason}", remedy=_CORRUPT_REMEDY)


def _descriptions() -> Mapping[str, str | None]:
    return checking.pattern_descriptions((*KINDS.values(), *get_args(AnyRecord)))


def decode_object(data: bytes, kind: str, subject: str) -> AnyObject:
    """A stored object of that kind; raises Corrupt, for an unknown kind and an unknown version too."""
    type_ = KINDS.get(kind)
    if type_ is None:
        raise Corrupt(Problem(subject, f"unknown kind {kind!r}", remedy="upgrade this component, or delete the key"))
    return decode(data, type_, subject)


def to_builtins(value: AnyObject | Record, *, revision: int = 0) -> dict[str, Any]:
    """The YAML form as plain dicts and lists; bytes as base64. `revision`, where not 0, is shown in the metadata."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))  # lists, where to_builtins keeps tuples
    if revision:
        plain["metadata"]["revision"] = revision
    return {key: plain[key] for key in sorted(plain, key=lambda key: (_FIRST.get(key, 9), key))}


_FIRST = {"apiVersion": 0, "kind": 1, "metadata": 2}


# -- what people write


@dataclass(frozen=True, slots=True)
class Document:
    """One object as it stood in a file; `source` names file, document and line."""

    source: str
    object: AnyObject


def load_yaml(text: str, source: str) -> list[Document]:
    """All objects of a YAML (or JSON) stream. Raises InvalidInput with every problem of every document, never else."""
    documents: list[Document] = []
    read, problems = read_documents(text, source)
    for one in read:
        try:
            documents.append(Document(f"{source}:{one.line}", _convert(one, source)))
        except InvalidInput as error:
            problems += error.problems
    seen: dict[object, str] = {}
    for document in documents:
        first = seen.setdefault(document.object.ref, document.source)
        if first != document.source:
            problems.append(
                Problem(
                    document.source,
                    f"{document.object.ref} stands here a second time, first at {first}",
                    remedy="keep one of them",
                )
            )
    if problems:
        raise InvalidInput(*problems)
    return documents


def _convert(document: YamlDocument, source: str) -> AnyObject:
    """One document, strictly: unknown fields are errors, with the nearest known name."""
    plain, where = document.value, f"{source}:{document.line}"
    if not isinstance(plain, dict):
        raise InvalidInput(Problem(where, "not a mapping", remedy="start with apiVersion, kind, metadata, spec"))
    kind, version = plain.get("kind"), plain.get("apiVersion")
    if version != API_VERSION:
        where = f"{source}:{document.line_of(('apiVersion',))}"
        said = f"apiVersion is {version!r}" if "apiVersion" in plain else "apiVersion is missing"
        raise InvalidInput(Problem(where, said, "$.apiVersion", f"write apiVersion: {API_VERSION}"))
    type_ = KINDS.get(kind) if isinstance(kind, str) else None
    if type_ is None:
        where = f"{source}:{document.line_of(('kind',))}"
        said = f"unknown kind {kind!r}" if "kind" in plain else "kind is missing"
        raise InvalidInput(Problem(where, said, "$.kind", checking.nearest(kind, KINDS)))
    metadata = plain.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    subject = f"{kind} {name!r}" if isinstance(name, str) else kind
    problems = [
        Problem(
            f"{source}:{document.line_of(fault.path)}: {subject}",
            fault.message,
            checking.json_path(fault.path),
            fault.remedy,
        )
        for fault in checking.faults(plain, type_)
    ]
    if problems:
        raise InvalidInput(*problems)
    try:
        value = msgspec.convert(plain, type_)
    except msgspec.ValidationError as error:  # a rule that `faults` has no words for
        message, path = checking.explain(str(error), _descriptions())
        raise InvalidInput(Problem(f"{where}: {subject}", message, path)) from error
    if kind not in MESH_WIDE or value.metadata.namespace == SYSTEM_NAMESPACE:
        return value
    if "namespace" in plain["metadata"]:
        line = document.line_of(("metadata", "namespace"))
        remedy = f"write {SYSTEM_NAMESPACE} or leave it out"
        raise InvalidInput(
            Problem(f"{source}:{line}: {subject}", "is not of a namespace", "$.metadata.namespace", remedy)
        )
    return msgspec.structs.replace(value, metadata=msgspec.structs.replace(value.metadata, namespace=SYSTEM_NAMESPACE))


def dump_yaml(values: Sequence[Mapping[str, Any]]) -> str:
    """YAML stream of what `to_builtins` gave, field order kept."""
    return yaml.dump_all(values, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of every kind as people write it; `$defs` holds one entry a type.

    Strict, as `load_yaml` is: a field that no type knows is an error.
    """
    schema = msgspec.json.schema(Union[tuple(KINDS.values())])  # noqa: UP007  (a union from a table)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_for_editors(schema)}


def _for_editors(node: Any) -> Any:
    if isinstance(node, list):
        return [_for_editors(item) for item in node]
    if not isinstance(node, dict):
        return node
    changed = {key: _for_editors(value) for key, value in node.items()}
    if isinstance(pattern := changed.get("pattern"), str):
        changed["pattern"] = pattern.replace(r"\Z", "$")  # Python's end of string; ECMA 262 knows only $
    if "properties" in changed and "additionalProperties" not in changed:
        changed["additionalProperties"] = False
    return changed


# -- unknown fields: msgspec either refuses or drops them for a type; we keep those of storage


def _carry_over(stored: Any, ours: Any, type_: Any) -> None:
    """Copy into `ours` (changed in place) what `stored`, an older state of it, has and `type_` has no field for."""
    type_ = _bare(type_)
    if get_origin(type_) is tuple and isinstance(stored, list) and isinstance(ours, list):
        item_type = get_args(type_)[0]
        earlier: dict[bytes, Any] = {}
        for one in stored:
            for key in _keys_of_item(_known_part(one, item_type), one):
                earlier.setdefault(key, one)
        for item in ours:
            # By its name where it has one, else by all that it is.
            _carry_over(earlier.get(next(_keys_of_item(item, item), b"")), item, item_type)
    if not (isinstance(type_, type) and issubclass(type_, msgspec.Struct)):
        return
    if not isinstance(stored, dict) or not isinstance(ours, dict):
        return
    fields = _fields(type_)
    tag = type_.__struct_config__.tag_field
    for key, value in stored.items():
        if key == tag:
            continue
        field = fields.get(key)
        if field is None:
            ours[key] = value
        elif key in ours:
            _carry_over(value, ours[key], field.type)
        elif isinstance(field.default, msgspec.Struct):  # left out because all that we know of it is at its default
            part: dict[str, Any] = {}
            _carry_over(value, part, field.type)
            if part:
                ours[key] = part


def _keys_of_item(known: Any, plain: Any) -> Iterator[bytes]:
    """By which the items of two lists are the same; nothing for what is no object."""
    if not isinstance(plain, dict):
        return
    if "name" in plain:
        # A dependency is told from another by its namespace as well.
        yield _encoder.encode([plain.get(key) for key in ("name", "namespace", "kind")])
    yield _encoder.encode(known)


def _known_part(plain: Any, type_: Any) -> Any:
    """`plain` without the fields that `type_` does not know."""
    type_ = _bare(type_)
    if get_origin(type_) is tuple and isinstance(plain, list):
        return [_known_part(item, get_args(type_)[0]) for item in plain]
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct) and isinstance(plain, dict):
        fields = _fields(type_)
        return {key: _known_part(value, fields[key].type) for key, value in plain.items() if key in fields}
    return plain


@functools.cache
def _fields(type_: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """By the names that are stored."""
    return {field.encode_name: field for field in msgspec.structs.fields(type_)}


def _bare(type_: Any) -> Any:
    """The type without Annotated and ``| None``."""
    while True:
        if get_origin(type_) is Annotated:
            type_ = get_args(type_)[0]
        elif get_origin(type_) in (Union, types.UnionType):
            type_ = next(member for member in get_args(type_) if member is not type(None))
        else:
            return type_
