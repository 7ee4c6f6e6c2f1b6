"""`meshadm proxy log-level`: whose level it is, what is asked for, and what the sidecar says to it."""

from __future__ import annotations

import json

import pytest

from schemas.api import mesh_pb2 as pb
from tests.controlplane.meshadm.fake_replica import Cli, FakeReplica
from tests.controlplane.meshadm.test_reading import sidecar

END = "2096-10-02T07:06:40Z"


def asked(fake: FakeReplica) -> pb.SetLogLevelRequest:
    (request,) = fake.seen(pb.SetLogLevelRequest)
    assert isinstance(request, pb.SetLogLevelRequest)
    return request


@pytest.mark.parametrize("name", ["shop/orders.orders-1", "orders.orders-1", "orders-1"])
async def test_a_level_for_ten_minutes(cli: Cli, fake: FakeReplica, name: str) -> None:
    fake.report(sidecar("orders-1"), sidecar("orders-2"))
    assert await cli.ok("proxy", "log-level", name, "debug") == f"shop/orders.orders-1 logs debug until {END}\n"
    request = asked(fake)
    assert (request.namespace, request.service, request.instance) == ("shop", "orders", "orders-1")
    assert (request.level, dict(request.components), request.seconds) == ("debug", {}, 600)


async def test_levels_of_loggers_as_json(cli: Cli, fake: FakeReplica) -> None:
    fake.report(sidecar("orders-1"))
    arguments = ("--component", "http=trace", "--component", "agent=debug", "--for", "1h", "-o", "json")
    assert json.loads(await cli.ok("proxy", "log-level", "orders-1", *arguments)) == {
        "sidecar": "shop/orders.orders-1",
        "level": None,
        "components": {"agent": "debug", "http": "trace"},
        "until": END,
        "revision": fake.revision,
    }
    assert (asked(fake).level, asked(fake).seconds) == ("", 3600)
    shown = await cli.ok("proxy", "log-level", "orders-1")
    assert shown == f"shop/orders.orders-1 logs agent=debug, http=trace until {END}\n"
    status = await cli.ok("status")
    assert f"shop/orders.orders-1 logs agent=debug, http=trace until {END}" in status
    (plain,) = json.loads(await cli.ok("status", "-o", "json"))["sidecars"]
    assert plain["logLevels"] == {"level": None, "components": {"agent": "debug", "http": "trace"}, "until": END}


async def test_back_to_the_settings(cli: Cli, fake: FakeReplica) -> None:
    fake.report(sidecar("orders-1"))
    assert "logs as its settings say" in await cli.ok("proxy", "log-level", "orders-1", "default")
    assert (asked(fake).level, dict(asked(fake).components)) == ("", {})


async def test_a_logger_that_there_is_not(cli: Cli, fake: FakeReplica) -> None:
    fake.report(sidecar("orders-1"))
    result = await cli("proxy", "log-level", "orders-1", "info", "--component", "htp=debug")
    assert result.exit_code == 2
    assert "logs info until" in result.stdout
    assert "has no logger htp" in result.stderr


async def test_a_sidecar_that_does_not_say_that_it_runs_it(cli: Cli, fake: FakeReplica) -> None:
    fake.report(sidecar("web-1", service="web"))
    result = await cli("proxy", "log-level", "web-1", "debug", "--timeout", "250ms")
    assert result.exit_code == 7
    assert f"revision {fake.revision} is written, and shop/web.web-1 has not said" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nobody", "debug"], 3, "no sidecar nobody is alive"),
        (["a", "debug"], 2, "may be any of shop/orders.a, shop/web.a"),
        (["orders-1", "loud"], 2, "'loud' is not one of"),
        (["orders-1", "--component", "http"], 2, "'http' is not LOGGER=LEVEL"),
        (["orders-1", "--component", "http=loud"], 2, "levels are trace, debug"),
    ],
)
async def test_what_is_asked_wrongly(cli: Cli, fake: FakeReplica, arguments: list[str], code: int, says: str) -> None:
    fake.report(sidecar("orders-1"), sidecar("a"), sidecar("a", service="web"))
    result = await cli("proxy", "log-level", *arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert not fake.seen(pb.SetLogLevelRequest)
