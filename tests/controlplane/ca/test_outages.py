"""When issuing was impossible, and whom that excuses: decided by a clock that a test moves."""

from __future__ import annotations

import pytest

from controlplane.ca.outages import MAX_OUTAGES, Beat, Found, Own, beat_seconds, excuse, next_beat, quiet_seconds
from schemas.errors import Unauthenticated
from schemas.records import IssuingTimes, Outage

TTL = 3600
NOW = 1_800_000_000
BEAT = beat_seconds(TTL)
QUIET = quiet_seconds(TTL)


def times(seen: float, *outages: Outage, epoch: str = "e") -> IssuingTimes:
    return IssuingTimes(epoch=epoch, seen=int(seen), outages=outages)


def found(held: IssuingTimes | None, *, pulse: bool = False) -> Found:
    return Found(held, pulse, "e")


def own(until: float, *, looked: float | None = None, ago: float = 0.0, pending: Outage | None = None) -> Own:
    return Own(until, until if looked is None else looked, ago, pending)


# -- what is put on record


def test_the_first_replica_of_a_mesh_records_no_outage() -> None:
    assert next_beat(found(None), None, NOW, TTL) == Beat(times(NOW))


def test_a_clock_that_was_ahead_does_not_hide_what_comes_after_it() -> None:
    ahead = times(NOW + 10 * QUIET)
    assert next_beat(found(ahead, pulse=True), None, NOW, TTL) == Beat(), "perhaps ours is behind"
    assert next_beat(found(ahead), None, NOW, TTL) == Beat(times(NOW))


def test_what_a_backup_says_of_the_time_before_it_was_restored_is_dropped() -> None:
    before = times(NOW - 9000, Outage(start=1, end=NOW - 9000), epoch="before")
    assert next_beat(found(before), own(NOW - 20), NOW, TTL) == Beat(times(NOW))


@pytest.mark.parametrize("ago", [0.0, BEAT / 2 - 1, -QUIET])
def test_what_another_has_just_said_is_not_said_again(ago: float) -> None:
    assert next_beat(found(times(NOW - ago)), own(NOW - BEAT), NOW, TTL) == Beat()


@pytest.mark.parametrize("pulse", [True, False])
def test_a_short_silence_is_no_outage(pulse: bool) -> None:
    assert next_beat(found(times(NOW - QUIET), pulse=pulse), None, NOW, TTL) == Beat(times(NOW))


def test_a_long_silence_is_an_outage() -> None:
    outage = Outage(start=NOW - 5000, end=NOW)
    assert next_beat(found(times(NOW - 5000)), None, NOW, TTL) == Beat(times(NOW, outage), outage=outage)


def test_while_cut_off_from_etcd_this_replica_could_issue_and_the_outage_begins_when_it_could_not() -> None:
    beat = next_beat(found(times(NOW - 9000)), own(NOW - 5400, looked=NOW - 9000, ago=9000), NOW, TTL)
    assert beat.outage == Outage(start=NOW - 5400, end=NOW)
    kept = next_beat(found(times(NOW - 3000)), own(NOW - 5, looked=NOW - 3000, ago=3000), NOW, TTL)
    assert kept == Beat(times(NOW)), "it never stopped"


def test_etcd_was_away_too_and_its_leases_begin_anew_with_it() -> None:
    """The pulse is there for a while after etcd's return: until then nothing is recorded, and nothing is forgotten."""
    held, mine = times(NOW - 9000), own(NOW - 5400, looked=NOW - 9000, ago=9000)
    outage = Outage(start=NOW - 5400, end=NOW)
    first = next_beat(found(held, pulse=True), mine, NOW, TTL)
    assert first == Beat(times(NOW - 5400), pulse=False, pending=outage), "for a replica that knows less"
    assert first.times is not None
    waiting = own(NOW + 1, looked=NOW, ago=1, pending=first.pending)
    assert next_beat(found(first.times, pulse=True), waiting, NOW + 1, TTL) == Beat(pending=outage)
    # One that has just started, and one that waited: whoever comes first.
    late = Outage(start=NOW - 5400, end=NOW + 60)
    assert next_beat(found(first.times), None, NOW + 60, TTL).outage == late
    assert next_beat(found(first.times), waiting, NOW + 60, TTL).outage == outage


def test_a_replica_that_starts_with_a_clock_ahead_makes_up_no_outage() -> None:
    """Others go on saying that they can issue, and etcd's clock bears them out."""
    ahead, pending = NOW + 3600, None
    for step in range(0, 600, 20):
        held = found(times(NOW + step), pulse=True)
        state = own(ahead + step - 20, looked=ahead + step - 20, ago=20, pending=pending) if step else None
        beat = next_beat(held, state, ahead + step, TTL)
        assert beat.times is None
        pending = beat.pending
    # The others are stopped, one by one, and the pulse ends.
    alone = next_beat(found(times(NOW + 600 + 3600)), own(ahead + 700, ago=20, pending=pending), ahead + 700, TTL)
    assert alone.outage is None


def test_a_clock_that_was_set_ahead_makes_up_no_outage() -> None:
    jumped = own(NOW, ago=BEAT)
    assert next_beat(found(times(NOW), pulse=True), jumped, NOW + 3600, TTL) == Beat(times(NOW + 3600))
    assert next_beat(found(times(NOW)), jumped, NOW + 3600, TTL).outage, "etcd has not heard of us either"


def test_what_is_on_record_is_bounded() -> None:
    old = [Outage(start=one, end=one + 1) for one in range(MAX_OUTAGES)]
    beat = next_beat(found(times(NOW - 5000, *old)), None, NOW, TTL)
    assert beat.times is not None
    assert beat.times.outages == (*old[1:], Outage(start=NOW - 5000, end=NOW))


# -- who is excused

START = NOW - 3000  # half of the leaf's life is over, not yet 55 %
LEAF = (START - 1800, START + 1800)
OUTAGE = Outage(start=START, end=NOW)


def judged(
    *outages: Outage, leaf: tuple[int, int] = LEAF, now: float = NOW + 30, epoch: str = "e", ttl: int = TTL
) -> Outage:
    return excuse(*leaf, times(NOW, *outages), epoch, now, ttl)


def test_an_svid_that_ended_in_an_outage_is_excused_for_as_long_as_one_lives() -> None:
    assert judged(OUTAGE) == judged(OUTAGE, now=NOW + TTL) == OUTAGE
    with pytest.raises(Unauthenticated, match=r"counts for 3600 s only.*new join file"):
        judged(OUTAGE, now=NOW + TTL + 1)


@pytest.mark.parametrize(
    ("why", "outages"),
    [
        ("nothing is on record", ()),
        ("it began after the SVID was to be renewed", (Outage(start=START + 181, end=NOW),)),
        ("it was over long before the SVID's end", (Outage(start=START, end=START + 1600),)),
        ("it came after the SVID's end", (Outage(start=START + 1801, end=NOW),)),
        ("between two there was time", (Outage(start=START, end=START + 600), Outage(start=START + 900, end=NOW))),
    ],
)
def test_an_svid_that_could_be_renewed_is_not_excused(why: str, outages: tuple[Outage, ...]) -> None:
    with pytest.raises(Unauthenticated, match=r"knows of no time without a replica.*new join file"):
        judged(*outages)


def test_what_was_replaced_before_the_outage_is_not_excused() -> None:
    """The host's SVID from before: it was renewed at its half-life, and ended in the outage as well."""
    with pytest.raises(Unauthenticated, match="knows of no time"):
        judged(OUTAGE, leaf=(LEAF[0] - 1700, LEAF[1] - 1700))


def test_two_outages_that_leave_no_time_to_notice_are_one() -> None:
    assert judged(Outage(start=START, end=START + 600), Outage(start=START + 700, end=NOW)) == OUTAGE


def test_who_has_not_noticed_yet_that_replicas_are_back_is_excused() -> None:
    """It asks once a minute, and its SVID may end just then."""
    back = Outage(start=START, end=START + 1750)
    assert judged(back, now=START + 1850) == back


def test_an_svid_that_lives_is_to_be_renewed_in_the_usual_way() -> None:
    with pytest.raises(Unauthenticated, match="has not expired, by the clock of this replica"):
        judged(OUTAGE, now=LEAF[1] - 1)


def test_outages_of_another_time_of_etcd_count_no_more() -> None:
    with pytest.raises(Unauthenticated, match="knows of no time"):
        judged(OUTAGE, epoch="after the restore")
    with pytest.raises(Unauthenticated, match="knows of no time"):
        excuse(*LEAF, None, "e", NOW + 30, TTL)


def test_lives_of_seconds_are_judged_as_those_of_hours() -> None:
    outage = Outage(start=NOW - 30, end=NOW)
    assert judged(outage, leaf=(NOW - 36, NOW - 20), ttl=15, now=NOW + 5) == outage
