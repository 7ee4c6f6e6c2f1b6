"""JSON that has one meaning only. Pure.

RFC 8259 leaves open what a name means that is there twice, and Python's reader takes NaN; of documents that decide whom
to trust, every reader must understand the same (RFC 7515, 4 and RFC 7519, 4: duplicate names are refused).
"""

import json
from typing import Any, NoReturn


class NotStrict(ValueError):
    """The text is no JSON object of one meaning; the message says why, without quoting it."""


def load_object(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8. Raises NotStrict, for any bytes."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except NotStrict:
        raise
    except (ValueError, RecursionError) as error:
        raise NotStrict("not JSON in UTF-8") from error
    if not isinstance(value, dict):
        raise NotStrict("not a JSON object")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotStrict("a name is there twice in one object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise NotStrict("NaN and Infinity are no JSON numbers")
