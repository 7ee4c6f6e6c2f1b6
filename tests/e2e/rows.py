"""A table of rules: each with what it does to requests, for one change set that holds them all.

A row is an async function of `Ask`; its name is that of the path (``/f/<name>``) and the gRPC service
(``fields.<name>``) that its rules are for. It is asked by each of its ways.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from schemas.objects import AnyObject, Metadata
from schemas.objects.grpc_route import GRPCRoute, GRPCRouteSpec
from schemas.objects.http_route import HTTPRoute, HTTPRouteSpec
from schemas.objects.route_parts import MAX_RULES
from tests.e2e.app import GRPC, HTTP, HTTP2
from tests.e2e.asking import CALLS, PORTS, WEB_WAYS, Ask, Way, ways_of
from tests.e2e.mesh import E2eMesh

Rule = Mapping[str, Any]
"""As people write it. What is left out: `matches` is the row's own, `backendRefs` is api, and a backend's `port` the
one that is asked. `match` is added to the row's own."""

Check = Callable[[Ask], Awaitable[None]]

_SIDE_BY_SIDE = 12  # more, and what is measured is how busy this machine is
EVERY: tuple[Way, ...] = (*WEB_WAYS, *CALLS)
API: Rule = {"name": "api"}
ONE: Rule = {"name": "api", "matchLabels": {"instance": "api-1"}}
TWO: Rule = {"name": "api", "matchLabels": {"instance": "api-2"}}
REPORTS: Rule = {"name": "reports", "namespace": "back-office"}


@dataclass(frozen=True)
class Row:
    check: Check
    ways: Sequence[Way]
    rules: Sequence[Rule]

    @property
    def name(self) -> str:
        return self.check.__name__


@dataclass
class Table:
    by_http: bool = False
    """Whether what is said of gRPC calls is said in HTTPRoutes too."""
    rows: list[Row] = field(default_factory=list)

    def row(self, ways: Sequence[Way], *rules: Rule) -> Callable[[Check], Check]:
        def add(check: Check) -> Check:
            self.rows.append(Row(check, ways, rules))
            return check

        return add

    def routes(self) -> Iterator[AnyObject]:
        """For each port of api, as few as there can be."""
        for port in (HTTP, HTTP2, GRPC):
            asked = [row for row in self.rows if any(PORTS[way] == port for way in row.ways)]
            is_grpc = port == GRPC and not self.by_http
            rules = [_whole(row.name, rule, is_grpc, port) for row in asked for rule in row.rules]
            for number, some in enumerate(_batches(rules, MAX_RULES)):
                yield route(f"fields-{port}-{number}", port, some, is_grpc=is_grpc)


def _batches(rules: Sequence[Rule], size: int) -> Iterator[Sequence[Rule]]:
    for start in range(0, len(rules), size):
        yield rules[start : start + size]


def route(
    name: str, port: int, rules: Sequence[Rule], *, namespace: str = "shop", is_grpc: bool | None = None, **spec: object
) -> AnyObject:
    """For a port of api. is_grpc: as the port is where None. `spec`: what else it says, as people write it."""
    parent = {"kind": "Service", "name": "api", "namespace": "shop", "port": port}
    whole = {"parentRefs": [parent], "rules": [_with_port(rule, port) for rule in rules], **spec}
    metadata = Metadata(name=name, namespace=namespace)
    if port == GRPC if is_grpc is None else is_grpc:
        return GRPCRoute(api_version="mesh/v1", metadata=metadata, spec=msgspec.convert(whole, GRPCRouteSpec))
    return HTTPRoute(api_version="mesh/v1", metadata=metadata, spec=msgspec.convert(whole, HTTPRouteSpec))


def _whole(name: str, rule: Rule, is_grpc: bool, port: int) -> Rule:
    path = f"/fields.{name}" if port == GRPC else f"/f/{name}"
    own = {"method": {"service": f"fields.{name}"}} if is_grpc else {"path": {"value": path}}
    rest = {key: value for key, value in rule.items() if key != "match"}
    redirects = any(one["type"] == "RequestRedirect" for one in rule.get("filters", ()))
    backends = {} if redirects else {"backendRefs": [API]}
    return {"matches": [{**own, **rule.get("match", {})}], **backends, **rest}


def _with_port(value: Any, port: int) -> Any:
    """Where a service is named as a backend."""
    if isinstance(value, Mapping):
        of_backend = {}
        if value.get("name") in ("api", "reports", "partner"):
            of_backend = {"port": port + 10_000 if value["name"] == "partner" else port}
        return {**of_backend, **{key: _with_port(one, port) for key, one in value.items()}}
    if isinstance(value, list | tuple):
        return [_with_port(one, port) for one in value]
    return value


async def all_hold(mesh: E2eMesh, table: Table) -> None:
    """Each row by each of its ways, some side by side: most of the time is waiting. Where `table` is in force.

    Raises ExceptionGroup with all that is wrong.
    """
    wrong: list[Exception] = []
    limiter = trio.CapacityLimiter(_SIDE_BY_SIDE)

    async def check(row: Row, way: Way) -> None:
        async with limiter:
            try:
                await row.check(Ask(ways, way, row.name))
            except Exception as error:
                error.add_note(f"row {row.name} by {way}")
                wrong.append(error)

    async with ways_of(mesh) as ways, trio.open_nursery() as nursery:
        for row in table.rows:
            for way in row.ways:
                nursery.start_soon(check, row, way)
    if wrong:
        raise ExceptionGroup("rows that do not hold", wrong)
