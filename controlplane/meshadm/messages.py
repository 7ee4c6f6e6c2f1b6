"""A message of the API as plain values. Pure."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

_INT64 = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})


def plain(message: Message) -> dict[str, Any]:
    """All its fields in lowerCamelCase, but for optional ones that are not there; numbers as numbers."""
    shown: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return _with_numbers(shown, message.DESCRIPTOR.fields)


def _with_numbers(shown: dict[str, Any], fields: Iterable[Any]) -> dict[str, Any]:
    """Protobuf's JSON form has 64-bit integers as strings. fields: descriptors."""
    for field in fields:
        value = shown.get(field.json_name)
        if value is None:
            continue
        if field.cpp_type in _INT64:
            shown[field.json_name] = [int(one) for one in value] if isinstance(value, list) else int(value)
        elif field.message_type is not None:
            for one in value if isinstance(value, list) else [value]:
                _with_numbers(one, field.message_type.fields)
    return shown
