"""What is wrong with a value that people wrote: every fault, its path, what was expected and what stood there.

msgspec decodes fast and stops at the first fault; this walks the same types and is only asked when people wait for
the answer. msgspec's own decoding stays the judge of what is accepted.
"""

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault at `path` of the value that was checked."""

    path: Path
    message: str
    remedy: str = ""


def json_path(path: Path) -> str:
    """``$.spec.ports[0].port``; names that are no words in brackets and quotes."""
    steps = (
        f"[{step}]" if isinstance(step, int) else f".{step}" if re.fullmatch(r"\w+", step) else f"[{step!r}]"
        for step in path
    )
    return "$" + "".join(steps)


def nearest(word: object, known: Mapping[str, object] | Sequence[str]) -> str:
    """A remedy for a word that is none of `known`."""
    close = difflib.get_close_matches(str(word)[:64], list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"


def faults(plain: object, type_: Any, path: Path = ()) -> Iterator[Fault]:
    """All faults of `plain` as a value of `type_`, in the order of the fields. Expects a bounded depth."""
    bare, meta, optional = _unwrap(type_)
    if plain is None and optional:
        return
    if _is_struct(bare):
        if isinstance(plain, dict):
            yield from _struct_faults(plain, bare, path)
        else:
            yield _mismatch(plain, bare, meta, path)
    elif get_origin(bare) is tuple:
        if isinstance(plain, list) and _length_fits(len(plain), meta):
            for index, item in enumerate(plain):
                yield from faults(item, get_args(bare)[0], (*path, index))
        else:
            yield _mismatch(plain, bare, meta, path)
    elif get_origin(bare) is dict:
        if not isinstance(plain, dict):
            yield _mismatch(plain, bare, meta, path)
            return
        key_type, value_type = get_args(bare)
        for key, value in plain.items():
            for fault in faults(key, key_type, path):
                yield Fault((*path, key), f"as a key: {fault.message}", fault.remedy)
            yield from faults(value, value_type, (*path, key))
    else:
        try:
            msgspec.convert(plain, type_)
        except msgspec.ValidationError:
            yield _mismatch(plain, bare, meta, path)


def _struct_faults(plain: dict[str, Any], type_: type[msgspec.Struct], path: Path) -> Iterator[Fault]:
    fields = _fields(type_)
    tag = type_.__struct_config__.tag_field
    for name, field in fields.items():
        if name in plain:
            yield from faults(plain[name], field.type, (*path, name))
        elif field.required:
            yield Fault((*path, name), f"missing: expected {expected(field.type)}", "add it")
    for key in plain:
        if key not in fields and key != tag:
            yield Fault((*path, key), f"unknown field {key!r}", nearest(key, sorted(fields)))


@cache  # msgspec evaluates the annotations anew each time: most of the cost of a check
def _fields(type_: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """By the names that are written."""
    return types.MappingProxyType({field.encode_name: field for field in msgspec.structs.fields(type_)})


def _mismatch(plain: object, bare: Any, meta: tuple[msgspec.Meta, ...], path: Path) -> Fault:
    message = f"expected {_expected(bare, meta)}, got {_got(plain)}"
    if get_origin(bare) is Literal and isinstance(plain, str):
        return Fault(path, message, nearest(plain, [str(value) for value in get_args(bare)]))
    if bare is str and isinstance(plain, bool | int | float):
        return Fault(path, message, "put it in quotes")
    return Fault(path, message)


@cache
def _unwrap(type_: Any) -> tuple[Any, tuple[msgspec.Meta, ...], bool]:
    """The type without Annotated and ``| None``, its constraints, and whether None is allowed."""
    meta: tuple[msgspec.Meta, ...] = ()
    optional = False
    while True:
        if get_origin(type_) is Annotated:
            type_, *extra = get_args(type_)
            meta += tuple(one for one in extra if isinstance(one, msgspec.Meta))
        elif get_origin(type_) in (Union, types.UnionType) and type(None) in get_args(type_):
            rest = tuple(member for member in get_args(type_) if member is not type(None))
            optional = True
            type_ = rest[0] if len(rest) == 1 else Union[rest]  # noqa: UP007  (a union from a table)
            if len(rest) != 1:
                return type_, meta, optional
        else:
            return type_, meta, optional


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _length_fits(length: int, meta: tuple[msgspec.Meta, ...]) -> bool:
    return all((one.min_length or 0) <= length <= (one.max_length or length) for one in meta)


def expected(type_: Any) -> str:
    """What a value of `type_` is, in words: ``a whole number from 1 to 65535``."""
    bare, meta, _ = _unwrap(type_)
    return _expected(bare, meta)


def _expected(bare: Any, meta: tuple[msgspec.Meta, ...]) -> str:
    described = next((one.description for one in meta if one.description), None)
    if described is not None:
        return described
    low = next((one.ge for one in meta if one.ge is not None), None)
    high = next((one.le for one in meta if one.le is not None), None)
    shortest = next((one.min_length for one in meta if one.min_length is not None), None)
    longest = next((one.max_length for one in meta if one.max_length is not None), None)
    if get_origin(bare) is Literal:
        return " or ".join(str(value) for value in get_args(bare))
    if bare is bool:
        return "true or false"
    if bare in (int, float):
        return "a whole number" + _range(low, high, "") if bare is int else "a number" + _range(low, high, "")
    if bare is str:
        return "a string" + _range(shortest, longest, " characters")
    if bare is bytes:
        return "base64"
    if get_origin(bare) is tuple:
        return "a list" + _range(shortest, longest, " items")
    if _is_struct(bare):
        return f"a mapping with {', '.join(field.encode_name for field in msgspec.structs.fields(bare))}"
    return "a mapping" if get_origin(bare) is dict else "another value"


def _range(low: int | float | None, high: int | float | None, unit: str) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}{unit}" if not unit else f" of {low} to {high}{unit}"
    if low is not None:
        return f" of at least {low}{unit}"
    return f" of at most {high}{unit}" if high is not None else ""


def _got(plain: object) -> str:
    if plain is None:
        return "null"
    if isinstance(plain, list):
        return f"a list of {len(plain)}"
    if isinstance(plain, dict):
        return "a mapping"
    if isinstance(plain, bool):
        return str(plain).lower()
    text = repr(plain)
    return text if len(text) <= 80 else f"{text[:77]}…"


# -- msgspec's own messages, for stored values


@cache
def pattern_descriptions(types_: tuple[Any, ...]) -> dict[str, str | None]:
    """Every regular expression that any of the types constrains a string with, and what it means in words."""
    found: dict[str, str | None] = {}
    seen: set[Any] = set()

    def visit(type_: Any) -> None:
        if get_origin(type_) is Annotated:
            for one in get_args(type_)[1:]:
                if isinstance(one, msgspec.Meta) and one.pattern is not None:
                    found[one.pattern] = one.description or found.get(one.pattern)
        if _is_struct(type_) and type_ not in seen:
            seen.add(type_)
            for field in msgspec.structs.fields(type_):
                visit(field.type)
        for argument in get_args(type_) if get_origin(type_) is not Literal else ():
            visit(argument)

    for type_ in types_:
        visit(type_)
    return found


_REGEX = re.compile(r"Expected `str` matching regex (?P<pattern>'.*')", re.DOTALL)
_PATH = re.compile(r"^(?P<text>.*?) - at `(?P<path>[^`]*)`(?P<rest>.*)\Z", re.DOTALL)


def explain(message: str, descriptions: Mapping[str, str | None]) -> tuple[str, str]:
    """msgspec's message -> (what was expected, in words; JSONPath or "").

    Knows its forms ``… - at `$.a.b` `` and ``… - at `key` in `$.a` `` (0.22).
    """
    match = _PATH.match(message)
    text, path = (match["text"], match["path"]) if match else (message, "")
    if match and path in ("key", "value"):
        text, path = f"{path} of a mapping: {text}", match["rest"].removeprefix(" in `").rstrip("`")
    regex = _REGEX.search(text)
    if regex is not None:
        for pattern, description in descriptions.items():
            if description and repr(pattern) == regex["pattern"]:
                text = text.replace(regex[0], f"Expected {description}")
    return text.replace("`", ""), path
