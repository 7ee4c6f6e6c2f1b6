"""Decisions about the Envoy process: adopt, restart, drain."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.envoy.lifecycle import (
    MAX_BACKOFF_SECONDS,
    STABLE_SECONDS,
    Activity,
    Adopt,
    Crashes,
    Drain,
    DrainPlan,
    PidRecord,
    Post,
    Replace,
    Seen,
    Start,
    Terminate,
    Verdict,
    Wanted,
    Watch,
    judge,
    next_step,
    parse_activity,
)

WANTED = Wanted("b1", "/bin/envoy", "/run/mesh/envoy.json")
RECORD = PidRecord(10, 500, "boot", "b1", "/bin/envoy")
SEEN = Seen(500, "boot", "/bin/envoy", ("/bin/envoy", "--config-path", "/run/mesh/envoy.json"))


@pytest.mark.parametrize(
    ("record", "seen", "verdict"),
    [
        (RECORD, SEEN, Adopt),
        (None, None, Start),
        (RECORD, None, Start),
        (RECORD, dataclasses.replace(SEEN, start_ticks=501), Start),
        (RECORD, dataclasses.replace(SEEN, boot_id="another"), Start),
        (RECORD, dataclasses.replace(SEEN, arguments=("/bin/envoy", "-c", "/run/other/envoy.json")), Start),
        (RECORD, dataclasses.replace(SEEN, executable="/bin/envoy (deleted)"), Replace),
        (dataclasses.replace(RECORD, bootstrap="b0"), SEEN, Replace),
    ],
)
def test_only_the_very_process_that_was_started_is_adopted(
    record: PidRecord | None, seen: Seen | None, verdict: type[Verdict]
) -> None:
    assert isinstance(judge(record, seen, WANTED), verdict)


def test_the_first_crash_is_mended_at_once_and_more_of_them_slower() -> None:
    crashes = Crashes()
    delays = []
    for _ in range(10):
        crashes = crashes.after(ran_for=1)
        delays.append(crashes.delay)
    assert delays == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]
    assert crashes.after(ran_for=STABLE_SECONDS).delay == 0


@given(st.integers(0, 10_000))
def test_a_restart_is_never_put_off_beyond_the_bound(count: int) -> None:
    assert 0 <= Crashes(count).delay <= MAX_BACKOFF_SECONDS


STATS = """\
http.admin.downstream_cx_active: 1
http.admin.downstream_rq_active: 1
http.inbound.downstream_cx_active: 3
http.inbound.downstream_rq_active: 2
http.outbound.downstream_cx_active: 1
http.outbound.downstream_rq_active: 0
listener.127.0.0.1_8080.downstream_cx_active: 3
listener.127.0.0.1_8080.worker_0.downstream_cx_active: 3
listener.127.0.0.1_15001.downstream_cx_active: 1
listener.127.0.0.1_5432.downstream_cx_active: 4
listener.admin.downstream_cx_active: 1
listener.admin.main_thread.downstream_cx_active: 1
"""


def test_activity_counts_requests_and_tcp_and_not_idle_http_nor_our_own_question() -> None:
    assert parse_activity(STATS) == Activity(requests=2, tcp_connections=4)
    assert parse_activity("") == Activity(0, 0)
    assert parse_activity("garbage\nhttp.x.downstream_rq_active: many\n").idle


def test_a_drain_first_asks_then_watches_then_terminates() -> None:
    plan = DrainPlan(settle=1, bound=10)
    drain = Drain()
    assert next_step(drain, plan) == Post("/healthcheck/fail")
    drain = drain.asked()
    assert next_step(drain, plan) == Post("/drain_listeners?graceful&skip_exit")
    drain = drain.asked()
    assert isinstance(next_step(drain, plan), Watch)
    assert isinstance(next_step(drain.saw(Activity(0, 0), 0.9), plan), Watch), "callers may still not know"
    assert isinstance(next_step(drain.saw(Activity(1, 0), 5), plan), Watch)
    assert isinstance(next_step(drain.saw(Activity(0, 1), 5), plan), Watch)
    assert isinstance(next_step(drain.saw(None, 5), plan), Watch), "no answer is not idle"
    assert isinstance(next_step(drain.saw(Activity(0, 0), 1), plan), Terminate)
    assert next_step(drain.saw(Activity(3, 0), 10), plan) == Terminate(
        "the drain bound of 10 s is over (3 requests left)"
    )


activities = st.none() | st.builds(Activity, st.integers(0, 5), st.integers(0, 5))


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100), activities)
def test_a_drain_always_ends_at_its_bound(settle: float, bound: float, elapsed: float, seen: Activity | None) -> None:
    step = next_step(Drain(posted=2).saw(seen, elapsed), DrainPlan(settle=settle, bound=bound))
    if elapsed >= bound:
        assert isinstance(step, Terminate)
    elif isinstance(step, Watch):
        assert 0 < step.seconds <= bound - elapsed
