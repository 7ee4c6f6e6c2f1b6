"""What is asked: by the Service, by the sidecar's own settings, of which port."""

from __future__ import annotations

import msgspec

from dataplane.health.plan import Plan, plan_of
from dataplane.health.settings import HealthCheckSettings
from schemas.objects import Service
from schemas.objects.health import AppHealthCheck, HttpCheck
from tests.states.build import ORDERS, port, service, workload

PLAIN = service("orders", port("http", 80, target=8080), port("admin", 9901))


def checked(**fields: object) -> Service:
    check = msgspec.convert(fields, AppHealthCheck)
    return msgspec.structs.replace(PLAIN, spec=msgspec.structs.replace(PLAIN.spec, health_check=check))


def test_nothing_is_asked_where_nobody_says_what() -> None:
    assert plan_of(PLAIN, None, workload(ORDERS)) is None
    assert plan_of(None, None, workload(ORDERS)) is None


def test_the_service_says() -> None:
    asked = checked(
        type="HTTP", http={"path": "/ok"}, interval="1m", timeout="250ms", unhealthyThreshold=5, healthyThreshold=2
    )
    assert plan_of(asked, None, workload(ORDERS)) == Plan(
        "HTTP", "127.0.0.1", 8080, 60.0, 0.25, 5, 2, HttpCheck(path="/ok")
    )


def test_the_port_is_where_the_app_listens() -> None:
    def number(plan: Plan | str | None) -> int:
        assert isinstance(plan, Plan)
        return plan.port

    assert number(plan_of(checked(type="TCP"), None, workload(ORDERS))) == 8080
    assert number(plan_of(checked(type="TCP"), None, workload(ORDERS, http=7777))) == 7777
    assert number(plan_of(checked(type="TCP", port="admin"), None, workload(ORDERS))) == 9901
    assert number(plan_of(checked(type="TCP", port=1234), None, workload(ORDERS))) == 1234


def test_a_port_that_is_not_there_is_said_so() -> None:
    found = plan_of(checked(type="TCP", port="gone"), None, workload(ORDERS))
    assert isinstance(found, str)
    assert "'gone'" in found


def test_the_sidecars_own_settings_go_first() -> None:
    own = HealthCheckSettings(type="Command", command=("/bin/check", "-q"))
    found = plan_of(checked(type="HTTP"), own, workload(ORDERS))
    assert isinstance(found, Plan)
    assert (found.type, found.command, found.port) == ("Command", ("/bin/check", "-q"), 0)
