"""Value <-> bytes. Canonical MessagePack in etcd, YAML or JSON from people, JSON Schema for editors.

Canonical: map keys sorted, so the same object always has the same bytes; maps with the field names of the YAML form,
so any MessagePack library reads them.
"""

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
import yaml

from schemas.errors import Corrupt, InvalidInput, Problem
from schemas.names import SYSTEM_NAMESPACE
from schemas.objects import API_VERSION, KINDS, AnyObject
from schemas.records import Record

T = TypeVar("T")

# etcd refuses a request above 1.5 MiB (its --max-request-bytes); 512 KiB an object leaves room for a change set.
MAX_VALUE_BYTES = 512 * 1024

_encoder = msgspec.msgpack.Encoder(order="sorted")
_decoders: dict[object, msgspec.msgpack.Decoder[Any]] = {}


def encode(value: AnyObject | Record) -> bytes:
    """Canonical MessagePack. An object's `metadata.revision` is etcd's to say and is left out."""
    if not isinstance(value, Record) and value.metadata.revision:
        value = msgspec.structs.replace(value, metadata=msgspec.structs.replace(value.metadata, revision=0))
    return _encoder.encode(value)


def encode_over(original: bytes, value: AnyObject | Record) -> bytes:
    """Like `encode`, and carries over from `original` every field that our types don't know.

    For read-modify-write: what a newer writer stored beside our fields survives us.
    """
    stored = msgspec.msgpack.decode(original)
    ours = msgspec.msgpack.decode(encode(value))
    for path in unknown_fields(stored, type(value)):
        source, target = stored, ours
        for step in path[:-1]:
            source = source[step]
            if isinstance(target, dict):
                target = target.setdefault(step, type(source)())
            elif isinstance(step, int) and step < len(target):
                target = target[step]
            else:
                break  # the list item it belonged to is gone
        else:
            if isinstance(target, dict):
                target[path[-1]] = source[path[-1]]
    return _encoder.encode(ours)


def decode(data: bytes, type_: type[T], subject: str) -> T:
    """A stored value as `type_`. Unknown fields are passed over: a newer writer may have added them.

    Raises Corrupt, naming `subject`, for anything that is not exactly that type, version and kind; for any bytes.
    """
    if len(data) > MAX_VALUE_BYTES:
        raise Corrupt(Problem(subject, f"{len(data)} bytes, above the limit of {MAX_VALUE_BYTES}"))
    decoder = _decoders.get(type_)
    if decoder is None:
        decoder = _decoders[type_] = msgspec.msgpack.Decoder(type_)
    try:
        value: T = decoder.decode(data)
    except msgspec.ValidationError as error:
        message, path = _split(str(error))
        raise Corrupt(Problem(subject, message, path, "write it again, or delete the key")) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Corrupt(
            Problem(subject, f"not MessagePack: {reason}", remedy="write it again, or delete the key")
        ) from error
    return value


def decode_object(data: bytes, kind: str, subject: str) -> AnyObject:
    """A stored object of that kind; raises Corrupt, for an unknown kind and an unknown version too."""
    type_ = KINDS.get(kind)
    if type_ is None:
        raise Corrupt(Problem(subject, f"unknown kind {kind!r}", remedy="upgrade this component, or delete the key"))
    return decode(data, type_, subject)


def to_builtins(value: AnyObject | Record, *, revision: int = 0) -> dict[str, Any]:
    """The YAML form as plain dicts and lists; bytes as base64. `revision`, where not 0, is shown in the metadata."""
    plain: dict[str, Any] = msgspec.to_builtins(value)
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
    """All objects of a YAML (or JSON) stream. Raises InvalidInput with every problem of every document."""
    documents: list[Document] = []
    problems: list[Problem] = []
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.CSafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        what = getattr(error, "problem", None) or str(error)
        raise InvalidInput(Problem(where, f"not YAML: {what}", remedy="mend the syntax at that place")) from error
    except RecursionError as error:
        raise InvalidInput(Problem(source, "nested too deeply")) from error
    for node in nodes:
        if node is None:
            continue
        where = f"{source}:{node.start_mark.line + 1}"
        try:
            documents.append(Document(where, _convert(_construct(node, where), where)))
        except InvalidInput as error:
            problems += error.problems
    seen: dict[object, str] = {}
    for document in documents:
        first = seen.setdefault(document.object.ref, document.source)
        if first != document.source:
            problems.append(
                Problem(document.source, f"{document.object.ref} stands here a second time, first at {first}")
            )
    if problems:
        raise InvalidInput(*problems)
    return documents


def _construct(node: yaml.Node, where: str) -> Any:
    loader = yaml.CSafeLoader("")
    try:
        _refuse_duplicate_keys(node, where)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise InvalidInput(Problem(where, f"not YAML: {getattr(error, 'problem', error)}")) from error
    except RecursionError as error:
        raise InvalidInput(Problem(where, "nested too deeply, or an anchor that holds itself")) from error
    finally:
        loader.dispose()


def _refuse_duplicate_keys(node: yaml.Node, where: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise InvalidInput(
                        Problem(where, f"the key {key.value!r} stands twice in one mapping (line {line})")
                    )
                seen.add(key.value)
            _refuse_duplicate_keys(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicate_keys(item, where)


def _convert(plain: object, where: str) -> AnyObject:
    """One document, strictly: unknown fields are errors, with the nearest known name."""
    if not isinstance(plain, dict):
        raise InvalidInput(Problem(where, "not a mapping", remedy="start with apiVersion, kind, metadata, spec"))
    kind, version = plain.get("kind"), plain.get("apiVersion")
    if version != API_VERSION:
        raise InvalidInput(Problem(where, f"apiVersion is {version!r}", "$.apiVersion", f"write {API_VERSION}"))
    type_ = KINDS.get(kind) if isinstance(kind, str) else None
    if type_ is None:
        raise InvalidInput(Problem(where, f"unknown kind {kind!r}", "$.kind", _nearest(kind, KINDS)))
    metadata = plain.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    subject = f"{where}: {kind} {name!r}" if isinstance(name, str) else f"{where}: {kind}"
    problems = [
        Problem(subject, f"unknown field {path[-1]!r}", _json_path(path), _nearest(path[-1], known))
        for path, known in _unknown(plain, type_, ())
    ]
    try:
        value = msgspec.convert(plain, type_)
    except msgspec.ValidationError as error:
        message, path = _split(str(error))
        problems.append(Problem(subject, message, path))
    except RecursionError:
        problems.append(Problem(subject, "nested too deeply"))
    if problems:
        raise InvalidInput(*problems)
    if kind == "Mesh" and value.metadata.namespace != SYSTEM_NAMESPACE:
        if "namespace" in plain["metadata"]:
            raise InvalidInput(
                Problem(
                    subject,
                    "is not of a namespace",
                    "$.metadata.namespace",
                    f"write {SYSTEM_NAMESPACE} or leave it out",
                )
            )
        value = msgspec.structs.replace(
            value, metadata=msgspec.structs.replace(value.metadata, namespace=SYSTEM_NAMESPACE)
        )
    return value


def dump_yaml(values: Sequence[Mapping[str, Any]]) -> str:
    """YAML stream of what `to_builtins` gave, field order kept."""
    return yaml.dump_all(values, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of every kind; `$defs` holds one entry a type, the top is any of the kinds."""
    schema = msgspec.json.schema(Union[tuple(KINDS.values())])  # noqa: UP007  (a union from a table)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# -- unknown fields: msgspec either refuses or drops them for a type; we refuse from people, and keep from storage

Path = tuple[str | int, ...]


def unknown_fields(plain: object, type_: Any) -> list[Path]:
    """Paths of all mapping keys in `plain` that `type_` has no field for."""
    return [path for path, _ in _unknown(plain, type_, ())]


def _unknown(plain: object, type_: Any, path: Path) -> Iterator[tuple[Path, list[str]]]:
    origin = get_origin(type_)
    if origin is Annotated:
        yield from _unknown(plain, get_args(type_)[0], path)
    elif origin in (Union, types.UnionType):
        for member in get_args(type_):
            if member is not type(None):
                yield from _unknown(plain, member, path)
    elif origin is tuple and isinstance(plain, list):
        for index, item in enumerate(plain):
            yield from _unknown(item, get_args(type_)[0], (*path, index))
    elif isinstance(type_, type) and issubclass(type_, msgspec.Struct) and isinstance(plain, dict):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(type_)}
        tag = type_.__struct_config__.tag_field
        for key, value in plain.items():
            if key in fields:
                yield from _unknown(value, fields[key], (*path, key))
            elif key != tag:
                yield (*path, key), sorted(fields)


def _json_path(path: Path) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _nearest(word: object, known: Mapping[str, object] | Sequence[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"


def _split(message: str) -> tuple[str, str]:
    """msgspec's ``Expected … - at `$.path` `` as (message, path)."""
    text, _, path = message.partition(" - at `")
    return text, path.rstrip("`")
