from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.progress import Progress, Refusal, Tracker
from schemas.keys import StatusRef
from schemas.records import Nack, SidecarStatus

A, B = StatusRef("shop", "orders.a"), StatusRef("shop", "orders.b")


def status(acked: int, *nacks: int, applied: int = 0) -> SidecarStatus:
    return SidecarStatus(
        service="orders",
        namespace="shop",
        instance="a",
        applied_revision=max(applied, acked),
        acked_revision=acked,
        svid_expires=0,
        nacks=tuple(Nack(type_url="a/b.Cluster", resource="c", message="m", revision=one) for one in nacks),
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
    assert tracker.progress() == Progress(1, 0, ("shop/orders.b",), (), ("shop/orders.a",))
    tracker.update(B, status(9))
    assert tracker.progress().done
    tracker.update(A, status(8))  # it was taken back
    assert tracker.progress() == Progress(2, 1, ("shop/orders.a",), ())
    tracker.update(A, None, revoked=True)
    tracker.remove(A)
    assert tracker.progress() == Progress(1, 1, (), ())


def test_a_refusal_of_a_later_revision_counts() -> None:
    tracker = Tracker(9)
    tracker.update(A, status(8, 12))
    assert tracker.progress().refusals


steps = st.lists(
    st.tuples(st.sampled_from([A, B]), st.none() | st.builds(status, st.integers(0, 12), applied=st.integers(0, 12))),
    max_size=12,
)


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
