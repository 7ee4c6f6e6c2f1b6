"""Whose turn it is, of many places that keys are fetched from."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from controlplane.key_sets.decide import Place, Source, fairly
from schemas.key_sets import place
from schemas.names import ObjectRef
from schemas.records import KeySetStatus


def one(name: str, *namespaces: str, failures: int | None = 0, due: int = 0) -> Place:
    """failures: None: nobody has tried it yet."""
    uri = f"https://{name}.example/"
    objects = tuple(ObjectRef("RequestAuthentication", namespace, name) for namespace in namespaces)
    status = KeySetStatus(uri=uri, failures=failures, next=due) if failures is not None else None
    ref = place(uri, b"")
    return Place(ref, objects, Source(ref, uri, None, 1200), None, usable=False, status=status)


def names(places: Iterable[Place]) -> list[str]:
    return [one.uri.removeprefix("https://").removesuffix(".example/") for one in places]


@pytest.mark.parametrize("failures", [None, 3])
def test_of_those_that_never_answer_a_few_are_asked_in_one_look(failures: int | None) -> None:
    many = [one(f"dead-{number:03}", "shop", failures=failures) for number in range(100)]
    answering = [one(f"good-{number}", "shop") for number in range(12)]
    assert names(fairly([*many, *answering], 8)) == names([*answering, *many[:8]])
    assert len(fairly([one(f"good-{number}", "shop") for number in range(100)], 8)) == 32


def test_what_is_new_is_first_then_who_has_waited_longest() -> None:
    waiting = [one(f"d-{due}", "shop", failures=1, due=due) for due in (30, 10, 20)]
    assert names(fairly([*waiting, one("new", "shop", failures=None)], 8)) == ["new", "d-10", "d-20", "d-30"]


def test_no_namespace_waits_for_the_many_of_another() -> None:
    many = [one(f"a-{number:03}", "many", failures=None) for number in range(100)]
    few = [one("z", "few", failures=None), one("y", "few", failures=5, due=9)]
    shared = one("zz", "many", "third", failures=None)  # whoever else names it
    assert set(names(fairly([*many, *few, shared], 8))) == {"z", "y", "zz", *(f"a-{number:03}" for number in range(5))}


@pytest.mark.parametrize("number", [500, 1000])
def test_no_place_is_compared_with_the_others(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are compared field by field: of a thousand that takes a second of a loop that has more to do."""

    def compare(self: Place, other: object) -> bool:
        raise AssertionError(f"{self.uri} is compared")

    monkeypatch.setattr(Place, "__eq__", compare)
    assert len(fairly([one(f"d-{each}", "shop", failures=1) for each in range(number)], 8)) == 8
