from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.progress import Progress, Refusal, Tracker, Uncut
from schemas.keys import StatusRef
from schemas.records import Nack, OpenStreams, SidecarStatus

A, B, C = (StatusRef("shop", f"orders.{name}") for name in "abc")


ENDS = OpenStreams(bound_ms=2000)
PASSES = OpenStreams(bound_ms=2000, passed_bound_ms=11_000)
GOES_ON = OpenStreams(bound_ms=0, problem="not allowed")


def status(acked: int, *nacks: int, applied: int = 0, open_streams: OpenStreams | None = ENDS) -> SidecarStatus:
    return SidecarStatus(
        service="orders",
        namespace="shop",
        instance="a",
        applied_revision=max(applied, acked),
        acked_revision=acked,
        svid_expires=0,
        nacks=tuple(Nack(type_url="a/b.Cluster", resource="c", message="m", revision=one) for one in nacks),
        open_streams=open_streams,
    )


def test_nobody_there_is_done() -> None:
    assert Tracker(9).progress().done


def test_an_old_refusal_counts_once_the_new_revision_has_been_offered() -> None:
    tracker = Tracker(9)
    tracker.update(A, status(7, 8, applied=8))
    assert tracker.progress().pending == ("shop/orders.a",)  # the new revision may mend it
    tracker.update(A, status(7, 8, applied=9))
    assert tracker.progress().refusals == (Refusal("shop/orders.a", "Cluster c", "m"),)
    assert tracker.progress().done
    tracker.update(A, status(9))
    assert (tracker.progress().acked, tracker.progress().refusals) == (1, ())


def test_who_is_revoked_is_not_waited_for_and_not_asked() -> None:
    tracker = Tracker(9)
    tracker.update(A, status(8, 9), revoked=True)
    tracker.update(B, status(8))
    assert tracker.progress() == Progress(1, 0, ("shop/orders.b",), (), ("shop/orders.a",), 2000)
    tracker.update(B, status(9))
    assert tracker.progress().done
    tracker.update(A, status(8))  # it was taken back
    assert tracker.progress() == Progress(2, 1, ("shop/orders.a",), (), open_bound_ms=2000)
    tracker.update(A, None, revoked=True)
    tracker.remove(A)
    assert tracker.progress() == Progress(1, 1, (), (), open_bound_ms=2000)


def test_a_refusal_of_a_later_revision_counts() -> None:
    tracker = Tracker(9)
    tracker.update(A, status(8, 12))
    assert tracker.progress().refusals


@pytest.mark.fault(24)
def test_where_what_is_open_goes_on_is_named_and_the_longest_bound_is_told() -> None:
    tracker = Tracker(9)
    tracker.update(A, status(9))
    tracker.update(B, status(9, open_streams=PASSES))
    assert tracker.progress() == Progress(2, 2, (), (), (), 2000, 11_000)
    tracker.update(B, status(8, open_streams=GOES_ON))
    tracker.update(C, status(9, open_streams=GOES_ON), revoked=True)  # nobody hears it
    uncut = (Uncut("shop/orders.b", "not allowed"),)
    assert tracker.progress() == Progress(2, 1, ("shop/orders.b",), (), ("shop/orders.c",), 2000, 0, uncut)
    tracker.update(B, status(9, open_streams=GOES_ON))
    assert tracker.progress().done
    tracker.remove(A)
    assert (tracker.progress().open_bound_ms, tracker.progress().uncut) == (0, uncut)


def test_a_sidecar_of_a_version_that_says_nothing_of_what_is_open_is_no_failure() -> None:
    tracker = Tracker(9)
    tracker.update(A, status(9, open_streams=None))
    tracker.update(B, status(9))
    assert tracker.progress() == Progress(2, 2, (), (), (), 2000, bound_unknown=("shop/orders.a",))
    tracker.update(A, None)  # it is waited for
    assert tracker.progress().bound_unknown == ()


said = st.builds(
    status,
    st.integers(0, 12),
    applied=st.integers(0, 12),
    open_streams=st.sampled_from([None, ENDS, PASSES, GOES_ON]),
)
steps = st.lists(st.tuples(st.sampled_from([A, B]), st.none() | said), max_size=12)


@given(steps)
def test_it_depends_on_the_last_word_of_each_only(history: list[tuple[StatusRef, SidecarStatus | None]]) -> None:
    one, other = Tracker(9), Tracker(9)
    last: dict[StatusRef, SidecarStatus | None] = {}
    for ref, said in history:
        one.update(ref, said)
        last[ref] = said
    for ref, said in sorted(last.items(), key=str):
        other.update(ref, said)
    assert one.progress() == other.progress()
    assert one.progress().total == len(last)
