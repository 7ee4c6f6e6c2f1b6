"""What the CA's life leaves in the log: the audit's events, and words before something ends."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import msgspec
import pytest
import trio.testing
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane import jwt_key_maker
from controlplane.ca.expiry import DAY, Life, Urgency, urgency
from controlplane.ca.rotation import Prepare
from controlplane.rotation import events
from controlplane.rotation.events import CaEvent
from controlplane.rotation.expiry import Watch
from controlplane.rotation.write import Actor
from schemas.records import HostAuthority
from tests.controlplane.rotation.world import World, made_world
from tests.spiffe.certificates import NOW
from tests.support.pki import Authority

ANNA = Actor("spiffe://mesh.example/operator/anna", "ipv4:10.0.0.9:1234")
SOURCES = (*Path(events.__file__).parent.glob("*.py"), Path(jwt_key_maker.__file__))


def test_the_events_are_these_and_each_is_used() -> None:
    assert sorted(event.value for event in CaEvent) == [
        "CA JWT key made",
        "CA certificate installed",
        "CA key activated",
        "CA key given up",
        "CA key prepared",
        "CA key removed",
        "CA key requested",
        "CA keys sealed anew",
        "CA leaf bound raised",
        "CA rotation ended",
        "CA rotation started",
        "CA rotation stopped",
    ]
    used = set(re.findall(r"CaEvent\.(\w+)", "".join(one.read_text() for one in SOURCES)))
    assert used == {event.name for event in CaEvent}


async def _steps(world: World) -> None:
    steps = world.steps(world.store())
    await steps.prepare(Prepare("mesh-issuing", with_root=True), ANNA)
    (prepared,) = (
        one.id for one in (await world.keys()).values() if one.role == "mesh-issuing" and one.state == "prepared"
    )
    await world.everybody_follows()
    await steps.activate(prepared, ANNA)
    retired = tuple(one.id for one in (await world.keys()).values() if one.state == "retired")
    await steps.remove(retired, ANNA, force=True)


async def test_every_step_says_who_from_where_what_and_at_which_revision(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="mesh.audit"):
        async with made_world() as world:
            await _steps(world)
    told = [record for record in caplog.records if record.name == "mesh.audit"]
    assert [record.getMessage() for record in told] == [CaEvent.PREPARED, CaEvent.ACTIVATED, CaEvent.REMOVED]
    for record in told:
        fields = record.fields  # type: ignore[attr-defined]  # of our own events
        assert (fields["caller"], fields["peer"]) == (ANNA.who, ANNA.where)
        assert fields["revision"] > 1
        assert fields["keys"]
    assert "may still be valid" in told[-1].fields["forced_past"]  # type: ignore[attr-defined]
    assert told[-1].levelno == logging.WARNING


def test_urgency_grows_and_never_goes_back() -> None:
    for whole, root in ((90 * DAY, False), (3650 * DAY, True), (2 * DAY, False)):
        life = Life("key", NOW, NOW + whole, root)
        levels = [urgency(life, NOW + whole * share / 1000) for share in range(1001)]
        assert levels == sorted(levels)
        assert levels[0] is Urgency.FINE
        assert set(levels) - {Urgency.WARNING} == set(Urgency) - {Urgency.WARNING}  # of two days the last is urgent


async def test_the_log_speaks_of_an_end_in_time_and_once_a_while(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with made_world() as world:
        watch = Watch((), lambda: world.now)
        seen = await world.look()

        def said(days: float) -> list[int]:
            caplog.clear()
            world.now = NOW + int(days * DAY)
            watch.look(seen)
            return [record.levelno for record in caplog.records if "mesh-issuing" in str(record.__dict__["fields"])]

        with caplog.at_level(logging.INFO):
            assert said(40) == []
            assert said(60) == [logging.INFO]
            assert said(60.5) == []
            assert said(75) == [logging.WARNING]
            assert said(88) == [logging.ERROR]
            assert said(88.01) == []
            assert said(88.1) == [logging.ERROR]
            assert said(90.5) == [logging.CRITICAL]


async def test_the_log_speaks_of_what_others_have_to_renew(caplog: pytest.LogCaptureFixture) -> None:
    async with made_world() as world:
        corp = HostAuthority(
            name="corp", x509_authorities=(Authority.create().certificate.public_bytes(Encoding.DER),), rules=(),
            changed=1, changed_by="x", serial=1,
        )  # fmt: skip
        broken = msgspec.structs.replace(corp, name="broken", x509_authorities=(b"none",))
        watch = Watch((), time.time, lambda: (broken, corp))
        with caplog.at_level(logging.INFO):
            watch.look(await world.look())
            assert "host authority corp" not in caplog.text
            watch.now = lambda: time.time() + 3650 * DAY
            watch.look(await world.look())
    said = [record.__dict__["fields"]["what"] for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "host authority corp" in said
    assert "host authority broken" not in said
