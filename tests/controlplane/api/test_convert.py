from __future__ import annotations

import grpc
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api import convert
from controlplane.domain.change import Change
from schemas import codec, errors
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, MeshError, Problem
from schemas.names import ObjectRef
from schemas.records import Endpoint
from tests.controlplane.domain.objects import service

ORDERS = service("orders")
KEY = pb.ObjectKey(kind="Service", namespace="shop", name="orders")


def problems_of(*changes: pb.Change) -> tuple[Problem, ...]:
    with pytest.raises(InvalidInput) as caught:
        convert.changes_from(pb.ApplyRequest(changes=changes))
    return caught.value.problems


def raw(change: dict[str, object]) -> bytes:
    plain = {**msgspec.msgpack.decode(codec.encode(ORDERS)), **change}
    return msgspec.msgpack.encode(plain)


def test_put_and_delete() -> None:
    request = pb.ApplyRequest(
        changes=[
            pb.Change(put=codec.encode(ORDERS), source="a.yaml:1", expected_revision=7),
            pb.Change(delete=KEY),
        ]
    )
    assert convert.changes_from(request) == [
        Change(ORDERS.ref, ORDERS, "a.yaml:1", 7),
        Change(ORDERS.ref, None, "change 2", 0),
    ]


def test_the_revision_in_the_metadata_is_expected() -> None:
    metadata = {"name": "orders", "namespace": "shop", "revision": 9}
    [change] = convert.changes_from(pb.ApplyRequest(changes=[pb.Change(put=raw({"metadata": metadata}))]))
    assert change.expected_revision == 9
    [problem] = problems_of(pb.Change(put=raw({"metadata": metadata}), expected_revision=8))
    assert problem.path == "$.metadata.revision"


def test_every_bad_change_is_told() -> None:
    problems = problems_of(
        pb.Change(put=b"\xc1", source="a.yaml:1"),
        pb.Change(put=raw({"kind": "Servise"}), source="a.yaml:2"),
        pb.Change(put=raw({"spec": {"ports": []}}), source="a.yaml:3"),
        pb.Change(put=raw({"fromTheFuture": 1}), source="a.yaml:4"),
        pb.Change(delete=pb.ObjectKey(kind="Service", namespace="a/b", name="x"), source="a.yaml:5"),
        pb.Change(source="a.yaml:6"),
        pb.Change(delete=KEY, expected_revision=-1, source="a.yaml:7"),
        pb.Change(put=raw({"metadata": {"name": "orders", 5: 6, b"x": 7}}), source="a.yaml:8"),
    )
    assert [problem.subject.partition(": ")[0] for problem in problems] == [f"a.yaml:{n}" for n in range(1, 9)]
    assert [problem.path for problem in problems][2:4] == ["$.spec.ports", "$.fromTheFuture"]


def test_an_object_above_the_limit() -> None:
    with pytest.raises(errors.InvalidInput, match="524288"):
        convert.changes_from(pb.ApplyRequest(changes=[pb.Change(put=bytes(600_000))]))


@given(st.binary(max_size=200))
def test_any_bytes_are_invalid_input(data: bytes) -> None:
    for function in (
        lambda: convert.object_from(data, "x"),
        lambda: convert.record_from(data, Endpoint, "x"),
    ):
        with pytest.raises(InvalidInput):
            function()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.binary(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["name", "ports", "port", "x"]) | st.integers(0, 3), inner, max_size=4)
        ),
        max_leaves=8,
    )
)
def test_any_shape_is_invalid_input(shape: object) -> None:
    with pytest.raises(InvalidInput):
        convert.object_from(raw({"spec": shape}), "x")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput(Problem("a", "b")), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.LimitExceeded(Problem("a", "b")), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.NotFound("x"), grpc.StatusCode.NOT_FOUND),
        (errors.Conflict("x"), grpc.StatusCode.ABORTED),
        (errors.PermissionDenied("x"), grpc.StatusCode.PERMISSION_DENIED),
        (errors.Unauthenticated("x"), grpc.StatusCode.UNAUTHENTICATED),
        (errors.Unavailable("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.Unavailable("x", outcome_unknown=True), grpc.StatusCode.UNKNOWN),
        (errors.Corrupt(Problem("a", "b")), grpc.StatusCode.DATA_LOSS),
        (MeshError("x"), grpc.StatusCode.INTERNAL),
    ],
)
def test_each_error_has_its_status(error: MeshError, code: grpc.StatusCode) -> None:
    abort = convert.abort_of(error)
    assert abort.code is code
    assert abort.message == str(error)


def test_problems_go_along_as_many_as_fit() -> None:
    problems = [Problem("s", "m" * 100, f"$.{number}", "r") for number in range(200)]
    abort = convert.abort_of(InvalidInput(*problems))
    [(key, value)] = abort.trailing
    assert key == "mesh-problems-bin"
    assert isinstance(value, bytes)
    assert len(value) <= 6 * 1024
    told = pb.ProblemList.FromString(value).problems
    assert len(told) > 40
    assert (told[0].subject, told[0].path, told[0].message, told[0].remedy) == ("s", "$.0", "m" * 100, "r")
    assert len(abort.message) < 3000


def test_references() -> None:
    assert convert.ref_from(KEY, "x") == ObjectRef("Service", "shop", "orders")
    assert convert.key_of(ObjectRef("Service", "shop", "orders")) == KEY
