"""Reports in, connections to shut out; and what is said when they can't be shut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from envoy.service.accesslog.v3 import als_pb2

from dataplane.compile.inbound import listener_name
from dataplane.compile.open_streams import Connection
from dataplane.compile.resources import ROUTES, Resource, ResourceKey
from dataplane.cutting import Cutter
from schemas import codec
from schemas.errors import PermissionDenied
from schemas.records import OpenStreams
from tests.properties.sidecar import from_listings
from tests.states.build import KEYS, ORDERS, identity, policy, port, rule, service, who, workload

HTTP = port("http", 8080)
NAME = listener_name(HTTP)
OBJECTS = (service("orders", HTTP), policy("let-web", "ALLOW", rule(who("web"))))


def routes() -> Resource:
    stored = {KEYS.object(one.ref): codec.encode(one) for one in OBJECTS}
    return from_listings(workload(ORDERS), stored).envoy[ResourceKey(ROUTES, NAME)]


def report(**open_by: str) -> als_pb2.StreamAccessLogsMessage:
    """A stream of each caller, from a port of its own: ``web="4711"``."""
    message = als_pb2.StreamAccessLogsMessage()
    for name, number in open_by.items():
        entry = message.http_logs.log_entry.add()
        common = entry.common_properties
        common.downstream_local_address.socket_address.address = "192.0.2.1"
        common.downstream_direct_remote_address.socket_address.address = "192.0.2.2"
        common.downstream_direct_remote_address.socket_address.port_value = int(number)
        common.tls_properties.peer_certificate_properties.subject_alt_name.add(uri=identity(name))
        entry.request.request_headers.update({":method": "GET", ":path": "/"})
    return message


class Envoy:
    def __init__(self, *, refuses: bool = False) -> None:
        self.shut: list[int] = []
        self.refuses = refuses
        self.runs = True
        self.news = 0

    def check(self) -> bool:
        if self.refuses and self.runs:
            raise PermissionDenied("not allowed")
        return self.runs

    async def end(self, connections: Collection[Connection]) -> int:
        self.check()
        self.shut += sorted(one.remote[1] for one in connections)
        return len(connections)

    def told(self) -> None:
        self.news += 1


@asynccontextmanager
async def running(envoy: Envoy, given: Resource | None) -> AsyncIterator[Cutter]:
    cutter = Cutter(lambda name: given if name == NAME else None, envoy.end, envoy.check, envoy.told)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cutter.run)
        yield cutter
        nursery.cancel_scope.cancel()


async def test_who_is_denied_is_shut_and_nobody_else() -> None:
    envoy = Envoy()
    async with running(envoy, routes()) as cutter:
        cutter.take(NAME, report(web="1", mallory="2"))
        cutter.take(NAME, report(web="3", mallory="4"))
        await trio.testing.wait_all_tasks_blocked()
        cutter.take("inbound|gone", report(mallory="5"))  # its listener goes; there are no rules to judge by
        await trio.testing.wait_all_tasks_blocked()
    assert (envoy.shut, envoy.news) == ([2, 4], 0)


async def test_before_there_are_rules_nobody_is_judged() -> None:
    envoy = Envoy()
    async with running(envoy, None) as cutter:
        cutter.take(NAME, report(mallory="1"))
        await trio.testing.wait_all_tasks_blocked()
    assert envoy.shut == []


async def test_what_can_not_be_shut_is_a_problem_until_it_can(autojump_clock: trio.testing.MockClock) -> None:
    envoy = Envoy()
    async with running(envoy, routes()) as cutter:
        for ends in ("it can be shut", "it is gone"):
            envoy.refuses, envoy.news = True, 0
            for _ in range(2):
                cutter.take(NAME, report(mallory="1"))
                await trio.testing.wait_all_tasks_blocked()
            assert "not allowed" in (cutter.problem or "")
            assert cutter.open_streams(None) == OpenStreams(bound_ms=0, problem="not allowed")
            assert envoy.news == 1
            envoy.refuses = False
            if ends == "it can be shut":
                cutter.take(NAME, report(mallory="1"))
                await trio.testing.wait_all_tasks_blocked()
                assert envoy.shut == [1]
            else:
                await trio.sleep(10)
            assert cutter.problem is None
            assert envoy.news == 2


@pytest.mark.fault(24)
async def test_that_nothing_could_be_shut_is_known_before_anything_has_to_be(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What is told of an ack is not to wait for somebody who is denied."""
    envoy = Envoy(refuses=True)
    async with running(envoy, routes()) as cutter:
        assert cutter.open_streams(10.0) == OpenStreams(bound_ms=0, problem="not allowed")
        envoy.refuses = False
        await trio.sleep(10)
        assert cutter.open_streams(None) == OpenStreams(bound_ms=2000)
        assert cutter.open_streams(10.0) == OpenStreams(bound_ms=2000, passed_bound_ms=11_000)
        envoy.refuses = True
        await trio.sleep(10)
        assert cutter.open_streams(None).goes_on
        assert envoy.news == 2


async def test_while_no_envoy_runs_the_next_is_taken_for_one_like_the_last(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What it starts with must not rest upon something that nobody can end."""
    envoy = Envoy(refuses=True)
    async with running(envoy, routes()) as cutter:
        envoy.runs = False
        await trio.sleep(10)
        cutter.take(NAME, report(mallory="1"))
        await trio.testing.wait_all_tasks_blocked()
        assert cutter.open_streams(None).goes_on
        assert envoy.news == 0
        envoy.runs, envoy.refuses = True, False
        await trio.sleep(10)
        assert cutter.problem is None
