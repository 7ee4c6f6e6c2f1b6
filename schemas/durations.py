"""Lengths of time as people write them in objects: Gateway API's form (GEP-2257), ``1h30m``, ``250ms``. Pure."""

import re
from typing import Annotated

import msgspec

DURATION_PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}\Z"
Duration = Annotated[
    str, msgspec.Meta(pattern=DURATION_PATTERN, description="a duration such as 10s, 250ms, 1m30s or 1h")
]
PositiveDuration = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?=.*[1-9])" + DURATION_PATTERN.removeprefix("^"),
        description="a duration above zero, such as 10s, 250ms, 1m30s or 1h",
    ),
]

_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_PART = re.compile(r"([0-9]+)(ms|h|m|s)")


def milliseconds(duration: str) -> int:
    """Of a string that `DURATION_PATTERN` matches; a unit may stand there more than once, and adds up."""
    return sum(int(number) * _MILLISECONDS[unit] for number, unit in _PART.findall(duration))
