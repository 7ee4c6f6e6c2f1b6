"""The matrix, for people and for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.matrix.collect import Held
from tests.matrix.lines import MUST_HOLD, TITLES


def missing(held: Held) -> dict[str, list[int]]:
    """What must be held, and is held by no test."""
    return {name: sorted(must - held[name].keys()) for name, must in MUST_HOLD.items()}


def as_json(held: Held) -> dict[str, Any]:
    return {
        name: [
            {
                "number": number,
                "title": title,
                "mustHold": number in MUST_HOLD[name],
                "tests": list(held[name].get(number, ())),
            }
            for number, title in titles.items()
        ]
        for name, titles in TITLES.items()
    }


def as_text(held: Held) -> str:
    lines: list[str] = []
    for name, titles in TITLES.items():
        for number, title in titles.items():
            tests = held[name].get(number, ())
            must = number in MUST_HOLD[name]
            state = f"{len(tests)} tests" if tests else "MISSING" if must else "open"
            lines += [f"{name}({number})  {title}: {state}", *(f"    {one}" for one in tests)]
    return "\n".join([*lines, "", *_summary(held)])


def _summary(held: Held) -> Iterator[str]:
    for name, numbers in missing(held).items():
        open_ones = sorted(TITLES[name].keys() - held[name].keys() - set(numbers))
        yield f"{name}: {len(held[name])} of {len(TITLES[name])} held" + (
            f", open: {_list(open_ones)}" * bool(open_ones)
        )
        if numbers:
            yield f"{name}: MISSING, held by no test and must be: {_list(numbers)}"


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
