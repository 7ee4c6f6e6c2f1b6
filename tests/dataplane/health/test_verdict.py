"""Thresholds: what a row of answers comes to."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from dataplane.health.verdict import Verdict


def judged(answers: list[bool], *, healthy: bool, bad: int = 3, good: int = 2) -> Verdict:
    verdict = Verdict(healthy)
    for well in answers:
        verdict = verdict.after(None if well else "503", unhealthy_threshold=bad, healthy_threshold=good)
    return verdict


def test_so_many_failures_in_a_row() -> None:
    assert judged([False, False], healthy=True).healthy
    assert not judged([False, False, False], healthy=True).healthy
    assert judged([False, False, True, False, False], healthy=True).healthy


def test_so_many_successes_in_a_row() -> None:
    assert not judged([True, False, True], healthy=False).healthy
    assert judged([True, True], healthy=False).healthy


def test_in_words() -> None:
    assert str(Verdict(False)) == "unhealthy: not checked yet"
    assert str(judged([False] * 3, healthy=True)) == "unhealthy: 503"
    assert str(judged([True], healthy=True)) == "healthy"


@given(st.booleans(), st.lists(st.booleans(), max_size=30), st.integers(1, 5), st.integers(1, 5))
def test_it_is_the_last_row_that_was_long_enough(start: bool, answers: list[bool], bad: int, good: int) -> None:
    rows = [(well, len(list(row))) for well, row in groupby(answers)]
    enough = [well for well, length in rows if length >= (good if well else bad)]
    assert judged(answers, healthy=start, bad=bad, good=good).healthy is (enough[-1] if enough else start)
