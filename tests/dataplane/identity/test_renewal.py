"""When to renew: pure decisions, over any certificate, clock and history."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.identity.renewal import (
    JITTER,
    MAX_RETRY_SECONDS,
    MAX_WAIT_SECONDS,
    Attempts,
    Health,
    Validity,
    decide,
    health,
    renew_at,
    retry_delay,
    worse,
)
from schemas.errors import Overloaded, Unavailable

HOUR = Validity(0, 3600)
fractions = st.floats(0, 1)
moments = st.floats(-1e6, 1e6)
validities = st.builds(lambda start, length: Validity(start, start + length), moments, st.floats(1, 1e6))
attempts = st.builds(Attempts, st.integers(0, 100), moments)


@given(validities, fractions)
def test_renewal_is_at_half_life_give_or_take_the_jitter(validity: Validity, fraction: float) -> None:
    share = (renew_at(validity, fraction) - validity.not_before) / (validity.expires - validity.not_before)
    assert 0.5 - JITTER - 1e-6 <= share <= 0.5 + JITTER + 1e-6


@given(validities, attempts, moments, fractions)
def test_a_wait_is_never_negative_and_the_clock_is_read_again_soon(
    validity: Validity, tried: Attempts, now: float, fraction: float
) -> None:
    assert 0 <= decide(validity, tried, now, fraction).wait <= MAX_WAIT_SECONDS


@given(validities, st.integers(0, 100), moments, fractions)
def test_whatever_happened_a_certificate_past_half_life_is_renewed_within_the_longest_retry(
    validity: Validity, failures: int, now: float, fraction: float
) -> None:
    tried = Attempts(failures, now)
    later = max(now, renew_at(validity, 1.0)) + MAX_RETRY_SECONDS
    assert decide(validity, tried, later, fraction).renew


@given(validities, st.integers(1, 100), moments, fractions)
def test_a_clock_that_was_set_back_does_not_hold_the_retry(
    validity: Validity, failures: int, now: float, fraction: float
) -> None:
    tried = Attempts(failures, now + 10_000)
    if health(validity, now) in (Health.EXPIRED, Health.NOT_YET):
        assert decide(validity, tried, now, fraction).renew


@given(st.integers(1, 1000), fractions)
def test_retries_back_off_to_a_bound(failures: int, fraction: float) -> None:
    assert 0.5 <= retry_delay(failures, fraction) <= MAX_RETRY_SECONDS
    assert retry_delay(failures, fraction) <= retry_delay(failures + 1, fraction)


@given(validities, st.integers(1, 100), fractions, st.floats(0, 30))
def test_who_was_asked_to_come_later_does(validity: Validity, failures: int, fraction: float, asked: float) -> None:
    """Not before, not all at once, and within the bound of every retry."""
    now = validity.not_before
    tried = Attempts(failures - 1).failed(now, Overloaded("busy", retry_after=asked))
    delay = tried.delay(fraction)
    assert max(asked * (1 + fraction), retry_delay(failures, fraction)) == delay <= MAX_RETRY_SECONDS
    if delay > 0.001:  # below the resolution of such moments as floats
        validity = Validity(validity.not_before, validity.not_before + 3600)  # shorter lives are tried sooner
        assert not decide(validity, tried, now + delay * 0.99, fraction, hurry=now).renew
    assert Attempts(failures).failed(now, Unavailable("gone")).delay(fraction) == retry_delay(failures + 1, fraction)


def test_the_life_of_a_certificate_of_one_hour() -> None:
    seen = [(at, decide(HOUR, Attempts(), at, 0.5)) for at in (-1, 0, 1799, 1800, 2999, 3000, 3599, 3600)]
    assert [(at, one.health, one.renew) for at, one in seen] == [
        (-1, Health.NOT_YET, True),
        (0, Health.GOOD, False),
        (1799, Health.GOOD, False),
        (1800, Health.GOOD, True),
        (2999, Health.GOOD, True),
        (3000, Health.EXPIRING, True),
        (3599, Health.EXPIRING, True),
        (3600, Health.EXPIRED, True),
    ]


def test_each_worse_state_is_said_once() -> None:
    assert worse(Health.GOOD, Health.EXPIRING)
    assert not worse(Health.EXPIRING, Health.EXPIRING)
    assert worse(Health.EXPIRING, Health.EXPIRED)
    assert not worse(Health.EXPIRED, Health.GOOD)
