"""Each field of the kinds for traffic is asked for with real requests: in a table of these tests, or in another one."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from schemas.objects import AnyObject
from schemas.objects.common import Part
from schemas.objects.grpc_route import GRPCRouteSpec
from schemas.objects.http_route import HTTPRouteSpec
from schemas.objects.tcp_route import TCPRouteSpec
from tests.e2e import test_outside, test_retry_fields, test_route_fields, test_route_parents
from tests.e2e.fields import fields_of, said_in

_ENVOYS = Path(__file__).parents[1] / "dataplane" / "compile"
SPECS: dict[str, type[Part]] = {
    "HTTPRoute": HTTPRouteSpec,
    "GRPCRoute": GRPCRouteSpec,
    "TCPRoute": TCPRouteSpec,
}


def objects() -> Iterable[AnyObject]:
    """All that the tables put into the mesh."""
    for table in (test_route_fields.TABLE, test_retry_fields.TABLE, test_retry_fields.BY_HTTP):
        yield from table.routes()
    yield from test_route_parents.UNREACHABLE.routes()
    yield from test_route_parents.HOSTS
    yield from test_route_parents.CONSUMERS
    yield from test_route_parents.TO_ANOTHER_NAMESPACE
    yield from test_route_parents.TCP_ROUTES
    yield from test_route_parents.REFUSING
    yield from test_outside.objects("192.0.2.1")


def _below(path: str, *fields: str) -> set[str]:
    return {f"{path}.{field}" for field in fields}


_GATEWAY = "test_gateway_envoy.py"
_REFUSED = "../../routing/test_check.py::test_a_fault_has_the_path_of_its_field"
_NO_PARENT = "../../controlplane/domain/test_gateway_rules.py::test_routes_that_attach_nowhere"
_WORDS = ("path", "path.replaceFullPath", "path.replacePrefixMatch", "path.type=ReplaceFullPath",
          "path.type=ReplacePrefixMatch")  # fmt: skip

ELSEWHERE: dict[str, set[str]] = {
    # What a replica refuses reaches no request.
    _REFUSED: _below("HTTPRoute.rules.backendRefs.filters.urlRewrite", *_WORDS)
    | _below("GRPCRoute.rules.backendRefs.filters.urlRewrite", *_WORDS),
    _NO_PARENT: {"TCPRoute.parentRefs.kind=Gateway"},
    f"{_GATEWAY}::test_a_request_comes_in_by_the_gateways_own_identity": {"HTTPRoute.parentRefs.kind=Gateway"},
    f"{_GATEWAY}::test_grpc": {"GRPCRoute.parentRefs.kind=Gateway"},
}  # fmt: skip
"""A test, from the folder of those with real Envoys -> fields that it is about."""


def test_no_field_is_left_out() -> None:
    said = {path for one in objects() for path in said_in(type(one).__name__, one.spec)}
    named = set().union(*ELSEWHERE.values())
    demanded = {path for kind, spec in SPECS.items() for path in fields_of(kind, spec)}
    left_out, unknown = sorted(demanded - said - named), sorted(named - demanded)
    assert not left_out, "fields that no test asks for: add a row, or name the test"
    assert not unknown, "there are no such fields"


@pytest.mark.parametrize("test", ELSEWHERE)
def test_there_is_such_a_test(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((_ENVOYS / file).resolve().read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
