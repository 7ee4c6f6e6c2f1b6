"""Durations and shares as people write them. Pure."""

from typing import Any


def span(duration: Any) -> str:
    """A protobuf Duration: ``250ms``, ``3s``."""
    milliseconds = duration.seconds * 1000 + duration.nanos // 1_000_000
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


_PARTS = (100, 10_000, 1_000_000)
"""Of Envoy's FractionalPercent, by its denominator."""


def share(part: Any) -> str:
    """A FractionalPercent: ``2.5 %``; nothing where it is all."""
    percent = part.numerator * 100 / _PARTS[part.denominator]
    return "" if percent >= 100 else f"{percent:g} % of "
