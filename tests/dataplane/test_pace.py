"""How changes are gathered, by a simulation: a rush of changes, Envoy's acks, and when each push goes out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.pace import GATHER_S, QUIET_S, RUSH_FROM, Pace

MS = 0.001


def pushes(arrivals: Sequence[float], ack_seconds: float) -> list[float]:
    """When the pushes go out by which changes that come at `arrivals` reach Envoy, which takes so long to ack each."""
    pace, out = Pace(), list[float]()
    waiting = sorted(arrivals)
    while waiting:
        # What comes while nobody is waiting for anything starts the next push.
        first = waiting[0]
        acked_at = out[-1] + ack_seconds if out else float("-inf")
        sent = max(first, pace.due(first, behind=first < acked_at))
        taken = [one for one in waiting if one <= sent]
        waiting = waiting[len(taken) :]
        pace.pushed(sent, changes=len(taken))
        out.append(sent)
    return out


@pytest.mark.parametrize("ack_ms", [1.5, 3, 8, 30])
def test_a_thousand_changes_in_a_second_are_forty_pushes(ack_ms: float) -> None:
    arrivals = [number * MS for number in range(1000)]
    out = pushes(arrivals, ack_ms * MS)
    assert len(out) <= 40
    assert out[-1] - arrivals[-1] <= GATHER_S


def test_one_at_a_time_never_waits() -> None:
    arrivals = [number * 3 * MS for number in range(1000)]
    assert pushes(arrivals, 2 * MS) == arrivals


def test_two_or_three_at_once_never_wait() -> None:
    arrivals = [start + at * MS for start in range(20) for at in (0, 1, 2)]
    assert pushes(arrivals, 2 * MS) == arrivals


def test_after_a_rush_a_change_that_comes_alone_does_not_wait() -> None:
    rush = [number * MS for number in range(300)]
    alone = [1.0 + number for number in range(10)]
    assert pushes([*rush, *alone], 2 * MS)[-10:] == alone


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0.0001, 1))
def test_nothing_waits_for_longer_than_is_stated_and_nothing_is_left(arrivals: list[float], ack_seconds: float) -> None:
    out = pushes(arrivals, ack_seconds)
    for one in arrivals:
        assert any(one <= sent <= one + GATHER_S + 1e-9 for sent in out)


def test_a_rush_needs_three_changes() -> None:
    pace = Pace()
    pace.pushed(1.0, changes=1)
    waits = [pace.due(1.001, behind=True) > 1.001 for _ in range(RUSH_FROM // 2)]
    assert waits == [False, False, True]
    assert pace.due(1.001 + QUIET_S, behind=True) == 1.001 + QUIET_S
