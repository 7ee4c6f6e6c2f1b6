"""Protobuf <-> our types, and our errors -> gRPC statuses. Pure."""

import math
from collections.abc import Sequence
from typing import TypeVar

import grpc

from controlplane.domain.change import Change
from controlplane.domain.plan import Action, Outcome
from schemas import checking, codec, errors
from schemas.api import mesh_pb2 as pb
from schemas.errors import Corrupt, InvalidInput, Problem
from schemas.names import ObjectRef, check_name
from schemas.objects import KINDS, AnyObject
from schemas.records import Record
from trio_grpc.errors import RpcAbort

RecordType = TypeVar("RecordType", bound=Record)

PROBLEMS_METADATA = "mesh-problems-bin"
# Milliseconds until a retry may do better: gRPC's own name for it (gRFC A6), heeded by its clients' retry policies.
RETRY_AFTER_METADATA = "grpc-retry-pushback-ms"
# gRPC peers take 8 KiB of metadata by default; what does not fit stands in the text all the same.
_MAX_METADATA_BYTES = 6 * 1024
_MAX_MESSAGE_CHARACTERS = 2 * 1024

_ACTIONS = {
    Action.UNCHANGED: pb.Outcome.UNCHANGED,
    Action.CREATED: pb.Outcome.CREATED,
    Action.UPDATED: pb.Outcome.UPDATED,
    Action.DELETED: pb.Outcome.DELETED,
}


# -- from protobuf


def changes_from(request: pb.ApplyRequest) -> list[Change]:
    """Raises InvalidInput with every problem of every change."""
    changes: list[Change] = []
    problems: list[Problem] = []
    for number, message in enumerate(request.changes, 1):
        try:
            changes.append(_change_from(message, message.source or f"change {number}"))
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(*problems)
    return changes


def _change_from(message: pb.Change, source: str) -> Change:
    if message.expected_revision < 0:
        raise InvalidInput(Problem(source, f"expected revision {message.expected_revision}", remedy="use 0 or more"))
    match message.WhichOneof("what"):
        case "put":
            value = object_from(message.put, source)
            expected = message.expected_revision
            within = value.metadata.revision
            if expected and within and expected != within:
                text = f"two expected revisions, {within} in the object and {expected} beside it"
                raise InvalidInput(Problem(f"{source}: {value.ref}", text, "$.metadata.revision", "give one"))
            return Change(value.ref, value, source, expected or within)
        case "delete":
            return Change(ref_from(message.delete, source), None, source, message.expected_revision)
        case _:
            raise InvalidInput(Problem(source, "neither a put nor a delete"))


def revision_from(revision: int) -> int:
    """Of the past; 0: now. Raises InvalidInput."""
    if revision < 0:
        raise InvalidInput(Problem("request", f"revision {revision}", "revision", "give one that there was, or 0"))
    return revision


def object_from(data: bytes, source: str) -> AnyObject:
    """An object that a client sent: nothing in it may be unknown, or it would mean less than its writer thinks."""
    if len(data) > codec.MAX_VALUE_BYTES:
        text = f"{len(data)} bytes, and one object may have {codec.MAX_VALUE_BYTES}"
        raise errors.LimitExceeded(Problem(source, text, remedy="shorten it, or split it into several objects"))
    try:
        plain = codec.decode_plain(data, source)
    except Corrupt as error:
        raise InvalidInput(Problem(source, "not MessagePack", remedy="send the canonical encoding")) from error
    kind = plain.get("kind") if isinstance(plain, dict) else None
    if not isinstance(kind, str):
        raise InvalidInput(Problem(source, "not an object: it has no kind"))
    type_ = KINDS[kind_from(kind, source)]
    try:
        problems = [
            Problem(f"{source}: {_label(plain, kind)}", fault.message, checking.json_path(fault.path), fault.remedy)
            for fault in checking.faults(plain, type_)
        ]
    except TypeError as error:  # a key that is no text has no path to be named by
        raise InvalidInput(Problem(f"{source}: {_label(plain, kind)}", "a map key that is not text")) from error
    if problems:
        raise InvalidInput(*problems)
    try:
        return codec.decode_object(data, kind, source)
    except Corrupt as error:
        raise InvalidInput(Problem(source, error.problem.message, error.problem.path)) from error


def _label(plain: dict[str, object], kind: str) -> str:
    metadata = plain.get("metadata")
    return (
        f"{kind} {metadata.get('namespace', 'default')}/{metadata.get('name')}" if isinstance(metadata, dict) else kind
    )


def ref_from(key: pb.ObjectKey, source: str) -> ObjectRef:
    """Raises InvalidInput."""
    return ObjectRef(kind_from(key.kind, source), check_name(key.namespace, source), check_name(key.name, source))


def kind_from(kind: str, source: str) -> str:
    if kind not in KINDS:
        raise InvalidInput(Problem(source, f"unknown kind {kind!r}", remedy=f"known are: {', '.join(KINDS)}"))
    return kind


def record_from(data: bytes, type_: type[RecordType], what: str) -> RecordType:
    """A record that a sidecar sent. Raises InvalidInput. Fields that a newer sidecar sends are passed over."""
    try:
        return codec.decode(data, type_, what)
    except Corrupt as error:
        raise InvalidInput(Problem(what, error.problem.message, error.problem.path)) from error


# -- to protobuf


def key_of(ref: ObjectRef) -> pb.ObjectKey:
    return pb.ObjectKey(kind=ref.kind, namespace=ref.namespace, name=ref.name)


def outcomes_of(outcomes: Sequence[Outcome]) -> list[pb.Outcome]:
    return [pb.Outcome(key=key_of(outcome.ref), action=_ACTIONS[outcome.action]) for outcome in outcomes]


def abort_of(error: errors.MeshError) -> RpcAbort:
    """The gRPC status of an error; problems go along in the trailing metadata `mesh-problems-bin`."""
    text = str(error)
    if len(text) > _MAX_MESSAGE_CHARACTERS:
        text = text[:_MAX_MESSAGE_CHARACTERS] + " …"
    return RpcAbort(_status_of(error), text, _trailing_of(error))


def _trailing_of(error: errors.MeshError) -> list[tuple[str, str | bytes]]:
    if isinstance(error, InvalidInput):
        return [(PROBLEMS_METADATA, _problem_list(error.problems))]
    if isinstance(error, errors.Overloaded):
        return [(RETRY_AFTER_METADATA, str(math.ceil(error.retry_after * 1000)))]
    return []


def _status_of(error: errors.MeshError) -> grpc.StatusCode:
    match error:
        case errors.InvalidInput():
            return grpc.StatusCode.INVALID_ARGUMENT
        case errors.NotFound():
            return grpc.StatusCode.NOT_FOUND
        case errors.Conflict():
            return grpc.StatusCode.ABORTED
        case errors.PermissionDenied():
            return grpc.StatusCode.PERMISSION_DENIED
        case errors.Unauthenticated():
            return grpc.StatusCode.UNAUTHENTICATED
        case errors.Overloaded():
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case errors.Unavailable():
            # UNAVAILABLE invites a blind retry: wrong where the write may have happened.
            return grpc.StatusCode.UNKNOWN if error.outcome_unknown else grpc.StatusCode.UNAVAILABLE
        case errors.Corrupt():
            return grpc.StatusCode.DATA_LOSS
        case _:
            return grpc.StatusCode.INTERNAL


def _problem_list(problems: Sequence[Problem]) -> bytes:
    message = pb.ProblemList()
    for item in map(problem_item, problems):
        if message.ByteSize() + item.ByteSize() + 8 > _MAX_METADATA_BYTES:
            break
        message.problems.append(item)
    return message.SerializeToString()


def problem_item(problem: Problem) -> pb.ProblemItem:
    return pb.ProblemItem(subject=problem.subject, path=problem.path, message=problem.message, remedy=problem.remedy)
