"""A process's own settings file: one YAML document, read as strictly as an object."""

from typing import TypeVar

import msgspec

from schemas import checking
from schemas.errors import InvalidInput, Problem
from schemas.yaml_text import read_documents

T = TypeVar("T", bound=msgspec.Struct)


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of settings and of their parts."""


def load_settings(text: str, type_: type[T], source: str) -> T:
    """The one document in `text` as `type_`. Raises InvalidInput with every problem, each with its path."""
    documents, problems = read_documents(text, source)
    if problems:
        raise InvalidInput(*problems)
    if len(documents) != 1:
        raise InvalidInput(Problem(source, f"expected one YAML document, got {len(documents)}"))
    document = documents[0]
    found = [
        Problem(f"{source}:{document.line_of(fault.path)}", fault.message, checking.json_path(fault.path), fault.remedy)
        for fault in checking.faults(document.value, type_)
    ]
    if found:
        raise InvalidInput(*found)
    try:
        return msgspec.convert(document.value, type_)
    except msgspec.ValidationError as error:  # what a `__post_init__` refuses
        message, _, path = str(error).partition(" - at `")
        raise InvalidInput(Problem(source, message, path.rstrip("`"))) from error
